"""Fits a model, measures it beside its baselines, and reports the results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.measure import measure, permutation_importances
from delorean.evaluation.metrics import Metrics
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split, SplitParts
from delorean.scoring import Scorer
from delorean.scoring.conversion import trees_of
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble
from delorean.scoring.trees_onnx import trees_to_onnx
from delorean.step_timer import StepTimer
from delorean.training.agreement import check_missing_values, refuse_disagreement
from delorean.training.baselines import popularity_scores, shuffled_sample
from delorean.training.learners import FittedModel, Learner
from delorean.training.learners.choice import as_learner, as_model
from delorean.training.missing_values import MissingValueHandling, refuse_missing_values
from delorean.training.onnx_model import to_onnx
from delorean.training.report import TrainingReport

_CHECKED_ROWS = 20_000


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model, its portable forms, and the report.

    fitted: the library's own object
    onnx: the same model, for any runtime of ONNX
    names: the features, in the order of the model's input
    trees: the same model as plain arrays, None where it does not consist of trees
    """

    fitted: Any
    onnx: bytes
    names: tuple[str, ...]
    report: TrainingReport
    trees: TreeEnsemble | None = None

    @cached_property
    def scorer(self) -> Scorer:
        """What is measured, packaged and served: the trees, or the ONNX model where there are none."""
        return OnnxScorer(self.onnx) if self.trees is None else TreeScorer(self.trees)

    @property
    def model(self) -> FittedModel:
        """The fitted model, as every learner's is used."""
        return as_model(self.fitted)

    def reference(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score rows (rows, features) with the learner's own library."""
        return self.model.reference(features)


def train(data: RankingData | SplitParts, split: Split | None = None, model: Any = None, seed: int = 0) -> TrainedModel:
    """Fit a model on the training part, and measure it and its baselines on the other parts.

    data: ranking data to split, or its parts, as `read_parts` reads them without a copy
    split: by default by time, 70 : 15 : 15
    model: a learner, such as `LightGBM("lambdarank")`, or a scikit-learn estimator with fit and predict_proba,
        decision_function or predict that ONNX can express, which learns whether a label is above 0; by default
        scikit-learn's gradient boosted trees
    seed: of the learner, the shuffled labels and the importances; an estimator has its own

    Raises TrainingError for data that no model can be fitted on, PackageError for a model whose scores change when it
    is written as ONNX, or that accepts no missing values where there are some.
    """
    timer, split, learner = StepTimer(), split or Split(), as_learner(model)
    learner.check()
    with timer.step("split"):
        parts = data if isinstance(data, SplitParts) else split.divide(data)
    with timer.step("fit"):
        fitted = learner.fit(parts.train, parts.validation, seed)
    return measured(learner.name, fitted, parts, split, seed, timer, learner)


def measured(
    name: str, fitted: FittedModel, parts: SplitParts, split: Split, seed: int, timer: StepTimer, learner: Learner
) -> TrainedModel:
    """Convert a fitted model, and measure it and its baselines.

    name: of the model in the report; learner: fits the baseline of shuffled labels
    """
    width = parts.train.features.shape[1]
    with timer.step("convert"):
        scorer, onnx, trees = _converted(fitted, width)
        missing_values = _check_conversion(scorer, fitted, parts)
    with timer.step("fit_shuffled"):
        samples = [shuffled_sample(part, seed + i) for i, part in enumerate((parts.train, parts.validation))]
        shuffled_scorer, _, _ = _converted(learner.fit(samples[0], samples[1], seed), width)
    with timer.step("measure"):
        metrics: dict[str, dict[str, Metrics]] = {"model": {}, "popularity": {}, "shuffled": {}}
        for part_name, part in (("validation", parts.validation), ("test", parts.test)):
            metrics["model"][part_name] = measure(scorer.score(part.features), part)
            metrics["popularity"][part_name] = measure(popularity_scores(parts.train, part), part)
            metrics["shuffled"][part_name] = measure(shuffled_scorer.score(part.features), part)
    with timer.step("importances"):
        importances = permutation_importances(scorer, parts.validation, seed)
    report = TrainingReport(
        model=name,
        split={**msgspec.to_builtins(split), "shares": list(split.shares)},  # a list, as it is read from JSON
        sizes=parts.sizes,
        metrics=metrics,
        importances=importances,
        seconds=timer.rounded(),
        missing_values=missing_values,
        rounds=fitted.rounds,
    )
    return TrainedModel(fitted.fitted, onnx, parts.train.names, report, trees)


def _converted(fitted: FittedModel, features: int) -> tuple[Scorer, bytes, TreeEnsemble | None]:
    """Return what serves a model, its ONNX form, and its trees. Raises TrainingError for one that cannot be written."""
    trees = trees_of(fitted.fitted)
    if trees is None:
        onnx = to_onnx(fitted.fitted, features)
        return OnnxScorer(onnx), onnx, None
    return TreeScorer(trees), trees_to_onnx(trees), trees


def _check_conversion(scorer: Scorer, fitted: FittedModel, parts: SplitParts) -> MissingValueHandling:
    """Return how the model handles missing values. Raises PackageError where what is served scores differently."""
    missing_values = check_missing_values(scorer, fitted.fitted, parts.validation.features)
    if missing_values == "refused":
        for part in (parts.validation, parts.test):
            refuse_missing_values(fitted.name, part.names, part.features)
    refuse_disagreement(scorer, fitted.fitted, parts.validation.features[:_CHECKED_ROWS])
    return missing_values

"""Fits a model, measures it beside its baselines, and reports the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.evaluation import end_of, evaluate
from delorean.evaluation.measure import measure
from delorean.evaluation.metrics import Metrics
from delorean.evaluation.settings import EvaluationSettings
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
from delorean.training.learning_curve import learning_curve
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


@dataclass(frozen=True)
class Measuring:
    """How a model is measured, beside the split.

    seed: of the shuffled labels
    settings: what is measured; by default see `EvaluationSettings`
    encoders: name → its features, whose importances are measured together
    """

    seed: int = 0
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    encoders: Mapping[str, Sequence[str]] | None = None


def train(
    data: RankingData | SplitParts,
    split: Split | None = None,
    model: Any = None,
    seed: int = 0,
    *,
    evaluation: EvaluationSettings | None = None,
    encoders: Mapping[str, Sequence[str]] | None = None,
) -> TrainedModel:
    """Fit a model on the training part, and measure it and its baselines on the other parts.

    data: ranking data to split, or its parts, as `read_parts` reads them without a copy
    split: by default by time, 70 : 15 : 15
    model: a learner, such as `LightGBM("lambdarank")`, or a scikit-learn estimator with fit and predict_proba,
        decision_function or predict that ONNX can express, which learns whether a label is above 0; by default
        scikit-learn's gradient boosted trees
    seed: of the learner and the shuffled labels; an estimator has its own
    evaluation, encoders: how it is measured, see `Measuring`

    Raises TrainingError for data that no model can be fitted on, PackageError for a model whose scores change when it
    is written as ONNX, or that accepts no missing values where there are some.
    """
    timer, split, learner = StepTimer(), split or Split(), as_learner(model)
    learner.check()
    with timer.step("split"):
        parts = data if isinstance(data, SplitParts) else split.divide(data)
    with timer.step("fit"):
        fitted = learner.fit(parts.train, parts.validation, seed)
    measuring = Measuring(seed, evaluation or EvaluationSettings(), encoders)
    return measured(learner, fitted, parts, split, measuring, timer)


def measured(
    learner: Learner, fitted: FittedModel, parts: SplitParts, split: Split, measuring: Measuring, timer: StepTimer
) -> TrainedModel:
    """Convert a fitted model, and measure it and its baselines.

    learner: that fitted it; fits the baseline of shuffled labels, and the models of a learning curve
    """
    width, seed = parts.train.features.shape[1], measuring.seed
    with timer.step("convert"):
        scorer, onnx, trees = _converted(fitted, width)
        missing_values = _check_conversion(scorer, fitted, parts)
    with timer.step("fit_shuffled"):
        samples = [shuffled_sample(part, seed + i) for i, part in enumerate((parts.train, parts.validation))]
        shuffled = _scorer_of(learner.fit(samples[0], samples[1], seed), width)
    with timer.step("measure"):
        metrics: dict[str, dict[str, Metrics]] = {"model": {}, "popularity": {}, "shuffled": {}}
        popularity = {}
        for name, part in (("validation", parts.validation), ("test", parts.test)):
            popularity[name] = popularity_scores(parts.train, part)
            metrics["model"][name] = measure(scorer.score(part.features), part)
            metrics["popularity"][name] = measure(popularity[name], part)
            metrics["shuffled"][name] = measure(shuffled.score(part.features), part)
    with timer.step("learning_curve"):

        def fit(part: RankingData) -> Scorer:
            return _scorer_of(learner.fit(part, parts.validation, seed), width)

        curve = learning_curve(fit, parts.train, parts.validation, measuring.settings)
    with timer.step("evaluate"):
        compared = {
            name: (part, popularity[name]) for name, part in (("validation", parts.validation), ("test", parts.test))
        }
        since = end_of(parts.train) if split.by_time else None
        evaluated = evaluate(
            scorer, fitted.contributions, compared, measuring.settings, measuring.encoders, since, curve
        )
    report = TrainingReport(
        model=learner.name,
        split={**msgspec.to_builtins(split), "shares": list(split.shares)},  # a list, as it is read from JSON
        sizes=parts.sizes,
        metrics=metrics,
        importances={each.name: each.ndcg_lost.value or 0.0 for each in evaluated.features},
        seconds=timer.rounded(),
        missing_values=missing_values,
        rounds=fitted.rounds,
        evaluation=evaluated,
    )
    return TrainedModel(fitted.fitted, onnx, parts.train.names, report, trees)


def _scorer_of(fitted: FittedModel, features: int) -> Scorer:
    return _converted(fitted, features)[0]


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

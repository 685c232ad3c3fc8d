"""Fits a model, validates it against its controls, and says all of it in one report."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

from delorean.training.baselines import popularity_scores, with_shuffled_labels
from delorean.training.metrics import Metrics, ranking_metrics
from delorean.training.missing_values import IMPUTE, refuse_missing_values
from delorean.training.onnx_model import check_missing_values, refuse_disagreement, refuse_unsupported, to_onnx
from delorean.training.onnx_scorer import OnnxScorer
from delorean.training.ranking_data import RankingData
from delorean.training.report import TrainingReport
from delorean.training.split import Parts, Split
from schemas.errors import TrainingError

_CHECKED_ROWS = 20_000
_IMPORTANCE_CONTEXTS = 1_000


@dataclass(frozen=True)
class TrainedModel:
    """A fitted scikit-learn model, its ONNX form, which is the model from here on, and the report.

    names: the features, in the order of the model's input
    """

    fitted: Any
    onnx: bytes
    names: tuple[str, ...]
    report: TrainingReport


def default_model(seed: int = 0) -> HistGradientBoostingClassifier:
    """Gradient boosted trees over binned features: fits NaN as it is, stops when our validation part stops gaining."""
    return HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.1, early_stopping=True, n_iter_no_change=10, random_state=seed
    )


def train(data: RankingData, split: Split | None = None, model: Any = None, seed: int = 0) -> TrainedModel:
    """Fit a model on the training part, item by item, and measure it and its controls on the others.

    split: by default by time, 70 : 15 : 15
    model: anything of scikit-learn's with fit and predict_proba, decision_function or predict, that ONNX can express;
        by default `default_model`. It learns whether a label is above 0
    seed: of the default model, the shuffled labels and the importances

    Raises TrainingError for data no model can be fitted on, PackageError for a model that changes when written as ONNX,
    or that takes no missing values where there are some.
    """
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    parts = (split or Split()).divide(data)
    clock.lap("split")
    model = default_model(seed) if model is None else model
    refuse_unsupported(model)
    fitted = _fit(model, parts.train, parts.validation)
    clock.lap("fit")
    onnx = to_onnx(fitted, len(data.names))
    scorer = OnnxScorer(onnx)
    missing = check_missing_values(scorer, fitted, parts.validation.features)
    if missing == "refused":
        for part in (parts.validation, parts.test):
            refuse_missing_values(type(model).__name__, data.names, part.features)
    refuse_disagreement(scorer, fitted, parts.validation.features[:_CHECKED_ROWS])
    clock.lap("convert")
    shuffled = [with_shuffled_labels(part, seed + i) for i, part in enumerate((parts.train, parts.validation))]
    control = OnnxScorer(to_onnx(_fit(model, *shuffled), len(data.names)))
    clock.lap("fit_shuffled")
    measured = _measure(parts, scorer, control)
    clock.lap("measure")
    importances = _importances(scorer, parts.validation, seed)
    clock.lap("importances")
    report = TrainingReport(
        type(model).__name__, (split or Split()).to_json(), parts.sizes, measured, importances, seconds, missing
    )
    return TrainedModel(fitted, onnx, data.names, report)


def _fit(model: Any, part: RankingData, validation: RankingData) -> Any:
    if not part.positive.any() or part.positive.all():
        raise TrainingError.because(
            f"all {len(part.labels)} labels of the training part are of one class", "give label data with both"
        )
    fitted = clone(model)
    extra: dict[str, Any] = {}
    if getattr(model, "early_stopping", False) is True and "X_val" in inspect.signature(fitted.fit).parameters:
        extra = {"X_val": validation.features, "y_val": validation.positive.astype(np.int64)}
    if part.item_weights is not None:
        prefix = f"{model.steps[-1][0]}__" if isinstance(model, Pipeline) else ""
        extra[f"{prefix}sample_weight"] = part.item_weights
        if "X_val" in extra:
            extra["sample_weight_val"] = validation.item_weights
    # A feature that is never known teaches nothing, and histogram boosting cannot bin it: a constant stands for it.
    never_known = np.isnan(part.features).all(axis=0)
    features = np.where(never_known, np.float32(0), part.features) if never_known.any() else part.features
    try:
        return fitted.fit(features, part.positive.astype(np.int64), **extra)
    except (ValueError, TypeError) as error:
        hint = IMPUTE if "NaN" in str(error) else None
        problem = f"{type(model).__name__} cannot be fitted: {str(error).splitlines()[0]}"
        raise TrainingError.because(problem, hint) from error


def _measure(parts: Parts, scorer: OnnxScorer, control: OnnxScorer) -> dict[str, dict[str, Metrics]]:
    measured: dict[str, dict[str, Metrics]] = {"model": {}, "popularity": {}, "shuffled": {}}
    for name, part in (("validation", parts.validation), ("test", parts.test)):
        for who, scores in (
            ("model", scorer.score(part.features)),
            ("popularity", popularity_scores(parts.train, part)),
            ("shuffled", control.score(part.features)),
        ):
            measured[who][name] = ranking_metrics(scores, part.labels, part.offsets)
    return measured


def _importances(scorer: OnnxScorer, part: RankingData, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    with_positives = np.unique(np.repeat(np.arange(len(part)), np.diff(part.offsets))[part.positive])
    chosen = random.permutation(with_positives)[:_IMPORTANCE_CONTEXTS]
    sample = part.take(np.sort(chosen))

    def ndcg(features: NDArray[np.float32]) -> float:
        return ranking_metrics(scorer.score(features), sample.labels, sample.offsets).ndcg_at_10

    whole = ndcg(sample.features)
    lost = {}
    for column, name in enumerate(part.names):
        shuffled = sample.features.copy()
        shuffled[:, column] = random.permutation(shuffled[:, column])
        lost[name] = whole - ndcg(shuffled)
    return lost


class _Clock:
    """Writes down how long each step took."""

    def __init__(self, into: dict[str, float]) -> None:
        self._into, self._last = into, time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self._into[step], self._last = round(now - self._last, 3), now

"""Fits a model, measures it beside its baselines, and reports the results."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

from delorean.evaluation.evaluation import end_of, evaluate
from delorean.evaluation.measure import measure
from delorean.evaluation.metrics import Metrics
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split, SplitParts
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.step_timer import StepTimer
from delorean.training.baselines import popularity_scores, with_shuffled_labels
from delorean.training.learning_curve import learning_curve
from delorean.training.missing_values import IMPUTE, MissingValueHandling, refuse_missing_values
from delorean.training.onnx_model import check_missing_values, refuse_disagreement, refuse_unsupported, to_onnx
from delorean.training.report import TrainingReport
from schemas.errors import TrainingError

_CHECKED_ROWS = 20_000


@dataclass(frozen=True)
class TrainedModel:
    """A fitted scikit-learn model, its ONNX form, which is the model that is measured and served, and the report.

    names: the features, in the order of the model's input
    """

    fitted: Any
    onnx: bytes
    names: tuple[str, ...]
    report: TrainingReport


def default_model(seed: int = 0) -> HistGradientBoostingClassifier:
    """Build gradient boosted trees, which accept NaN and stop when they no longer improve on the validation part."""
    return HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.1, early_stopping=True, n_iter_no_change=10, random_state=seed
    )


def train(
    data: RankingData,
    split: Split | None = None,
    model: Any = None,
    seed: int = 0,
    *,
    evaluation: EvaluationSettings | None = None,
    encoders: Mapping[str, Sequence[str]] | None = None,
) -> TrainedModel:
    """Fit a model on the training part, item by item, and measure it and its baselines on the other parts.

    split: by default by time, 70 : 15 : 15
    model: a scikit-learn estimator with fit and predict_proba, decision_function or predict that ONNX can express; by
        default `default_model`. It learns whether a label is above 0
    seed: of the default model and the shuffled labels
    evaluation: how it is measured; by default see `EvaluationSettings`
    encoders: name → its features, whose importances are measured together

    Raises TrainingError for data that no model can be fitted on, PackageError for a model whose scores change when it
    is written as ONNX, or that accepts no missing values where there are some.
    """
    timer, split, settings = StepTimer(), split or Split(), evaluation or EvaluationSettings()
    with timer.step("split"):
        parts = split.divide(data)
    model = default_model(seed) if model is None else model
    with timer.step("fit"):
        refuse_unsupported(model)
        fitted = fit(model, parts.train, parts.validation)
    with timer.step("convert"):
        onnx = to_onnx(fitted, len(data.names))
        scorer = OnnxScorer(onnx)
        missing_values = _check_conversion(scorer, fitted, parts)
    with timer.step("fit_shuffled"):
        shuffled = [with_shuffled_labels(part, seed + i) for i, part in enumerate((parts.train, parts.validation))]
        shuffled_scorer = OnnxScorer(to_onnx(fit(model, *shuffled), len(data.names)))
    with timer.step("measure"):
        metrics: dict[str, dict[str, Metrics]] = {"model": {}, "popularity": {}, "shuffled": {}}
        popularity = {}
        for name, part in (("validation", parts.validation), ("test", parts.test)):
            metrics["model"][name] = measure(scorer.score(part.features), part)
            popularity[name] = popularity_scores(parts.train, part)
            metrics["popularity"][name] = measure(popularity[name], part)
            metrics["shuffled"][name] = measure(shuffled_scorer.score(part.features), part)
    with timer.step("learning_curve"):
        curve = learning_curve(
            lambda part: OnnxScorer(to_onnx(fit(model, part, parts.validation), len(data.names))),
            parts.train,
            parts.validation,
            settings,
        )
    with timer.step("evaluate"):
        measured = {
            name: (part, popularity[name]) for name, part in (("validation", parts.validation), ("test", parts.test))
        }
        since = end_of(parts.train) if split.by_time else None
        evaluated = evaluate(scorer, fitted, measured, settings, encoders, since, curve)
    report = TrainingReport(
        model=type(model).__name__,
        split={**msgspec.to_builtins(split), "shares": list(split.shares)},  # a list, as it is read from JSON
        sizes=parts.sizes,
        metrics=metrics,
        importances={each.name: each.ndcg_lost.value or 0.0 for each in evaluated.features},
        seconds=timer.rounded(),
        missing_values=missing_values,
        evaluation=evaluated,
    )
    return TrainedModel(fitted, onnx, data.names, report)


def fit(model: Any, part: RankingData, validation: RankingData) -> Any:
    """Fit a copy of an estimator on a part. Raises TrainingError for data or parameters that it cannot be fitted with."""
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
    # A feature that is missing everywhere teaches nothing, and histogram boosting cannot bin it: use a constant.
    always_missing = np.isnan(part.features).all(axis=0)
    features = np.where(always_missing, np.float32(0), part.features) if always_missing.any() else part.features
    try:
        return fitted.fit(features, part.positive.astype(np.int64), **extra)
    except (ValueError, TypeError) as error:
        hint = IMPUTE if "NaN" in str(error) else None
        problem = f"{type(model).__name__} cannot be fitted: {str(error).splitlines()[0]}"
        raise TrainingError.because(problem, hint) from error


def _check_conversion(scorer: OnnxScorer, fitted: Any, parts: SplitParts) -> MissingValueHandling:
    """Return how the model handles missing values. Raises PackageError where its ONNX form scores differently."""
    missing_values = check_missing_values(scorer, fitted, parts.validation.features)
    if missing_values == "refused":
        for part in (parts.validation, parts.test):
            refuse_missing_values(type(fitted).__name__, part.names, part.features)
    refuse_disagreement(scorer, fitted, parts.validation.features[:_CHECKED_ROWS])
    return missing_values

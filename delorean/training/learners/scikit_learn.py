"""Estimators of scikit-learn, and pipelines of them, that ONNX can express."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

from delorean.ranking_data.ranking_data import RankingData
from delorean.training.learners import OnRound
from delorean.training.missing_values import IMPUTE, MissingValueHandling, takes_missing_values
from delorean.training.onnx_model import refuse_unsupported, sklearn_scores
from schemas.errors import TrainingError


def default_model(seed: int = 0) -> HistGradientBoostingClassifier:
    """Build gradient boosted trees, which accept NaN and stop when they no longer improve on the validation part."""
    return HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.1, early_stopping=True, n_iter_no_change=10, random_state=seed
    )


@dataclass(frozen=True)
class ScikitLearn:
    """Fit an estimator to whether a label is above 0.

    estimator: with fit and predict_proba, decision_function or predict; None: gradient boosted trees
    """

    estimator: Any = None

    @property
    def name(self) -> str:
        """The estimator's class."""
        return type(self._estimator(0)).__name__

    def check(self) -> None:
        """Raise TrainingError for an estimator that ONNX cannot express."""
        refuse_unsupported(self._estimator(0))

    def fit(
        self,
        train: RankingData,
        validation: RankingData,
        seed: int,
        on_round: OnRound | None = None,
        start: Any = None,
    ) -> ScikitLearnModel:
        """Fit the estimator; see `Learner.fit`. One that was passed has its own seed, and none reports rounds."""
        del on_round
        if start is not None:
            raise TrainingError.because(f"{self.name} cannot continue a model", 'choose learner = "lightgbm"')
        if not train.positive.any() or train.positive.all():
            raise TrainingError.because(
                f"all {len(train.labels)} labels of the training part are of one class", "give label data with both"
            )
        model = self._estimator(seed)
        fitted = clone(model)
        extra = _fit_arguments(fitted, train, validation)
        # A feature that is missing everywhere teaches nothing, and histogram boosting cannot bin it: use a constant.
        always_missing = np.isnan(train.features).all(axis=0)
        features = np.where(always_missing, np.float32(0), train.features) if always_missing.any() else train.features
        try:
            return ScikitLearnModel(fitted.fit(features, train.positive.astype(np.int64), **extra))
        except (ValueError, TypeError) as error:
            hint = IMPUTE if "NaN" in str(error) else None
            problem = f"{type(model).__name__} cannot be fitted: {str(error).splitlines()[0]}"
            raise TrainingError.because(problem, hint) from error

    def _estimator(self, seed: int) -> Any:
        return default_model(seed) if self.estimator is None else self.estimator


def _fit_arguments(estimator: Any, train: RankingData, validation: RankingData) -> dict[str, Any]:
    """Return the weights, and the validation part for an estimator that stops by one."""
    extra: dict[str, Any] = {}
    if getattr(estimator, "early_stopping", False) is True and "X_val" in inspect.signature(estimator.fit).parameters:
        extra = {"X_val": validation.features, "y_val": validation.positive.astype(np.int64)}
    if train.item_weights is not None:
        prefix = f"{estimator.steps[-1][0]}__" if isinstance(estimator, Pipeline) else ""
        extra[f"{prefix}sample_weight"] = train.item_weights
        if "X_val" in extra:
            extra["sample_weight_val"] = validation.item_weights
    return extra


@dataclass(frozen=True)
class ScikitLearnModel:
    """A fitted estimator."""

    fitted: Any

    @property
    def name(self) -> str:
        """The estimator's class."""
        return type(self.fitted).__name__

    @property
    def rounds(self) -> int | None:
        """Number of boosting rounds, where the estimator has some."""
        rounds = getattr(self.fitted, "n_iter_", None)
        return int(rounds) if isinstance(rounds, int | np.integer) else None

    def reference(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score rows; see `FittedModel.reference`."""
        return sklearn_scores(self.fitted, features)

    def contributions(self, features: NDArray[np.float32]) -> None:
        """scikit-learn has no contributions."""
        del features

    def missing_values(self, features: int) -> MissingValueHandling:
        """Return how the estimator handles missing values."""
        return "used" if takes_missing_values(self.fitted, features) else "refused"

"""Chooses a learner by its name or by what was passed, and finds the module of a fitted model."""

from __future__ import annotations

from typing import Any, Literal, get_args

from delorean.training.learners import FittedModel, Learner
from schemas.errors import TrainingError

LearnerName = Literal["scikit-learn", "lightgbm", "xgboost"]
LEARNERS: tuple[str, ...] = get_args(LearnerName)


def as_learner(model: Any) -> Learner:
    """Return a learner for a learner, an estimator of scikit-learn, or None: the default.

    Raises TrainingError for an estimator of another library, which names the learner to use.
    """
    if hasattr(model, "check") and hasattr(model, "fit") and not hasattr(model, "get_params"):
        learner: Learner = model
        return learner
    library = _library(model)
    if library in ("lightgbm", "xgboost"):
        learner_class = {"lightgbm": "LightGBM", "xgboost": "XGBoost"}[library]
        raise TrainingError.because(
            f"{type(model).__name__} is an estimator of {library}, expected a learner",
            f"pass delorean.{learner_class}(objective, parameters)",
        )
    from delorean.training.learners.scikit_learn import ScikitLearn

    return ScikitLearn(model)


def as_model(fitted: Any) -> FittedModel:
    """Return the `FittedModel` of a library's fitted object."""
    if _library(fitted) == "lightgbm":
        from delorean.training.learners.lightgbm import LightGBMModel

        return LightGBMModel(fitted)
    if _library(fitted) == "xgboost":
        from delorean.training.learners.xgboost import XGBoostModel

        return XGBoostModel(fitted)
    from delorean.training.learners.scikit_learn import ScikitLearnModel

    return ScikitLearnModel(fitted)


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]

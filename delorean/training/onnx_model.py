"""Fitted scikit-learn models as ONNX, with the scores they had."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skl2onnx import convert_sklearn
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from delorean.training.onnx_scorer import OnnxScorer, first_line
from schemas.errors import PackageError, TrainingError

_TOLERANCE = 1e-5


def to_onnx(model: Any, features: int) -> bytes:  # scikit-learn's models share no typed interface
    """Convert a fitted scikit-learn model, or a pipeline of them.

    Raises TrainingError for a model that ONNX cannot express.
    """
    trees = {
        HistGradientBoostingClassifier: calculate_linear_classifier_output_shapes,
        HistGradientBoostingRegressor: calculate_linear_regressor_output_shapes,
    }
    try:
        converted = convert_sklearn(
            model,
            name="model",
            initial_types=[("features", FloatTensorType([None, features]))],
            options={id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None,
            custom_conversion_functions=dict.fromkeys(trees, _convert_trees),
            custom_shape_calculators=trees,
        )
    except Exception as error:  # skl2onnx raises whatever its converters meet
        raise TrainingError.because(
            f"{type(model).__name__} cannot be written as ONNX: {first_line(error)}",
            "use a scikit-learn model that skl2onnx supports",
        ) from error
    data: bytes = converted.SerializeToString(deterministic=True)
    return data


def sklearn_scores(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Score with the fitted model itself: the positives' probability, else its decision function, else predictions."""
    if hasattr(model, "predict_proba"):
        scores = model.predict_proba(features)[:, 1]
    elif hasattr(model, "decision_function"):
        scores = model.decision_function(features)
    else:
        scores = model.predict(features)
    return np.asarray(scores, dtype=np.float64)


def refuse_disagreement(scorer: OnnxScorer, model: Any, features: NDArray[np.float32]) -> None:
    """Raise PackageError unless ONNX and scikit-learn give every row the same score, within float32's accuracy."""
    ours, theirs = scorer.score(features).astype(np.float64), sklearn_scores(model, features)
    wrong = ~(np.abs(ours - theirs) <= _TOLERANCE * (1 + np.abs(theirs)))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise PackageError.because(
            f"the ONNX model disagrees with {type(model).__name__} in {int(wrong.sum())} of {len(wrong)} rows: "
            f"{ours[row]:.7g} against {theirs[row]:.7g} in row {row}",
            "package a model that ONNX expresses exactly",
        )


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """Convert histogram gradient boosting so that every float32 takes the same branch as in scikit-learn.

    A threshold is a double between two features' values; rounded to the nearest float32, as skl2onnx does, it can
    become the upper of them and send it the other way. Rounded down, it sends every float32 as before.
    """
    fitted = operator.raw_operator
    exact = copy.copy(fitted)
    exact._predictors = copy.deepcopy(fitted._predictors)
    for predictor in (tree for trees in exact._predictors for tree in trees):
        threshold = predictor.nodes["num_threshold"]
        single = threshold.astype(np.float32)
        lower = np.nextafter(single, np.float32(-np.inf))
        predictor.nodes["num_threshold"] = np.where(single > threshold, lower, single)
    operator.raw_operator = exact
    get_converter("Sklearn" + type(fitted).__name__)(scope, operator, _IntegerAttributes(container))
    operator.raw_operator = fitted


class _IntegerAttributes:
    """Writes truth values as integers: skl2onnx 1.20 gives onnx 1.23 booleans where the standard wants integers."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *args: Any, **attributes: Any) -> Any:
        fixed = {
            name: [int(v) if isinstance(v, bool | np.bool_) else v for v in value] if isinstance(value, list) else value
            for name, value in attributes.items()
        }
        return self._container.add_node(*args, **fixed)

"""Converts fitted scikit-learn models to ONNX so that they score as before."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper
from skl2onnx import convert_sklearn, get_model_alias
from skl2onnx.common._registration import get_converter, get_shape_calculator
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.base import is_classifier, is_regressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, NuSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from delorean.scoring.onnx_scorer import first_line
from schemas.errors import TrainingError

_BOOSTED = {
    HistGradientBoostingClassifier: calculate_linear_classifier_output_shapes,
    HistGradientBoostingRegressor: calculate_linear_regressor_output_shapes,
}
_TREES = (
    *(DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor),
    *(RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor),
)


def to_onnx(model: Any, features: int) -> bytes:  # scikit-learn's models have no common typed interface
    """Convert a fitted scikit-learn model, or a pipeline of them.

    Raises TrainingError for a model that cannot be written as ONNX.
    """
    try:
        try:
            # Scores as a matrix, not as a list of dictionaries.
            converted = _convert(model, features, {id(model): {"zipmap": False}} if is_classifier(model) else None)
        except NameError:  # its converter has no such option and needs none
            converted = _convert(model, features, None)
    except Exception as error:  # skl2onnx raises whatever its converters meet
        raise _not_expressible(model, first_line(error)) from error
    if isinstance(_last_step(model), SVC | NuSVC) and not hasattr(model, "predict_proba"):
        _negate_scores(converted.graph)
    data: bytes = converted.SerializeToString(deterministic=True)
    return data


def refuse_unsupported(model: Any) -> None:
    """Raise TrainingError for a model that skl2onnx does not support or that has no score; it need not be fitted."""
    remaining = [model]
    while remaining:
        step = remaining.pop()
        if isinstance(step, Pipeline):
            remaining += [inner for _, inner in step.steps]
            continue
        try:
            get_model_alias(type(step))
        except RuntimeError as error:
            raise _not_expressible(step, "skl2onnx does not support it") from error
    if not (is_classifier(model) or is_regressor(model) or hasattr(model, "predict")):
        raise _not_expressible(model, "it has none of predict_proba, decision_function and predict")


def sklearn_scores(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Score with the fitted model itself: the positives' probability, else its decision function, else predictions."""
    if hasattr(model, "predict_proba"):
        scores = model.predict_proba(features)[:, 1]
    elif hasattr(model, "decision_function"):
        scores = model.decision_function(features)
    else:
        scores = model.predict(features)
    return np.asarray(scores, dtype=np.float64)


def _not_expressible(model: Any, reason: str) -> TrainingError:
    return TrainingError.because(
        f"{type(model).__name__} cannot be written as ONNX: {reason}", "use a scikit-learn model that skl2onnx supports"
    )


def _convert(model: Any, features: int, options: Mapping[int, Any] | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about attributes that skl2onnx reads, not the caller
        return convert_sklearn(
            model,
            name="model",
            initial_types=[("features", FloatTensorType([None, features]))],
            options=options,
            custom_conversion_functions={
                **dict.fromkeys(_BOOSTED, _convert_boosted_trees),
                **dict.fromkeys(_TREES, _convert_trees),
            },
            custom_shape_calculators={
                **_BOOSTED,
                **{kind: get_shape_calculator("Sklearn" + kind.__name__) for kind in _TREES},
            },
        )


def _last_step(model: Any) -> Any:
    return model.steps[-1][1] if isinstance(model, Pipeline) else model


def _negate_scores(graph: Any) -> None:
    """Negate the scores: for support vector machines skl2onnx writes the decision for the first class."""
    scores = graph.output[-1]
    graph.node.append(helper.make_node("Neg", [scores.name], ["decision"]))
    scores.name = "decision"


def _convert_boosted_trees(scope: Any, operator: Any, container: Any) -> None:
    """Convert histogram gradient boosting so that every float32 takes the same branch as in scikit-learn.

    A threshold is a double between two feature values. Rounded to the nearest float32, as skl2onnx does, it can become
    the upper value, which then takes the other branch. Rounded down, it changes no float32's branch.
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


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """Convert trees and forests with the branch that missing values take in scikit-learn, which skl2onnx omits."""
    fitted = operator.raw_operator
    trees = [tree.tree_.__getstate__()["nodes"] for tree in getattr(fitted, "estimators_", [fitted])]
    left = [nodes["missing_go_to_left"] for nodes in trees]
    get_converter("Sklearn" + type(fitted).__name__)(scope, operator, _MissingValueBranches(container, left))


class _MissingValueBranches:
    """Adds to each branch whether a missing value goes left. left: tree → node → whether."""

    def __init__(self, container: Any, left: Sequence[NDArray[np.uint8]]) -> None:
        self._container, self._left = container, left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *args: Any, **attributes: Any) -> Any:
        if "nodes_treeids" in attributes:
            nodes = zip(
                attributes["nodes_treeids"], attributes["nodes_nodeids"], attributes["nodes_modes"], strict=True
            )
            attributes["nodes_missing_value_tracks_true"] = [
                int(mode != "LEAF" and self._left[tree][node]) for tree, node, mode in nodes
            ]
        return self._container.add_node(*args, **attributes)


class _IntegerAttributes:
    """Writes booleans as integers: skl2onnx 1.20 passes onnx 1.23 booleans where the standard requires integers."""

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

"""Fitted scikit-learn models as ONNX: data that scores, and that runs no code of its own when it is loaded."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from skl2onnx import convert_sklearn
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from schemas.errors import PackageError, TrainingError

# Rows scored in one call. Matrix products take other paths for other row counts, and those round differently: with
# one shape for every call, a row's score does not depend on how many are scored beside it.
_BLOCK = 64
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
_TOLERANCE = 1e-5


class OnnxScorer:
    """Scores rows of features with an ONNX model; the same row gets the same bits in any company.

    data: a model with one float input (rows, features); its last output holds the scores: (rows, 2) probabilities of
        the classes, of which the second counts, or one number a row

    Raises PackageError for a model that is broken, or that would read other files or run operators not of ONNX itself.
    """

    def __init__(self, data: bytes) -> None:
        _refuse_reaching_out(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one order of summing
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class
            raise PackageError.because(f"onnxruntime cannot load the model: {_first_line(error)}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 2:
            raise PackageError.because("the ONNX model's input is not one float matrix (rows, features)")
        if outputs[-1].type != "tensor(float)":
            raise PackageError.because(f"the ONNX model's last output is {outputs[-1].type}, expected float scores")
        self._input, self._output = inputs[0].name, outputs[-1].name
        self.features = int(inputs[0].shape[1])

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where unknown
        """
        if features.ndim != 2 or features.shape[1] != self.features or features.dtype != np.float32:
            raise PackageError.because(
                f"features are {features.dtype} {features.shape}, expected float32 (rows, {self.features})"
            )
        scores = np.empty(len(features), dtype=np.float32)
        block = np.zeros((_BLOCK, self.features), dtype=np.float32)
        for start in range(0, len(features), _BLOCK):
            rows = features[start : start + _BLOCK]
            block[: len(rows)] = rows
            block[len(rows) :] = 0
            answer = np.asarray(self._session.run([self._output], {self._input: block})[0])
            column = answer[:, 1] if answer.ndim == 2 and answer.shape[1] == 2 else answer.reshape(_BLOCK, -1)[:, 0]
            scores[start : start + len(rows)] = column[: len(rows)]
        return scores


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
            f"{type(model).__name__} cannot be written as ONNX: {_first_line(error)}",
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


def _refuse_reaching_out(data: bytes) -> None:
    """An ONNX file can name other files as its weights, and operators of libraries: neither is ever wanted here."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors differ by its implementation
        raise PackageError.because(f"the model is not ONNX: {_first_line(error)}") from error
    for graph in _graphs(model.graph):
        for tensor in [*graph.initializer, *(s.values for s in graph.sparse_initializer)]:
            _refuse_external(tensor)
        for node in graph.node:
            if node.domain not in _DOMAINS:
                raise PackageError.because(f"the ONNX model uses operators of '{node.domain}', expected ONNX's own")
            for attribute in node.attribute:
                for tensor in [attribute.t, *attribute.tensors]:
                    _refuse_external(tensor)
    if model.functions:
        raise PackageError.because("the ONNX model defines functions of its own, expected plain operators")


def _graphs(graph: Any) -> list[Any]:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    inner = [g for a in attributes for g in [*([a.g] if a.HasField("g") else []), *a.graphs]]
    return [graph, *(found for g in inner for found in _graphs(g))]


def _refuse_external(tensor: Any) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise PackageError.because(f"the ONNX model reads '{tensor.name}' from another file, expected it inside")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

"""ONNX models that score: data, which runs no code of its own when it is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from schemas.errors import PackageError

# Rows scored in one call. Matrix products take other paths for other row counts, and those round differently: with
# one shape for every call, a row's score does not depend on how many are scored beside it.
_BLOCK = 64
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}

# `import delorean` has set ORT_DISABLE_TELEMETRY; this is for a process that imported onnxruntime before.
onnxruntime.disable_telemetry_events()


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
            raise PackageError.because(f"onnxruntime cannot load the model: {first_line(error)}") from error
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


def first_line(error: Exception) -> str:
    """Give what an error says in short: drivers say much."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _refuse_reaching_out(data: bytes) -> None:
    """An ONNX file can name other files as its weights, and operators of libraries: neither is ever wanted here."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors differ by its implementation
        raise PackageError.because(f"the model is not ONNX: {first_line(error)}") from error
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

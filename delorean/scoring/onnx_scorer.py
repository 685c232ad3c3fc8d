"""Scores features with an ONNX model. A model is data: loading it executes no code from it."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from delorean.scoring.onnx_rules import check_model
from schemas.errors import PackageError

# Rows scored in one call. Matrix products take different code paths for different row counts, which round differently;
# with one shape for every call, a row's score does not depend on how many rows are scored with it.
_BLOCK = 64

# `import delorean` sets ORT_DISABLE_TELEMETRY; this covers a process that imported onnxruntime before it.
onnxruntime.disable_telemetry_events()


class OnnxScorer:
    """Scores rows of features with an ONNX model; a row's score has the same bits whichever rows are scored with it.

    data: a model with one float input (rows, features); its last output holds the scores: (rows, 2) probabilities of
        the two classes, of which the second is the score, or one number per row

    Raises PackageError for a model that is broken, reads other files, or uses operators that are not permitted.
    """

    def __init__(self, data: bytes) -> None:
        check_model(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # so that sums have one order
        options.log_severity_level = 4
        # onnxruntime's own format is not covered by `check_model`.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class
            raise PackageError.because(f"onnxruntime cannot load the model: {first_line(error)}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 2:
            raise PackageError.because("the input of the ONNX model is not one float matrix (rows, features)")
        if outputs[-1].type != "tensor(float)":
            raise PackageError.because(f"the ONNX model's last output is {outputs[-1].type}, expected float scores")
        self._input, self._output, width = inputs[0].name, outputs[-1].name, inputs[0].shape[1]
        if not isinstance(width, int) or width < 1:
            raise PackageError.because(f"the input of the ONNX model has {width!r} features, expected 1 or more")
        self.features = width

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where missing
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
            scores[start : start + len(rows)] = self._score_block(block)[: len(rows)]
        return scores

    def _score_block(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            output = np.asarray(self._session.run([self._output], {self._input: block})[0])
        except Exception as error:  # onnxruntime's errors share no base class
            raise PackageError.because(f"the ONNX model cannot score: {first_line(error)}") from error
        if output.shape == (_BLOCK, 2):
            column: NDArray[np.float32] = output[:, 1]
            return column
        if output.shape in ((_BLOCK,), (_BLOCK, 1)):
            return output.reshape(_BLOCK)
        raise PackageError.because(
            f"the ONNX model scores {_BLOCK} rows as {output.shape}, expected one number or two probabilities per row"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters: drivers' messages are long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

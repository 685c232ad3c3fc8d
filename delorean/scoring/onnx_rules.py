"""Checks what an ONNX file contains before it is loaded: only operators that learned models need, and its own data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from schemas.errors import PackageError

_ML = "ai.onnx.ml"
_DOMAINS = {"", "ai.onnx", _ML}
_MOST_NODES = 100_000
# Operators that `trees_onnx` and skl2onnx write, and similar ones that enlarge nothing.
# Excluded are Loop and If, and operators that repeat or generate data (Expand, Tile, Resize, Range, Pad, random ones).
_OPERATORS = (
    "Abs Add And ArgMax ArgMin Cast CastLike Ceil Clip Concat Constant ConstantOfShape CumSum Div Einsum Elu "
    "Equal Erf Exp Flatten Floor Gather GatherElements Gemm Greater GreaterOrEqual HardSigmoid Identity IsInf IsNaN "
    "LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mod Mul Neg Not Or Pow Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
    "Reshape Round Scan Shape Sigmoid Sign Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh TopK Transpose "
    "Unsqueeze Where Xor"
)
_ML_OPERATORS = (
    "ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor "
    "Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier "
    "TreeEnsembleRegressor ZipMap"
)
_BY_DOMAIN = {domain: frozenset((_ML_OPERATORS if domain == _ML else _OPERATORS).split()) for domain in _DOMAINS}
# Operator → which of its inputs determine the size of its output.
_SIZES = {
    "ConstantOfShape": (0,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}


def check_model(data: bytes) -> None:
    """Raise PackageError unless a file is an ONNX model that reads no other file and uses only permitted operators.

    This does not bound the time and memory that it takes, but they then depend only on the shape of its input.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # which errors protobuf raises depends on its implementation
        raise PackageError.because(f"the model is not ONNX: {str(error)[:200] or type(error).__name__}") from error
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto):
            _refuse_external(message)
    if model.functions:
        raise PackageError.because("the ONNX model defines its own functions, expected plain operators")
    _check_operators(model)
    for graph in _graphs(model):
        _refuse_sizes_from_values(graph)


def _messages(root: Any) -> Iterator[Any]:
    """Yield a protobuf message and all messages in it, at any depth."""
    remaining = [root]
    while remaining:
        message = remaining.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                remaining += [value] if hasattr(value, "ListFields") else list(value)


def _graphs(model: Any) -> Iterator[Any]:
    return (message for message in _messages(model) if isinstance(message, onnx.GraphProto))


def _refuse_external(tensor: Any) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise PackageError.because(f"the ONNX model reads '{tensor.name}' from another file, expected all data inside")


def _check_operators(model: Any) -> None:
    nodes = 0
    for node in (message for message in _messages(model) if isinstance(message, onnx.NodeProto)):
        nodes += 1
        if node.domain not in _DOMAINS:
            raise PackageError.because(f"the ONNX model uses operators of '{node.domain}', expected ONNX's own")
        if node.op_type not in _BY_DOMAIN[node.domain]:
            raise PackageError.because(
                f"the ONNX model uses the operator '{node.op_type}', which no learner's model needs",
                "package a model that delorean train produced",
            )
    if nodes > _MOST_NODES:
        raise PackageError.because(f"the ONNX model has {nodes} operators, expected at most {_MOST_NODES}")


def _refuse_sizes_from_values(graph: Any) -> None:
    """Reject tensors whose size depends on a feature's value: a trial would not bound their memory."""
    fixed = {each.name for each in graph.initializer} | {""}  # an omitted input has no name
    for node in graph.node:
        sizes = [node.input[i] for i in _SIZES.get(node.op_type, ()) if i < len(node.input)]
        if not fixed.issuperset(sizes):
            raise PackageError.because(f"the ONNX model computes the output size of '{node.op_type}' from features")
        if node.op_type == "Shape" or (node.op_type != "Scan" and fixed.issuperset(node.input)):
            fixed.update(node.output)

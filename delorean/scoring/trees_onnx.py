"""Writes trees as ONNX so that every row reaches the same leaves, and sums have the same bits in onnxruntime."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from delorean.scoring.trees import ZERO, TreeEnsemble

_LESS_OR_EQUAL, _EQUAL, _MEMBER = 0, 4, 6  # modes of a node in the standard's TreeEnsemble
_OPSETS = (("", 21), ("ai.onnx.ml", 5))
_IR_VERSION = 10


def trees_to_onnx(trees: TreeEnsemble) -> bytes:
    """Write trees as an ONNX model with one input (rows, features) float32 and one output (rows, 1) float32.

    It uses the operator TreeEnsemble of ai.onnx.ml 5: in double, or in float32 where the sum is one.
    """
    graph = _Graph()
    columns = _add_columns(graph, trees)
    kind, dtype = (1, np.float32) if trees.single else (11, np.float64)  # float, double
    inputs = graph.add("Concat", *columns.names, axis=1) if len(columns.names) > 1 else columns.names[0]
    inputs = graph.add("Cast", inputs, to=kind)
    score = graph.add("TreeEnsemble", inputs, domain="ai.onnx.ml", **_attributes(trees, columns.of_node, dtype))
    if trees.divisor != 1:
        score = graph.add("Div", score, graph.constant(np.array([trees.divisor], dtype)))
    score = graph.add("Cast", score, to=11)
    if trees.scale != 1:
        score = graph.add("Mul", score, graph.constant(np.array([trees.scale])))
    if trees.link != "identity":
        score = graph.add({"sigmoid": "Sigmoid", "exp": "Exp"}[trees.link], score)
    graph.add("Cast", score, to=1, output="score")
    return graph.serialise(trees.features)


class _Graph:
    """Collects nodes and constants of a graph."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def serialise(self, features: int) -> bytes:
        """Return the model's bytes; the same trees give the same bytes."""
        x = helper.make_tensor_value_info("features", 1, [None, features])
        y = helper.make_tensor_value_info("score", 1, [None, 1])
        graph = helper.make_graph(self._nodes, "model", [x], [y], self._constants)
        imports = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
        model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="delorean")
        data: bytes = model.SerializeToString(deterministic=True)
        return data


class _Columns:
    """The columns that the trees read, each a part of a matrix: names of the parts, and each node's column."""

    def __init__(self, nodes: int) -> None:
        self.names: list[str] = []
        self.of_node = np.zeros(nodes, np.int64)
        self._width = 0

    def append(self, name: str, features: NDArray[Any], chosen: NDArray[np.bool_], feature: Any) -> None:
        """Append a part with these features; the chosen nodes read it."""
        self.names.append(name)
        self.of_node[chosen] = self._width + np.searchsorted(features, feature[chosen])
        self._width += len(features)


def _add_columns(graph: _Graph, trees: TreeEnsemble) -> _Columns:
    """Add the features as they are, those in which 0 is missing as NaN, and those of categories rounded."""
    columns = _Columns(len(trees.feature))
    every = np.arange(trees.features)
    zero, categorical = trees.zero_missing, trees.category_set >= 0
    columns.append("features", every, ~zero & ~categorical, trees.feature)
    if (zero & ~categorical).any():
        part = _gather(graph, features := np.unique(trees.feature[zero & ~categorical]))
        columns.append(_without_zero(graph, part), features, zero & ~categorical, trees.feature)
    whole = _has_whole_categories(trees)
    for missing, integers in product((False, True), (False, True)):
        chosen = categorical & (zero == missing) & (whole == integers)
        if chosen.any():
            part = _gather(graph, features := np.unique(trees.feature[chosen]))
            part = _without_zero(graph, part) if missing else part
            part = _rounded(graph, part, trees.rounding)
            columns.append(
                _integers(graph, part, trees.categories) if integers else part, features, chosen, trees.feature
            )
    return columns


def _has_whole_categories(trees: TreeEnsemble) -> NDArray[np.bool_]:
    """Return whether each node's categories are integers: onnxruntime truncates what it compares with such ones."""
    sets = np.repeat(np.arange(trees.sets), np.diff(trees.category_offsets))
    broken = np.bincount(sets, trees.categories != np.floor(trees.categories), minlength=trees.sets)
    whole = np.zeros(len(trees.feature), np.bool_)
    categorical = trees.category_set >= 0
    whole[categorical] = broken[trees.category_set[categorical]] == 0
    return whole


def _integers(graph: _Graph, part: str, categories: NDArray[np.float32]) -> str:
    """Replace what is neither an integer nor missing by an integer below all categories."""
    below = np.nextafter(np.floor(categories.min(initial=0)) - np.float32(1), np.float32(-np.inf))
    whole = graph.add("Equal", part, graph.add("Floor", part))
    kept = graph.add("Or", whole, graph.add("IsNaN", part))
    return graph.add("Where", kept, part, graph.constant(np.floor([below]).astype(np.float32)))


def _gather(graph: _Graph, features: NDArray[np.int32]) -> str:
    return graph.add("Gather", "features", graph.constant(features.astype(np.int64)), axis=1)


def _without_zero(graph: _Graph, part: str) -> str:
    tiny = graph.add("LessOrEqual", graph.add("Abs", part), graph.constant(np.array([ZERO])))
    return graph.add("Where", tiny, _nan(graph), part)


def _nan(graph: _Graph) -> str:
    return graph.constant(np.array([np.nan], np.float32))


def _rounded(graph: _Graph, part: str, rounding: str) -> str:
    if rounding == "down":
        return graph.add("Floor", part)
    if rounding == "toward_zero":
        return graph.add("Mul", graph.add("Sign", part), graph.add("Floor", graph.add("Abs", part)))
    return part


def _attributes(trees: TreeEnsemble, column: NDArray[np.int64], dtype: Any) -> dict[str, Any]:
    """Return the attributes of the operator: nodes of all trees in one list, leaves in another."""
    rows = _rows(trees, column)
    missing = rows["missing_left"].astype(np.int64)
    return {
        "n_targets": 1,
        "aggregate_function": 1,  # sum
        "post_transform": 0,  # none
        "tree_roots": rows["roots"].tolist(),
        "nodes_featureids": rows["column"].tolist(),
        "nodes_splits": numpy_helper.from_array(rows["split"].astype(dtype)),
        "nodes_modes": numpy_helper.from_array(rows["mode"].astype(np.uint8)),
        "nodes_missing_value_tracks_true": missing.tolist(),
        "nodes_truenodeids": rows["left"].tolist(),
        "nodes_trueleafs": rows["left_leaf"].tolist(),
        "nodes_falsenodeids": rows["right"].tolist(),
        "nodes_falseleafs": rows["right_leaf"].tolist(),
        "leaf_targetids": [0] * len(rows["leaf_values"]),
        "leaf_weights": numpy_helper.from_array(rows["leaf_values"].astype(dtype)),
        **(
            {"membership_values": numpy_helper.from_array(rows["members"].astype(dtype))}
            if len(rows["members"])
            else {}
        ),
    }


def _rows(trees: TreeEnsemble, column: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the nodes of all trees, after one for each tree that is a single leaf, and one for the base.

    Such a node sends every row to its leaf on both sides. The base is the first leaf, so that it is summed first.
    """
    sizes = np.diff(trees.node_offsets)
    alone = np.flatnonzero(sizes == 0)
    extra = 1 + len(alone)
    tree = np.repeat(np.arange(trees.trees), sizes)
    categorical, empty = trees.category_set >= 0, _empty(trees)
    single_leaves = np.concatenate([[0], 1 + trees.leaf_offsets[:-1][alone]])
    roots = extra + trees.node_offsets[:-1].astype(np.int64)
    roots[alone] = 1 + np.arange(len(alone))
    rows: dict[str, NDArray[Any]] = {
        "roots": np.concatenate([[0], roots]),
        "column": np.concatenate([np.zeros(extra, np.int64), column]),
        "split": np.concatenate([np.zeros(extra), np.where(empty, np.nan, trees.threshold)]),
        "mode": np.concatenate(
            [np.zeros(extra), np.where(empty, _EQUAL, np.where(categorical, _MEMBER, _LESS_OR_EQUAL))]
        ),
        "missing_left": np.concatenate([np.zeros(extra, np.bool_), trees.missing_left]),
        "leaf_values": np.concatenate([[trees.base], trees.leaf_values]),
        "members": _members(trees, categorical & ~empty),
    }
    for side, child in (("left", trees.left), ("right", trees.right)):
        leaf = child < 0
        place = np.where(
            leaf, 1 + trees.leaf_offsets[:-1][tree] + ~child, extra + trees.node_offsets[:-1][tree] + child
        )
        rows[side] = np.concatenate([single_leaves, place]).astype(np.int64)
        rows[side + "_leaf"] = np.concatenate([np.ones(extra, np.int64), leaf])
    return rows


def _empty(trees: TreeEnsemble) -> NDArray[np.bool_]:
    """Return whether each node is a categorical one without categories: no value equals NaN."""
    empty = np.zeros(len(trees.feature), np.bool_)
    categorical = trees.category_set >= 0
    empty[categorical] = np.diff(trees.category_offsets)[trees.category_set[categorical]] == 0
    return empty


def _members(trees: TreeEnsemble, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the categories of the chosen nodes in their order, a NaN after each node's."""
    ends, parts = np.array([np.nan], np.float32), []
    for each in trees.category_set[chosen]:
        parts += [trees.categories[trees.category_offsets[each] : trees.category_offsets[each + 1]], ends]
    return np.concatenate([np.zeros(0, np.float32), *parts])

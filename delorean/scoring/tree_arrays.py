"""Joins the arrays of trees to ensembles, and takes some trees of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.trees import TreeEnsemble
from schemas.errors import PackageError

_OF_NODES = ("feature", "threshold", "left", "right", "missing_left", "zero_missing")
_OF_SUMS = ("features", "base", "single", "divisor", "link", "scale", "rounding")


@dataclass(frozen=True)
class Tree:
    """One tree: nodes and leaves apart, children as in `TreeEnsemble`.

    sets: node → the categories that go left, float32, ascending; nodes that are not in it are numeric
    """

    feature: NDArray[Any]
    threshold: NDArray[np.float32]
    left: NDArray[Any]
    right: NDArray[Any]
    missing_left: NDArray[np.bool_]
    leaf_values: NDArray[np.float64]
    zero_missing: NDArray[np.bool_] | None = None
    sets: dict[int, NDArray[np.float32]] = field(default_factory=dict)


def join_trees(trees: Sequence[Tree], features: int, **more: Any) -> TreeEnsemble:
    """Build an ensemble from its trees.

    more: the numbers of `TreeEnsemble`, such as `base`
    """
    sets = [np.asarray(tree.sets[node], np.float32) for tree in trees for node in sorted(tree.sets)]
    category_set = _joined([_is_categorical(tree) for tree in trees], np.int32)
    category_set[category_set == 1] = np.arange(len(sets))
    category_set[_joined([_is_categorical(tree) for tree in trees], np.int32) == 0] = -1
    return TreeEnsemble(
        features,
        _offsets([len(tree.feature) for tree in trees]),
        _offsets([len(tree.leaf_values) for tree in trees]),
        _joined([tree.feature for tree in trees], np.int32),
        np.where(category_set < 0, _joined([tree.threshold for tree in trees], np.float32), np.float32(0)),
        _joined([tree.left for tree in trees], np.int32),
        _joined([tree.right for tree in trees], np.int32),
        _joined([tree.missing_left for tree in trees], np.bool_),
        _joined([_zero_missing(tree) for tree in trees], np.bool_),
        category_set,
        _offsets([len(each) for each in sets]),
        _joined(sets, np.float32),
        _joined([tree.leaf_values for tree in trees], np.float64),
        **more,
    )


def some_trees(trees: TreeEnsemble, start: int, end: int) -> TreeEnsemble:
    """Return the trees from `start` up to `end` as an ensemble with the same base and link."""
    nodes = slice(*trees.node_offsets[[start, end]])
    first, last = trees.leaf_offsets[[start, end]]
    sets = trees.category_set[nodes]
    used = sets[sets >= 0]
    # Sets are numbered as their nodes are.
    low, high = (int(used.min()), int(used.max()) + 1) if len(used) else (0, 0)
    offsets = trees.category_offsets[low : high + 1]
    arrays: dict[str, Any] = {
        "node_offsets": trees.node_offsets[start : end + 1] - trees.node_offsets[start],
        "leaf_offsets": trees.leaf_offsets[start : end + 1] - first,
        **{name: getattr(trees, name)[nodes] for name in _OF_NODES},
        "category_set": np.where(sets >= 0, sets - np.int32(low), sets),
        "category_offsets": offsets - offsets[0],
        "categories": trees.categories[offsets[0] : offsets[-1]],
        "leaf_values": trees.leaf_values[first:last],
    }
    return replace(trees, **arrays)


def concatenated(parts: Sequence[TreeEnsemble]) -> TreeEnsemble:
    """Return the trees of several ensembles, one after another. Raises PackageError where sums or links differ."""
    first = parts[0]
    for other in parts[1:]:
        if any(getattr(other, name) != getattr(first, name) for name in _OF_SUMS):
            raise PackageError.because("trees of different bases, sums or links cannot be joined")
    sets = np.cumsum([0, *(part.sets for part in parts)], dtype=np.int32)
    shifted = [
        np.where(part.category_set >= 0, part.category_set + start, part.category_set)
        for part, start in zip(parts, sets, strict=False)
    ]
    offsets = ("node_offsets", "leaf_offsets", "category_offsets")
    others = (*_OF_NODES, "categories", "leaf_values")
    arrays: dict[str, Any] = {
        **{name: _offsets(np.concatenate([np.diff(getattr(part, name)) for part in parts])) for name in offsets},
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in others},
        "category_set": _joined(shifted, np.int32),
    }
    return replace(first, **arrays)


def number_nodes(
    left: NDArray[Any], right: NDArray[Any], leaf: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number the nodes and the leaves of a tree apart, each level after the one above it.

    left, right: (all,) children, in any order; leaf: (all,) whether each is a leaf
    Returns the positions of its nodes, those of its leaves, and the nodes' left and right children.
    """
    levels, level = [], np.zeros(1, np.int64)
    while len(level):
        levels.append(level)
        inner = level[~leaf[level]]
        level = np.stack([left[inner], right[inner]], axis=1).reshape(-1).astype(np.int64)
    order = np.concatenate(levels)
    nodes, leaves = order[~leaf[order]], order[leaf[order]]
    number = np.zeros(len(leaf), np.int64)
    number[nodes], number[leaves] = np.arange(len(nodes)), ~np.arange(len(leaves))
    return nodes, leaves, number[left[nodes]], number[right[nodes]]


def _is_categorical(tree: Tree) -> NDArray[np.int32]:
    flags = np.zeros(len(tree.feature), np.int32)
    flags[sorted(tree.sets)] = 1
    return flags


def _zero_missing(tree: Tree) -> NDArray[np.bool_]:
    return np.zeros(len(tree.feature), np.bool_) if tree.zero_missing is None else tree.zero_missing


def _offsets(lengths: Sequence[int] | NDArray[Any]) -> NDArray[np.int32]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)


def _joined(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)

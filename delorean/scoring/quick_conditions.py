"""Prepares trees for QuickScorer: conditions sorted by tree, each with a mask of the leaves that survive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.tree_kernels import AS_MINUS_INFINITY, AS_NAN, CODES, GROUP, order_leaves
from delorean.scoring.trees import TreeEnsemble

MOST_LEAVES = 64


@dataclass(frozen=True)
class QuickConditions:
    """What the kernels read; see `tree_kernels` for the arrays.

    columns, kinds, zero_missing: (columns,) feature of each column of a block, and what it holds for missing values;
        those of categories come last
    conditions: offsets, column, threshold and mask of numeric conditions
    set_conditions: offsets, column, start, mask of categorical conditions, and the bits of codes
    known_offsets, known: the categories of each coded column
    full: a mask of all bits, uint32, or uint64 where a tree has more than 32 leaves
    leaf_values: each tree's from left to right
    """

    columns: NDArray[np.int32]
    kinds: NDArray[np.int32]
    zero_missing: NDArray[np.bool_]
    conditions: tuple[NDArray[Any], ...]
    set_conditions: tuple[NDArray[Any], ...]
    known_offsets: NDArray[np.int64]
    known: NDArray[np.float32]
    full: Any
    leaf_values: NDArray[np.float64]


def prepare(trees: TreeEnsemble) -> QuickConditions:
    """Prepare trees of at most 64 leaves each."""
    first, left_leaves, ranks = order_leaves(trees.node_offsets, trees.left, trees.right)
    leaf_values = np.empty_like(trees.leaf_values)
    starts = np.repeat(trees.leaf_offsets[:-1], np.diff(trees.leaf_offsets))
    leaf_values[starts + ranks] = trees.leaf_values
    dtype = np.uint32 if np.diff(trees.leaf_offsets).max(initial=1) <= 32 else np.uint64
    masks = ~(((np.uint64(1) << left_leaves.astype(np.uint64)) - np.uint64(1)) << first.astype(np.uint64))
    categorical = trees.category_set >= 0
    kinds = np.where(categorical, CODES, np.where(trees.missing_left, AS_MINUS_INFINITY, AS_NAN))
    keys = ((kinds * 2 + trees.zero_missing) * trees.features + trees.feature).astype(np.int32)
    columns, column = np.unique(keys, return_inverse=True)  # codes come last: their kind is the greatest
    kind, zero_missing = columns // trees.features // 2, columns // trees.features % 2 > 0
    of_nodes = (column, trees.threshold, masks.astype(dtype))
    known_offsets, known, set_conditions = _categorical(trees, column, int((kind != CODES).sum()), of_nodes[2])
    return QuickConditions(
        columns % trees.features,
        kind,
        zero_missing,
        _padded(trees, np.flatnonzero(~categorical), of_nodes, dtype),
        set_conditions,
        known_offsets,
        known,
        dtype(np.iinfo(dtype).max),
        leaf_values,
    )


def _tree_offsets(trees: TreeEnsemble, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each tree's nodes begin among some nodes, which ascend."""
    return np.searchsorted(nodes, trees.node_offsets).astype(np.int64)


def _padded(
    trees: TreeEnsemble, nodes: NDArray[np.int64], of_nodes: tuple[NDArray[Any], ...], dtype: Any
) -> tuple[NDArray[Any], ...]:
    """Return offsets, column, threshold and mask; conditions that remove nothing pad each tree to whole groups."""
    offsets = _tree_offsets(trees, nodes)
    sizes = np.diff(offsets)
    padded = np.concatenate([[0], np.cumsum(-(-sizes // GROUP) * GROUP)])
    places = np.repeat(padded[:-1] - offsets[:-1], sizes) + np.arange(len(nodes))
    column, threshold = np.zeros(padded[-1], np.int64), np.full(padded[-1], np.inf, np.float32)
    mask = np.full(padded[-1], np.iinfo(dtype).max, dtype)
    for into, values in zip((column, threshold, mask), of_nodes, strict=True):
        into[places] = values[nodes]
    return padded, column, threshold, mask


def _categorical(
    trees: TreeEnsemble, column: NDArray[np.int64], first_column: int, masks: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float32], tuple[NDArray[Any], ...]]:
    """Return the known categories of each coded column, and the categorical conditions."""
    nodes = np.flatnonzero(trees.category_set >= 0)
    coded = column[nodes] - first_column
    chosen = [_categories(trees, int(node)) for node in nodes]
    count = int(coded.max(initial=-1)) + 1
    by_column: list[list[NDArray[np.float32]]] = [[] for _ in range(count)]
    for each, categories in zip(coded, chosen, strict=True):
        by_column[each].append(categories)
    known = [np.unique(np.concatenate(sets)) for sets in by_column]
    widths = np.array([len(each) + 2 for each in known], np.int64)[coded]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(-(-widths // 32) * 32)])
    bits = np.zeros(int(starts[-1]), np.uint8)
    for node, start, of_column, categories in zip(nodes, starts[:-1], coded, chosen, strict=True):
        bits[start + 1] = trees.missing_left[node]
        bits[start + 2 + np.searchsorted(known[of_column], categories)] = 1
    words = np.packbits(bits, bitorder="little").view(np.uint32)
    known_offsets = np.concatenate([[0], np.cumsum([len(each) for each in known])]).astype(np.int64)
    values = np.concatenate([np.zeros(0, np.float32), *known])
    return known_offsets, values, (_tree_offsets(trees, nodes), coded, starts[:-1], masks[nodes], words)


def _categories(trees: TreeEnsemble, node: int) -> NDArray[np.float32]:
    each = trees.category_set[node]
    return trees.categories[trees.category_offsets[each] : trees.category_offsets[each + 1]]

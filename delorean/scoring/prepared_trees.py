"""Prepares trees for the kernels: columns in which missing values decide by themselves, codes of categories, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.leaf_order import order_leaves
from delorean.scoring.tree_kernels import AS_MINUS_INFINITY, AS_NAN, CODES, GROUP, LANES, NODE
from delorean.scoring.trees import TreeEnsemble

_MOST_LEAVES = 64  # bits of the largest mask


@dataclass(frozen=True)
class Columns:
    """The columns of a block, those of codes last.

    features, kinds, zero_missing: (columns,) the feature of each, and what it holds for missing values
    coded: position of the first column of codes
    known_offsets, known: the categories of each coded column
    set_start, set_bits: (nodes,) where a categorical node's bits begin, and the bits of the codes that go left
    """

    features: NDArray[np.int32]
    kinds: NDArray[np.int32]
    zero_missing: NDArray[np.bool_]
    coded: int
    known_offsets: NDArray[np.int64]
    known: NDArray[np.float32]
    set_start: NDArray[np.int64]
    set_bits: NDArray[np.uint32]

    def new_block(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Allocate a block and its codes; rows that are not filled hold zeros."""
        coded = len(self.features) - self.coded
        return np.zeros(len(self.features) * LANES, np.float32), np.zeros(coded * LANES, np.int32)


@dataclass(frozen=True)
class Conditions:
    """What `score_block` reads. numeric, sets: begin with the offsets of each tree's conditions."""

    numeric: tuple[NDArray[Any], ...]
    sets: tuple[NDArray[Any], ...]
    full: Any
    leaf_values: NDArray[Any]

    def between(self, start: int, end: int) -> Conditions:
        """Return those of the trees from `start` up to `end`, as views."""
        numeric, sets = ((offsets[start : end + 1], *others) for offsets, *others in (self.numeric, self.sets))
        return Conditions(numeric, sets, self.full, self.leaf_values)


@dataclass(frozen=True)
class PreparedTrees:
    """Trees for the kernels.

    leaf_values: of the type of the sums, in the order of the trees
    conditions: None where a tree has more leaves than a mask has bits
    """

    columns: Columns
    nodes: NDArray[Any]
    leaf_values: NDArray[Any]
    conditions: Conditions | None


def prepare(trees: TreeEnsemble) -> PreparedTrees:
    """Prepare trees for the kernels."""
    categorical = trees.category_set >= 0
    kinds = np.where(categorical, CODES, np.where(trees.missing_left, AS_MINUS_INFINITY, AS_NAN))
    keys = ((kinds * 2 + trees.zero_missing) * trees.features + trees.feature).astype(np.int32)
    unique, column = np.unique(keys, return_inverse=True)  # codes come last: their kind is the greatest
    kind = unique // trees.features // 2
    coded = int((kind != CODES).sum())
    known_offsets, known, set_start, set_bits = _code_categories(trees, column - coded)
    zero_missing = unique // trees.features % 2 > 0
    columns = Columns(
        unique % trees.features, kind, zero_missing, coded, known_offsets, known, set_start, set_bits
    )  # fmt: skip
    nodes = np.empty(len(column), NODE)
    nodes["column"], nodes["threshold"] = np.where(categorical, ~(column - coded), column), trees.threshold
    nodes["left"], nodes["right"] = trees.left, trees.right
    small = int(np.diff(trees.leaf_offsets).max(initial=1)) <= _MOST_LEAVES
    leaf_values = trees.leaf_values.astype(np.float32 if trees.single else np.float64)
    return PreparedTrees(
        columns, nodes, leaf_values, _conditions(trees, columns, column, leaf_values) if small else None
    )


def _conditions(trees: TreeEnsemble, columns: Columns, column: NDArray[np.int64], values: NDArray[Any]) -> Conditions:
    """Build conditions sorted by tree, each with a mask of the leaves that survive it."""
    first, left_leaves, ranks = order_leaves(trees.node_offsets, trees.left, trees.right)
    leaf_values = np.empty_like(values)
    leaf_values[np.repeat(trees.leaf_offsets[:-1], np.diff(trees.leaf_offsets)) + ranks] = values
    dtype: Any = np.uint32 if np.diff(trees.leaf_offsets).max(initial=1) <= 32 else np.uint64
    masks = ~(((np.uint64(1) << left_leaves.astype(np.uint64)) - np.uint64(1)) << first.astype(np.uint64))
    mask = masks.astype(dtype)
    numeric, sets = np.flatnonzero(trees.category_set < 0), np.flatnonzero(trees.category_set >= 0)
    offsets, places = _padded(np.searchsorted(numeric, trees.node_offsets))
    padded = np.zeros(offsets[-1], np.int32), np.full(offsets[-1], np.inf, np.float32), np.full(offsets[-1], ~dtype(0))
    for into, each in zip(padded, (column, trees.threshold, mask), strict=True):
        into[places] = each[numeric]
    set_offsets = np.searchsorted(sets, trees.node_offsets)
    of_sets = (set_offsets, column[sets] - columns.coded, columns.set_start[sets], mask[sets], columns.set_bits)
    return Conditions((offsets, *padded), of_sets, dtype(np.iinfo(dtype).max), leaf_values)


def _padded(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offsets at which each tree's conditions begin when padded to whole groups, and the conditions' places."""
    sizes = np.diff(offsets)
    padded = np.concatenate([np.zeros(1, np.int64), np.cumsum(-(-sizes // GROUP) * GROUP)])
    return padded, np.repeat(padded[:-1] - offsets[:-1], sizes) + np.arange(offsets[-1])


def _code_categories(
    trees: TreeEnsemble, coded_column: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.uint32]]:
    """Return the known categories of each coded column, and where the bits of each node begin, and the bits.

    A code is 0 for a value that is no category, 1 for a missing one, and 2 more than a category's rank otherwise.
    """
    nodes = np.flatnonzero(trees.category_set >= 0)
    sets, coded = trees.category_set[nodes], coded_column[nodes]
    sizes = np.diff(trees.category_offsets)[sets]
    of_node = np.repeat(np.arange(len(nodes)), sizes)
    within = np.arange(len(of_node)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    values, of_column = trees.categories[trees.category_offsets[sets][of_node] + within], coded[of_node]
    order = np.lexsort((values, of_column))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(of_column[order]) != 0) | (np.diff(values[order]) != 0)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.cumsum(new) - 1
    columns = int(coded.max(initial=-1)) + 1
    known_offsets = np.searchsorted(of_column[order][new], np.arange(columns + 1))
    widths = (np.diff(known_offsets) + 2)[coded]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(-(-widths // 32) * 32)])
    bits = np.zeros(int(starts[-1]), np.uint8)
    bits[starts[:-1] + 1] = trees.missing_left[nodes]
    bits[starts[:-1][of_node] + 2 + rank - known_offsets[of_column]] = 1
    set_start = np.zeros(len(trees.feature), np.int64)
    set_start[nodes] = starts[:-1]
    return known_offsets, values[order][new], set_start, np.packbits(bits, bitorder="little").view(np.uint32)

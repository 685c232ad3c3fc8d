"""Conditions of trees as the kernels of ranks read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.columns import Columns
from delorean.scoring.distinct_values import distinct_values
from delorean.scoring.leaf_order import order_leaves
from delorean.scoring.rank_kernels import MISSING, PIVOTS
from delorean.scoring.trees import TreeEnsemble

_MOST_LEAVES = 256  # beyond them a walk is faster, which skips the conditions that a row does not reach


@dataclass(frozen=True)
class Conditions:
    """What `rank_block` and `score_ranks` read; they describe it.

    coded: the columns of codes alone
    columns: of ranks, including those of the categorical conditions of one tree
    dtype: of ranks and leaves
    """

    searches: tuple[NDArray[Any], ...]
    ranked: tuple[NDArray[Any], ...]
    offsets: NDArray[np.int32]
    conditions: tuple[NDArray[Any], ...]
    sets: tuple[Any, ...]
    coded: Columns
    leaf_values: NDArray[Any]
    columns: int
    dtype: Any


def conditions_of(
    trees: TreeEnsemble, columns: Columns, column: NDArray[np.int64], values: NDArray[Any]
) -> Conditions | None:
    """Build the conditions of trees, or return None where a walk is faster or ranks do not fit in two bytes.

    column: (nodes,) of each node
    values: leaf values of the type of the sums, in the order of the trees
    """
    numeric, sets = np.flatnonzero(trees.category_set < 0), np.flatnonzero(trees.category_set >= 0)
    features, searched = np.unique(trees.feature[numeric], return_inverse=True)
    offsets, thresholds, rank = distinct_values(searched, trees.threshold[numeric], len(features))
    most_thresholds = int(np.diff(offsets).max(initial=0))
    if int(np.diff(trees.leaf_offsets).max(initial=1)) > _MOST_LEAVES or most_thresholds > MISSING:
        return None
    dtype = np.uint8 if most_thresholds <= np.iinfo(np.uint8).max else np.uint16
    set_offsets = np.searchsorted(sets, trees.node_offsets)
    set_columns = columns.coded + np.arange(len(sets)) - np.repeat(set_offsets[:-1], np.diff(set_offsets))
    most, ranked_column = np.zeros(len(column), np.int64), column.copy()
    most[numeric], ranked_column[sets] = rank, set_columns
    first, left_leaves, leaf_order = order_leaves(trees.node_offsets, trees.left, trees.right)
    repeated = (_repeated(each, dtype) for each in (most, first, first + left_leaves))
    by_feature = np.argsort(columns.features[: columns.coded], kind="stable")
    column_offsets = np.searchsorted(columns.features[by_feature], np.append(features, trees.features))
    return Conditions(
        searches=(features, *_search_tables(offsets, thresholds)),
        ranked=(column_offsets, by_feature, columns.kinds[by_feature], columns.zero_missing[by_feature]),
        offsets=trees.node_offsets,
        conditions=(ranked_column, *repeated),
        sets=(
            set_offsets,
            column[sets] - columns.coded,
            columns.set_start[sets],
            columns.set_bits,
            columns.coded,
        ),
        coded=columns.only_coded(),
        leaf_values=_in_order(trees, leaf_order, values),
        columns=int(ranked_column.max(initial=-1)) + 1,
        dtype=dtype,
    )


def _repeated(values: NDArray[Any], dtype: Any) -> NDArray[np.uint32]:
    """Return numbers of four bytes that repeat the values."""
    return np.repeat(values.astype(dtype), 4 // np.dtype(dtype).itemsize).view(np.uint32)


def _in_order(trees: TreeEnsemble, leaf_order: NDArray[np.int32], values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of leaves, each tree's from left to right, and −0 after all: it changes no sum."""
    leaf_values = np.full(len(values) + 1, -0.0, values.dtype)
    leaf_values[np.repeat(trees.leaf_offsets[:-1], np.diff(trees.leaf_offsets)) + leaf_order] = values
    return leaf_values


def _search_tables(offsets: NDArray[np.int64], thresholds: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    """Return the pivots of each feature, the number of levels of its other thresholds, and where they begin, and them.

    offsets, thresholds: of each feature, ascending; ∞ is added to them, which is smaller than no value
    """
    counts, buckets = np.diff(offsets), PIVOTS + 1
    depths = np.ceil(np.log2((counts + 1) / buckets)).clip(0).astype(np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(buckets * ((1 << depths) - 1))])
    pivots, levels = np.empty((len(counts), PIVOTS), np.float32), np.empty(starts[-1], np.float32)
    for depth in np.unique(depths):
        chosen, size = np.flatnonzero(depths == depth), 1 << depth
        ascending = np.full((len(chosen), buckets * size), np.inf, np.float32)
        ranks = offsets[chosen][:, None] + np.arange(buckets * size)
        within = ranks < offsets[chosen + 1][:, None]
        ascending[within] = thresholds[ranks[within]]
        pivots[chosen] = ascending[:, size - 1 : -1 : size]
        middles = [ascending[:, (size >> level) // 2 - 1 :: size >> level] for level in range(depth)]
        levels[starts[chosen][:, None] + np.arange(buckets * (size - 1))] = np.concatenate(
            [np.empty((len(chosen), 0), np.float32), *middles], axis=1
        )
    return pivots.reshape(-1), depths, starts, levels

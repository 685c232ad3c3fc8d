"""Prepares trees for the kernels: columns in which missing values decide by themselves, codes of categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.columns import Columns
from delorean.scoring.conditions import Conditions, conditions_of
from delorean.scoring.distinct_values import distinct_values
from delorean.scoring.tree_kernels import AS_MINUS_INFINITY, AS_NAN, CODES, NODE
from delorean.scoring.trees import TreeEnsemble


@dataclass(frozen=True)
class PreparedTrees:
    """Trees for the kernels.

    leaf_values: of the type of the sums, in the order of the trees
    conditions: None where every row walks
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
        features=unique % trees.features,
        kinds=kind,
        zero_missing=zero_missing,
        coded=coded,
        known_offsets=known_offsets,
        known=known,
        rounding=trees.rounding,
        set_start=set_start,
        set_bits=set_bits,
    )
    nodes = np.empty(len(column), NODE)
    nodes["column"], nodes["threshold"] = np.where(categorical, ~(column - coded), column), trees.threshold
    nodes["left"], nodes["right"] = trees.left, trees.right
    leaf_values = trees.leaf_values.astype(np.float32 if trees.single else np.float64)
    return PreparedTrees(columns, nodes, leaf_values, conditions_of(trees, columns, column, leaf_values))


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
    columns = int(coded.max(initial=-1)) + 1
    known_offsets, known, rank = distinct_values(of_column, values, columns)
    widths = (np.diff(known_offsets) + 2)[coded]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(-(-widths // 32) * 32)])
    bits = np.zeros(int(starts[-1]), np.uint8)
    bits[starts[:-1] + 1] = trees.missing_left[nodes]
    bits[starts[:-1][of_node] + 2 + rank] = 1
    set_start = np.zeros(len(trees.feature), np.int64)
    set_start[nodes] = starts[:-1]
    return known_offsets, known, set_start, np.packbits(bits, bitorder="little").view(np.uint32)

"""Scores rows with trees, compiled: QuickScorer over SIMD lanes for small trees, a walk for large ones and few rows.

QuickScorer (Lucchese et al., SIGIR 2015) never walks: each node whose condition is false removes the leaves under its
left child, and the first leaf that remains is the row's. Here the lanes of a vector are rows, as in V-QuickScorer
(SIGIR 2016), but conditions are sorted by tree: the masks of a block of rows stay in the innermost cache while a tree's
conditions pass over them.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros

# Numba infers the types, hence no annotations. Every function is cached on disk and releases the interpreter's lock.
# Without fastmath: sums keep their order and NaN is compared as IEEE 754 says. A division by 0 is not an exception.
LANES = 256  # rows in a block: their masks and one column of features are 2 KiB
GROUP = 5  # conditions that pass over a block at once; a tree's are padded to a multiple of it

# What a column of a block holds where a feature is missing, so that a comparison decides as the node does.
AS_NAN, AS_MINUS_INFINITY, CODES = 0, 1, 2


@njit(cache=True, nogil=True, error_model="numpy")
def order_leaves(node_offsets, left, right):  # type: ignore[no-untyped-def]
    """Return each node's first leaf and number of leaves under its left child, and each leaf's rank from the left.

    Children come after their parents, so that one pass up and one down suffice.
    """
    nodes = len(left)
    below = np.zeros(nodes, np.int32)
    left_leaves = np.zeros(nodes, np.int32)
    first = np.zeros(nodes, np.int32)
    ranks = np.zeros(nodes + len(node_offsets) - 1, np.int32)
    for tree in range(len(node_offsets) - 1):
        start, end = node_offsets[tree], node_offsets[tree + 1]
        for node in range(end - 1, start - 1, -1):
            left_leaves[node] = below[start + left[node]] if left[node] >= 0 else 1
            below[node] = left_leaves[node] + (below[start + right[node]] if right[node] >= 0 else 1)
        leaf_start = start + tree
        for node in range(start, end):
            middle = first[node] + left_leaves[node]
            if left[node] >= 0:
                first[start + left[node]] = first[node]
            else:
                ranks[leaf_start + ~left[node]] = first[node]
            if right[node] >= 0:
                first[start + right[node]] = middle
            else:
                ranks[leaf_start + ~right[node]] = middle
    return first, left_leaves, ranks


@njit(cache=True, nogil=True, error_model="numpy")
def fill_block(features, start, rows, columns, kinds, zero_missing, zero, block):  # type: ignore[no-untyped-def]
    """Copy rows of features to the columns of a block, missing values as each column's kind says.

    features: (rows, features) float32; columns: (columns,) feature of each; block: (columns, LANES) float32
    """
    for column in range(len(columns)):
        feature = columns[column]
        missing = np.float32(-np.inf) if kinds[column] == AS_MINUS_INFINITY else np.float32(np.nan)
        into = block[column]
        if zero_missing[column]:
            for row in range(rows):
                value = features[start + row, feature]
                into[row] = value if abs(value) > zero else missing  # not so for NaN
        elif kinds[column] == AS_MINUS_INFINITY:
            for row in range(rows):
                value = features[start + row, feature]
                into[row] = missing if np.isnan(value) else value
        else:
            for row in range(rows):
                into[row] = features[start + row, feature]


@njit(cache=True, nogil=True, error_model="numpy")
def round_category(value, rounding):  # type: ignore[no-untyped-def]
    """Round a feature before it is compared with categories. Rounding: 0 not at all, 1 toward zero, 2 down."""
    if rounding == 1:
        return np.trunc(value)
    return np.floor(value) if rounding == 2 else value


@njit(cache=True, nogil=True, error_model="numpy")
def position_of(value, sorted_values, start, end):  # type: ignore[no-untyped-def]
    """Return the position from `start` of a value in sorted values, or −1."""
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low - start if low < end and sorted_values[low] == value else -1


@njit(cache=True, nogil=True, error_model="numpy")
def fill_codes(block, rows, known_offsets, known, rounding, codes):  # type: ignore[no-untyped-def]
    """Code the last columns of a block: 0 for a value that is no category, 1 for a missing one, 2 and more for others.

    known_offsets, known: the categories of each coded column, ascending; codes: (coded columns, LANES) int32
    """
    for column in range(len(codes)):
        values = block[len(block) - len(codes) + column]
        start, end = known_offsets[column], known_offsets[column + 1]
        for row in range(rows):
            value = values[row]
            if np.isnan(value):
                codes[column, row] = 1
            else:
                position = position_of(round_category(value, rounding), known, start, end)
                codes[column, row] = position + 2 if position >= 0 else 0


@njit(cache=True, nogil=True, error_model="numpy")
def score_block(  # type: ignore[no-untyped-def]
    block, lanes, conditions, full, codes, set_conditions, leaf_offsets, leaf_values, single, alive, sums
):
    """Add the leaf of every tree to the sums of a block's rows, tree by tree.

    lanes: rows, rounded up so that no loop has a remainder
    conditions: offsets, column, threshold, mask: each tree's numeric conditions, a multiple of GROUP of them; a mask
        has a bit for each leaf that remains where the condition is false
    full: a mask of all bits
    set_conditions: offsets, column, start, mask, bits: each tree's categorical conditions; from its start on, the bits
        of the codes that meet a condition
    alive: (LANES,) the remaining leaves, of the type of masks
    sums: (LANES,) float64; where `single`, rounded to float32 after each tree
    """
    offsets, column, threshold, mask = conditions
    set_offsets, set_column, set_start, set_mask, set_bits = set_conditions
    for tree in range(len(offsets) - 1):
        for row in range(lanes):
            alive[row] = full
        for c in range(offsets[tree], offsets[tree + 1], GROUP):
            x0, x1, x2 = block[column[c]], block[column[c + 1]], block[column[c + 2]]
            x3, x4 = block[column[c + 3]], block[column[c + 4]]
            t0, t1, t2, t3, t4 = threshold[c], threshold[c + 1], threshold[c + 2], threshold[c + 3], threshold[c + 4]
            m0, m1, m2, m3, m4 = mask[c], mask[c + 1], mask[c + 2], mask[c + 3], mask[c + 4]
            for row in range(lanes):
                alive[row] &= (
                    (full if x0[row] <= t0 else m0)
                    & (full if x1[row] <= t1 else m1)
                    & (full if x2[row] <= t2 else m2)
                    & (full if x3[row] <= t3 else m3)
                    & (full if x4[row] <= t4 else m4)
                )
        for c in range(set_offsets[tree], set_offsets[tree + 1]):
            code, start, removed = codes[set_column[c]], set_start[c], set_mask[c]
            for row in range(lanes):
                bit = start + code[row]
                alive[row] &= full if (set_bits[bit >> 5] >> np.uint32(bit & 31)) & np.uint32(1) else removed
        values = leaf_values[leaf_offsets[tree] : leaf_offsets[tree + 1]]
        if single:
            for row in range(lanes):
                leaf = values[np.uint64(trailing_zeros(alive[row]))]  # type: ignore[call-arg]  # an intrinsic
                sums[row] = np.float64(np.float32(sums[row]) + np.float32(leaf))
        else:
            for row in range(lanes):
                sums[row] += values[np.uint64(trailing_zeros(alive[row]))]  # type: ignore[call-arg]  # an intrinsic


@njit(cache=True, nogil=True, error_model="numpy")
def goes_left(  # type: ignore[no-untyped-def]
    value, threshold, missing_left, zero_missing, zero, category_set, category_offsets, categories, rounding
):
    """Return whether a node sends a feature's value to its left child."""
    if np.isnan(value) or (zero_missing and abs(value) <= zero):
        return missing_left
    if category_set < 0:
        return value <= threshold
    start, end = category_offsets[category_set], category_offsets[category_set + 1]
    return position_of(round_category(value, rounding), categories, start, end) >= 0


@njit(cache=True, nogil=True, error_model="numpy")
def walk_trees(features, start, rows, trees, zero, rounding, single, sums):  # type: ignore[no-untyped-def]
    """Add the leaf of every tree to the sums of rows, each found by a walk; the same sums as `score_block`'s.

    trees: the arrays of a `TreeEnsemble`
    """
    node_offsets, leaf_offsets, feature, threshold, left, right = trees[:6]
    missing_left, zero_missing, category_set, category_offsets, categories, leaf_values = trees[6:]
    for tree in range(len(node_offsets) - 1):
        first, leaf_start = node_offsets[tree], leaf_offsets[tree]
        alone = node_offsets[tree + 1] == first
        for row in range(rows):
            child = np.int32(-1) if alone else np.int32(0)
            while child >= 0:
                node = first + child
                value = features[start + row, feature[node]]
                left_side = goes_left(
                    value,
                    threshold[node],
                    missing_left[node],
                    zero_missing[node],
                    zero,
                    category_set[node],
                    category_offsets,
                    categories,
                    rounding,
                )
                child = left[node] if left_side else right[node]
            leaf = leaf_values[leaf_start + ~child]
            sums[row] = np.float64(np.float32(sums[row]) + np.float32(leaf)) if single else sums[row] + leaf

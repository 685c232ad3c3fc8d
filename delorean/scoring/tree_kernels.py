"""Copies rows of features to blocks and walks through trees with them, compiled.

A walk waits for memory at each step. Many walks are therefore taken side by side, one step each: those of a block's
rows through a tree, or those of one row through many trees.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Numba infers the types, hence no annotations. Every function is cached on disk and releases the interpreter's lock.
# Without fastmath: sums keep their order and NaN is compared as IEEE 754 says. A division by 0 is not an exception.
# Unsigned indices are used where a signed one would be checked for being negative. A block is one flat array, because a
# row of a matrix is an array of its own, whose references are counted.

LANES = 256  # rows in a block

# What a column of a block holds where a feature is missing, so that a comparison decides as the node does.
AS_NAN, AS_MINUS_INFINITY, CODES = 0, 1, 2

# A node as a walk reads it. column: of the block, or ~ the coded column; children as in `TreeEnsemble`.
NODE = np.dtype([("column", np.int32), ("threshold", np.float32), ("left", np.int32), ("right", np.int32)])


@njit(cache=True, nogil=True, error_model="numpy")
def fill_block(features, rows, columns, kinds, zero_missing, zero, block):  # type: ignore[no-untyped-def]
    """Copy rows of features to the columns of a block, missing values as each column's kind says.

    features: (rows, features) float32; columns: (columns,) feature of each; block: (columns · LANES,) float32
    """
    for column in range(len(columns)):
        feature = columns[column]
        missing = np.float32(-np.inf) if kinds[column] == AS_MINUS_INFINITY else np.float32(np.nan)
        into = column * LANES
        if zero_missing[column]:
            for row in range(rows):
                value = features[row, feature]
                block[into + row] = value if abs(value) > zero else missing  # not so for NaN
        elif kinds[column] == AS_MINUS_INFINITY:
            for row in range(rows):
                value = features[row, feature]
                block[into + row] = missing if np.isnan(value) else value
        else:
            for row in range(rows):
                block[into + row] = features[row, feature]


@njit(cache=True, nogil=True, error_model="numpy")
def fill_codes(block, first, rows, known_offsets, known, rounding, codes):  # type: ignore[no-untyped-def]
    """Code the columns of a block from `first` on: 0 for a value that is no category, 1 for a missing one, then others.

    known_offsets, known: the categories of each coded column, ascending; codes: (coded columns · LANES,) int32
    rounding: of a value before it is looked up; 0 none, 1 toward zero, 2 down
    """
    for column in range(len(known_offsets) - 1):
        start, end = known_offsets[column], known_offsets[column + 1]
        for row in range(rows):
            value = block[(first + column) * LANES + row]
            if rounding == 1:
                value = np.trunc(value)
            elif rounding == 2:
                value = np.floor(value)
            low, high = start, end
            while low < high:
                middle = (low + high) // 2
                if known[middle] < value:
                    low = middle + 1
                else:
                    high = middle
            code = low - start + 2 if low < end and known[low] == value else 0
            codes[column * LANES + row] = 1 if np.isnan(value) else code


@njit(cache=True, nogil=True, error_model="numpy")
def next_child(node, position, row, block, codes, set_start, set_bits):  # type: ignore[no-untyped-def]
    """Return the child that a node sends a row of a block to. position: of the node among all nodes."""
    if node.column >= 0:
        return node.left if block[np.uint64(node.column * LANES + row)] <= node.threshold else node.right
    bit = set_start[position] + codes[np.uint64(~node.column * LANES + row)]
    return node.left if (set_bits[bit >> 5] >> np.uint32(bit & 31)) & np.uint32(1) else node.right


@njit(cache=True, nogil=True, error_model="numpy")
def walk_rows(  # type: ignore[no-untyped-def]
    block, rows, nodes, node_offsets, codes, set_start, set_bits, leaf_offsets, leaf_values, sums
):
    """Add the leaf of every tree to the sums of a block's rows, which walk through a tree side by side.

    nodes: (nodes,) NODE; set_start: (nodes,) where the bits of a categorical node begin
    """
    child, walking = np.empty(LANES, np.int32), np.empty(LANES, np.int64)
    for tree in range(len(node_offsets) - 1):
        first = node_offsets[tree]
        count = rows if node_offsets[tree + 1] > first else 0
        for row in range(rows):
            child[row] = 0 if count else -1
            walking[row] = row
        while count:
            remaining = 0
            for i in range(count):
                row = walking[i]
                position = np.uint64(first + child[row])
                child[row] = next_child(nodes[position], position, row, block, codes, set_start, set_bits)
                walking[remaining] = row  # stays only if the count grows
                remaining += child[row] >= 0
            count = remaining
        leaf_start = leaf_offsets[tree]
        for row in range(rows):
            sums[row] += leaf_values[np.uint64(leaf_start + ~child[row])]


@njit(cache=True, nogil=True, error_model="numpy")
def walk_trees(  # type: ignore[no-untyped-def]
    block, rows, nodes, node_offsets, codes, set_start, set_bits, leaf_offsets, leaf_values, sums
):
    """Do the same as `walk_rows` for a few rows, each of which walks through many trees side by side."""
    child, walking = np.empty(LANES, np.int32), np.empty(LANES, np.int64)
    trees = len(node_offsets) - 1
    for row in range(rows):
        for start in range(0, trees, LANES):
            end = min(start + LANES, trees)
            count = 0
            for tree in range(start, end):
                child[tree - start] = 0 if node_offsets[tree + 1] > node_offsets[tree] else -1
                walking[count] = tree - start
                count += child[tree - start] >= 0
            while count:
                remaining = 0
                for i in range(count):
                    place = walking[i]
                    position = np.uint64(node_offsets[start + place] + child[place])
                    child[place] = next_child(nodes[position], position, row, block, codes, set_start, set_bits)
                    walking[remaining] = place
                    remaining += child[place] >= 0
                count = remaining
            for tree in range(start, end):
                sums[row] += leaf_values[np.uint64(leaf_offsets[tree] + ~child[tree - start])]

"""Scores blocks of rows with trees, compiled: all rows pass all conditions of a tree, in lanes of one or two bytes.

A condition `x <= t` is decided by ranks: x is replaced once by the number of its feature's thresholds that are smaller,
which is at most the rank of t exactly where x <= t. Ranks and leaves of most trees fit in a byte, as in RapidScorer (Ye
et al., KDD 2018), so that one instruction compares up to 64 rows.

Leaves are numbered from left to right, and a row begins at leaf 0. If it is at the first leaf of a condition's subtree
and does not meet the condition, it goes to the first leaf of the right subtree. Parents come before their children: a
row is at a subtree's first leaf when the condition of the subtree's root passes if and only if its walk would reach
this root. At the end it is at the leaf of its walk. A condition that a row does not reach costs as much as another, but
nothing branches, and a block's leaves stay in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from delorean.scoring.tree_kernels import AS_MINUS_INFINITY, LANES

PIVOTS = 15  # thresholds of a feature that all lanes are compared with, before each searches between two of them
TOGETHER = 4  # trees whose leaves are added at once
MISSING = 65_535  # the greatest rank, which meets no condition; as a byte, 255

_I32 = ir.IntType(32)
_arrays: Any = arrayobj  # Numba's functions have no types
_builders: Any = cgutils
_intrinsic: Any = intrinsic


@njit(cache=True, nogil=True, error_model="numpy")
def find_ranks(values, rows, pivots, depth, thresholds, ranks):  # type: ignore[no-untyped-def]
    """Find the ranks of values: the number of thresholds that are smaller.

    pivots: (PIVOTS,) every 2 ** depth-th threshold
    thresholds: the others, in levels: a value's place in the next level is twice its place in this one, and one more if
        the threshold here is smaller; after the last level, its place is its rank
    ranks: (LANES,) uint32
    """
    for row in range(np.uint64(rows)):
        ranks[row] = 0
    for pivot in pivots:
        for row in range(np.uint64(rows)):
            ranks[row] += np.uint32(pivot < values[row])
    start = np.uint64(0)
    for level in range(depth):
        for row in range(np.uint64(rows)):
            place = np.uint64(ranks[row])
            ranks[row] = np.uint64(2) * place + np.uint64(thresholds[start + place] < values[row])
        start += np.uint64(PIVOTS + 1) << np.uint64(level)


@njit(cache=True, nogil=True, error_model="numpy")
def rank_block(features, rows, searches, columns, zero, block):  # type: ignore[no-untyped-def]
    """Fill the columns of a block with the ranks of features, or for missing values as each column's kind says.

    features: (rows or more, features) float32
    searches: feature, pivots, depths, starts, thresholds: the features that have thresholds, and theirs, as in
        `find_ranks`
    columns: offsets, position, kinds, zero_missing: the columns of each of these features
    block: (columns · LANES,) uint8 or uint16
    """
    feature, pivots, depths, starts, thresholds = searches
    offsets, position, kinds, zero_missing = columns
    values, ranks = np.zeros(LANES, np.float32), np.zeros(LANES, np.uint32)
    for i in range(len(feature)):
        for row in range(np.uint64(rows)):
            values[row] = features[row, np.uint64(feature[i])]
        find_ranks(values, rows, pivots[i * PIVOTS : (i + 1) * PIVOTS], depths[i], thresholds[starts[i] :], ranks)
        for column in range(offsets[i], offsets[i + 1]):
            into = np.uint64(position[column] * LANES)
            missing = np.uint32(0 if kinds[column] == AS_MINUS_INFINITY else MISSING)
            if zero_missing[column]:
                for row in range(np.uint64(rows)):
                    block[into + row] = ranks[row] if abs(values[row]) > zero else missing  # not so for NaN
            else:
                for row in range(np.uint64(rows)):
                    block[into + row] = missing if np.isnan(values[row]) else ranks[row]


@_intrinsic(prefer_literal=True)
def pass_conditions(_typing, width, block, row, conditions, start, end, leaf, into):  # type: ignore[no-untyped-def]
    """Let `width` rows of a block pass the conditions from start to end, and store their leaves.

    It does the same as these lines, in vectors of `width` lanes, which LLVM divides into those that the processor has:

        column, most, first, right = conditions
        for lane in range(width):
            at = 0
            for c in range(start, end):
                if at == first[c] and block[column[c] * LANES + row + lane] > most[c]:
                    at = right[c]
            leaf[into + lane] = at

    width: a constant; block, leaf: of one type; row, start, end, into: int64
    conditions: column int64, and others uint32 that repeat a value of the block's type: a processor fills a vector with
        such a number while it loads it, but with a byte in a step of its own
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at_row, at_start, at_end, at_into = (arguments[i] for i in (2, 4, 5, 7))
        lanes = ir.VectorType(context.get_value_type(block.dtype), width.literal_value)
        repeated = ir.VectorType(_I32, lanes.count * lanes.element.width // _I32.width)

        def data(array_type: Any, array: Any) -> Any:
            return _arrays.make_array(array_type)(context, builder, array).data

        def at_place(array: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(array, [place]), lanes.as_pointer())

        def fill(array: Any, place: Any) -> Any:
            value, empty = builder.load(builder.gep(array, [place])), ir.Constant(repeated, ir.Undefined)
            one = builder.insert_element(empty, value, ir.Constant(_I32, 0))
            first_of_all = ir.Constant(ir.VectorType(_I32, repeated.count), None)
            return builder.bitcast(builder.shuffle_vector(one, empty, first_of_all), lanes)

        column, most, first, right = (
            data(kind, builder.extract_value(arguments[3], i)) for i, kind in enumerate(signature.args[3])
        )
        ranks = builder.gep(data(signature.args[1], arguments[1]), [at_row])
        at = _builders.alloca_once_value(builder, ir.Constant(lanes, None))
        with _builders.for_range_slice(builder, at_start, at_end, ir.Constant(at_end.type, 1)) as (c, _):
            offset = builder.mul(builder.load(builder.gep(column, [c])), ir.Constant(at_row.type, LANES))
            here = builder.icmp_unsigned("==", builder.load(at), fill(first, c))
            above = builder.icmp_unsigned(">", builder.load(at_place(ranks, offset), align=1), fill(most, c))
            builder.store(builder.select(builder.and_(here, above), fill(right, c), builder.load(at)), at)
        builder.store(builder.load(at), at_place(data(signature.args[6], arguments[6]), at_into), align=1)
        return context.get_dummy_value()

    return types.void(width, block, row, conditions, start, end, leaf, into), generate


@njit(cache=True, nogil=True, error_model="numpy")
def decide_sets(block, rows, codes, set_conditions, tree):  # type: ignore[no-untyped-def]
    """Store what a tree's categorical conditions decide as ranks: 0 where a row meets one, and 1 otherwise."""
    offsets, column, start, bits, ranked = set_conditions
    for place in range(offsets[tree], offsets[tree + 1]):
        coded, begin = np.uint64(column[place] * LANES), start[place]
        into = np.uint64((ranked + place - offsets[tree]) * LANES)
        for row in range(np.uint64(rows)):
            bit = begin + codes[coded + row]
            block[into + row] = ~(bits[bit >> 5] >> np.uint32(bit & 31)) & np.uint32(1)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def pass_tree(block, rows, conditions, start, end, leaf, into):  # type: ignore[no-untyped-def]
    """Store the leaves of a block's rows in a tree, whose conditions are from start to end."""
    if rows <= 64:
        pass_conditions(64, block, 0, conditions, start, end, leaf, into)
    elif rows <= 128:
        pass_conditions(128, block, 0, conditions, start, end, leaf, into)
    elif block.itemsize == 1:
        pass_conditions(256, block, 0, conditions, start, end, leaf, into)
    else:  # more would not fit in the registers of most processors
        pass_conditions(128, block, 0, conditions, start, end, leaf, into)
        pass_conditions(128, block, 128, conditions, start, end, leaf, into + 128)


@njit(cache=True, nogil=True, error_model="numpy")
def score_ranks(  # type: ignore[no-untyped-def]
    block, rows, first, last, offsets, conditions, codes, set_conditions, leaf_offsets, leaf_values, leaf, sums
):
    """Add the leaf of every tree from the first up to the last to the sums of a block's rows, in their order.

    offsets, conditions: each tree's, as in `pass_conditions`
    set_conditions: offsets, column, start, bits, ranked: each tree's categorical conditions; from its start on, the
        bits of the codes that meet a condition. What they decide becomes the ranks of columns from `ranked` on.
    leaf_values: each tree's from left to right, and −0 after all
    leaf: (TOGETHER · LANES,) of the block's type
    sums: (LANES,) float64, or float32 where the learner's are; leaf values are of the same type
    """
    second, third, fourth = np.uint64(LANES), np.uint64(2 * LANES), np.uint64(3 * LANES)
    begin = np.empty(TOGETHER, np.uint64)
    for tree in range(first, last, TOGETHER):
        for i in range(TOGETHER):
            start, end, begin[i] = 0, 0, len(leaf_values) - 1
            if tree + i < last:
                start, end, begin[i] = offsets[tree + i], offsets[tree + i + 1], leaf_offsets[tree + i]
                decide_sets(block, rows, codes, set_conditions, tree + i)
            pass_tree(block, rows, conditions, start, end, leaf, i * LANES)
        l0, l1, l2, l3 = begin[0], begin[1], begin[2], begin[3]
        for row in range(np.uint64(rows)):
            total = sums[row] + leaf_values[l0 + np.uint64(leaf[row])]
            total += leaf_values[l1 + np.uint64(leaf[second + row])]
            total += leaf_values[l2 + np.uint64(leaf[third + row])]
            sums[row] = total + leaf_values[l3 + np.uint64(leaf[fourth + row])]

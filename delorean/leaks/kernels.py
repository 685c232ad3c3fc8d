"""Compiled functions of the detector: ranks, bins, and statistics of labels and of shuffled labels."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

MISSING = np.uint32(0)  # the key of NaN, below that of any number
MOST_BINS = 120  # twice as many and one for NaN are codes of one byte
_CODES = 256


def sortable(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return a key for each float that sorts and compares like it; both zeros are equal, NaN is the lowest value.

    >>> [int(key) for key in sortable(np.float32([np.nan, -np.inf, -0.0, 0.0])) - np.uint32(0)]
    [0, 8388607, 2147483648, 2147483648]
    """
    bits = (values + np.float32(0)).view(np.uint32)
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    sortable_keys: NDArray[np.uint32] = np.where(np.isnan(values), MISSING, keys)
    return sortable_keys


@njit(cache=True)
def relative_ranks(keys: NDArray[np.uint32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return each item's rank in its group, ties by their mean rank, divided by the group's size + 1."""
    ranks = np.empty(len(keys), dtype=np.float32)
    for group in range(len(offsets) - 1):
        start, size = offsets[group], offsets[group + 1] - offsets[group]
        order = np.argsort(keys[start : start + size])
        first = 0
        while first < size:
            last = first
            while last + 1 < size and keys[start + order[last + 1]] == keys[start + order[first]]:
                last += 1
            rank = (first + last + 2) / 2 / (size + 1)
            for position in range(first, last + 1):
                ranks[start + order[position]] = rank
            first = last + 1
    return ranks


@njit(cache=True)
def bin_codes(keys: NDArray[np.uint32], order: NDArray[np.int64], bins: int) -> NDArray[np.uint8]:
    """Assign values to bins of about equal size; each frequent value has its own bin, and so has NaN.

    order: the positions of the keys from the least to the greatest
    bins: at most `MOST_BINS`; there may be twice as many where frequent values lie between others
    """
    codes = np.empty(len(keys), dtype=np.uint8)
    full = max(1.0, len(keys) / bins)
    code, inside = 0, 0
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and keys[order[last + 1]] == keys[order[first]]:
            last += 1
        alone = last + 1 - first >= full or keys[order[first]] == MISSING
        if inside > 0 and (alone or inside >= full):
            code, inside = code + 1, 0
        for position in range(first, last + 1):
            codes[order[position]] = code
        inside += last + 1 - first
        if alone:
            code, inside = code + 1, 0
        first = last + 1
    return codes


@njit(cache=True)
def measure(
    chosen: NDArray[np.bool_], scores: NDArray[np.float32], codes: NDArray[np.uint8], totals: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each column's sum of scores over the chosen items, and its codes' information on which items are chosen.

    scores: (items, features)
    codes: (items, columns)
    totals: (columns, 256) the number of items with each code

    Information is in nats, the plug-in estimate; the null measures how much of it is due to chance.
    """
    sums = np.zeros(scores.shape[1])
    counts = np.zeros(totals.shape, dtype=np.int64)
    size = 0
    for i in range(len(chosen)):
        if chosen[i]:
            size += 1
            for feature in range(scores.shape[1]):
                sums[feature] += scores[i, feature]
            for column in range(codes.shape[1]):
                counts[column, codes[i, column]] += 1
    information = np.zeros(codes.shape[1])
    share = size / len(chosen)
    for column in range(codes.shape[1]):
        for code in range(totals.shape[1]):
            total = totals[column, code]
            if total > 0:
                inside = counts[column, code] / total
                weight = total / len(chosen)
                if inside > 0:
                    information[column] += weight * inside * np.log(inside / share)
                if inside < 1:
                    information[column] += weight * (1 - inside) * np.log((1 - inside) / (1 - share))
    return sums, information


@njit(cache=True)
def measure_shuffled(
    chosen: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    scores: NDArray[np.float32],
    codes: NDArray[np.uint8],
    totals: NDArray[np.int64],
    rng: np.random.Generator,
    times: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure repeatedly, each time choosing as many items of each group at random, every choice equally likely.

    Returns (times, features) sums and (times, columns) information.
    """
    sums = np.empty((times, scores.shape[1]))
    information = np.empty((times, codes.shape[1]))
    shuffled = np.empty_like(chosen)
    for time in range(times):
        for group in range(len(offsets) - 1):
            remaining = 0
            for i in range(offsets[group], offsets[group + 1]):
                remaining += chosen[i]
            # Selection sampling, Knuth, The Art of Computer Programming 3.4.2, algorithm S.
            for i in range(offsets[group], offsets[group + 1]):
                shuffled[i] = rng.random() * (offsets[group + 1] - i) < remaining
                remaining -= shuffled[i]
        sums[time], information[time] = measure(shuffled, scores, codes, totals)
    return sums, information


@njit(cache=True)
def count_codes(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the number of items with each code: (columns, 256)."""
    totals = np.zeros((codes.shape[1], _CODES), dtype=np.int64)
    for i in range(len(codes)):
        for column in range(codes.shape[1]):
            totals[column, codes[i, column]] += 1
    return totals

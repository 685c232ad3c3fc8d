"""The as-of rule, compiled: a hash table groups rows by key, groups are sorted by time and searched by bisection."""

from __future__ import annotations

import numpy as np
from numba import njit

# Numba infers the types, hence no annotations: keys are (rows, columns) int64, times int64, spans uint64.
# Every function has one signature, is cached on disk, and releases the interpreter's lock.
_EARLIEST = np.iinfo(np.int64).min
_FURTHEST = np.uint64(2**64 - 1)
_RUN = 24  # rows that insertion sorts faster than anything that allocates


@njit(cache=True, nogil=True)
def mix64(h):  # type: ignore[no-untyped-def]
    """Scatter a uint64 over all 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit(cache=True, nogil=True)
def hash_rows(keys):  # type: ignore[no-untyped-def]
    """Hash each row's key so that similar keys do not cluster.

    Every step is a bijection: rows with equal hashes whose other columns are equal have equal first columns as well.
    """
    hashes = np.zeros(len(keys), dtype=np.uint64)
    for row in range(len(keys)):
        h = np.uint64(0)
        for column in range(keys.shape[1]):
            h = mix64((h ^ np.uint64(keys[row, column])) + np.uint64(0x9E3779B97F4A7C15))
        hashes[row] = h
    return hashes


# The two functions below repeat the lines that probe the table: a shared function would take arrays once for each row,
# and counting the references to those takes five times as long as all the rest.


@njit(cache=True, nogil=True)
def group_rows(keys, valid):  # type: ignore[no-untyped-def]
    """Number the distinct keys in order of appearance.

    valid: (rows,) bool, false where a row can match nothing
    Returns codes (rows,), −1 where not valid; slots, the hash table; each group's key (groups, columns) and hash.
    """
    hashes = hash_rows(keys)
    slots = np.full(1024, -1, dtype=np.int64)
    group_keys = np.empty(keys.shape, dtype=np.int64)  # memory that no group needs is never touched
    group_hashes = np.empty(len(keys), dtype=np.uint64)
    codes = np.full(len(keys), -1, dtype=np.int64)
    groups = 0
    for row in range(len(keys)):
        if not valid[row]:
            continue
        mask = len(slots) - 1
        h = hashes[row]
        at = np.int64(h) & mask
        while slots[at] >= 0:
            g = slots[at]
            if group_hashes[g] == h:  # so the first columns are equal if the others are
                column = 1
                while column < keys.shape[1] and keys[row, column] == group_keys[g, column]:
                    column += 1
                if column == keys.shape[1]:
                    break
            at = (at + 1) & mask
        if slots[at] < 0:
            slots[at] = groups
            for column in range(keys.shape[1]):
                group_keys[groups, column] = keys[row, column]
            group_hashes[groups] = h
            groups += 1
        codes[row] = slots[at]
        if 2 * groups > len(slots):
            slots = _enlarged(group_hashes[:groups], 4 * len(slots))
    return codes, slots, group_keys[:groups], group_hashes[:groups]


@njit(cache=True, nogil=True)
def _enlarged(hashes, size):  # type: ignore[no-untyped-def]
    """Build a larger hash table of groups, which are all distinct."""
    slots = np.full(size, -1, dtype=np.int64)
    for group in range(len(hashes)):
        at = np.int64(hashes[group]) & (size - 1)
        while slots[at] >= 0:
            at = (at + 1) & (size - 1)
        slots[at] = group
    return slots


@njit(cache=True, nogil=True)
def find_groups(keys, valid, slots, group_keys, group_hashes):  # type: ignore[no-untyped-def]
    """Find each row's code among the groups of other rows; −1 where it has none or is not valid."""
    hashes = hash_rows(keys)
    codes = np.full(len(keys), -1, dtype=np.int64)
    mask = len(slots) - 1
    for row in range(len(keys)):
        if not valid[row]:
            continue
        h = hashes[row]
        at = np.int64(h) & mask
        while slots[at] >= 0:
            g = slots[at]
            if group_hashes[g] == h:  # so the first columns are equal if the others are
                column = 1
                while column < keys.shape[1] and keys[row, column] == group_keys[g, column]:
                    column += 1
                if column == keys.shape[1]:
                    break
            at = (at + 1) & mask
        codes[row] = slots[at]
    return codes


@njit(cache=True, nogil=True)
def sort_groups(codes, groups, times, visit):  # type: ignore[no-untyped-def]
    """Order rows by group, time and position in `visit`, leaving out codes below 0.

    visit: (rows,) int64, the rows in order of preference, the last wins among equal times; empty: row order
    Returns order (valid rows,), row numbers; starts (groups + 1,), where each group begins; the times in that order.
    """
    starts = np.zeros(groups + 1, dtype=np.int64)
    for code in codes:
        if code >= 0:
            starts[code + 1] += 1
    for g in range(groups):
        starts[g + 1] += starts[g]
    order = np.empty(starts[groups], dtype=np.int64)
    sorted_times = np.empty(starts[groups], dtype=np.int64)
    filled = starts[:-1].copy()
    for i in range(len(codes)):
        row = visit[i] if len(visit) else i
        if codes[row] >= 0:
            at = filled[codes[row]]
            order[at], sorted_times[at] = row, times[row]
            filled[codes[row]] += 1
    for g in range(groups):
        for k in range(starts[g] + 1, starts[g + 1]):
            if sorted_times[k - 1] > sorted_times[k]:
                _sort_group(order, sorted_times, starts[g], starts[g + 1])
                break
    return order, starts, sorted_times


@njit(cache=True, nogil=True)
def _sort_group(order, times, first, end):  # type: ignore[no-untyped-def]
    """Sort the rows of one group by time in place, keeping the order of equal times.

    Runs sorted by insertion, then merged. NumPy's stable sort would do, but takes Numba 5 seconds to compile.
    """
    for start in range(first, end, _RUN):
        for k in range(start + 1, min(start + _RUN, end)):
            row, time = order[k], times[k]
            j = k
            while j > start and times[j - 1] > time:
                order[j], times[j] = order[j - 1], times[j - 1]
                j -= 1
            order[j], times[j] = row, time
    width = _RUN
    while width < end - first:
        old_order, old_times = order[first:end].copy(), times[first:end].copy()
        for low in range(0, end - first, 2 * width):
            middle, high = min(low + width, end - first), min(low + 2 * width, end - first)
            a, b = low, middle
            for k in range(low, high):
                if a < middle and (b == high or old_times[a] <= old_times[b]):
                    order[first + k], times[first + k] = old_order[a], old_times[a]
                    a += 1
                else:
                    order[first + k], times[first + k] = old_order[b], old_times[b]
                    b += 1
        width *= 2


@njit(cache=True, nogil=True)
def any_tied(starts, times):  # type: ignore[no-untyped-def]
    """Return whether any group has equal times; starts and times from `sort_groups`."""
    for g in range(len(starts) - 1):
        for k in range(starts[g] + 1, starts[g + 1]):
            if times[k - 1] == times[k]:
                return True
    return False


@njit(cache=True, nogil=True)
def match_rows(codes, near, far, order, starts, times, ages, lag, max_age, matches):  # type: ignore[no-untyped-def]
    """Find for each left row the last of its group whose time is in [time − max_age, time − lag].

    codes: (left rows,) from `find_groups`
    near, far: (left rows,) the left time to subtract lag from, and max_age from
    order, starts: from `sort_groups` over the right rows
    times: (valid right rows,) the right times in `order`, to compare with near − lag
    ages: (right rows,) the right times to compare with far − max_age
    lag, max_age: uint64
    matches: (left rows,) int64, filled with right row numbers, −1 for none
    """
    for i in range(len(codes)):
        matches[i] = -1
        # Differences are unsigned: the earliest and latest time are further apart than an int64 counts.
        if codes[i] < 0 or np.uint64(near[i]) - np.uint64(_EARLIEST) < lag:
            continue
        latest = np.int64(np.uint64(near[i]) - lag)
        first, high = starts[codes[i]], starts[codes[i] + 1]
        low = first
        while low < high:
            middle = (low + high) // 2
            if times[middle] <= latest:
                low = middle + 1
            else:
                high = middle
        if low > first:
            row = order[low - 1]
            if max_age == _FURTHEST or np.uint64(far[i]) - np.uint64(ages[row]) <= max_age:
                matches[i] = row

"""Matches the rows and items of two sets of feature rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.as_of.join import as_of_rows
from delorean.labels import TIME_COLUMN
from delorean.ranking_data.ranking_data import ranges
from encoders.columns import one_array
from schemas.errors import LabelError
from schemas.tables import TIME

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]  # positions before and after, of the same length
_NOW = timedelta(0)


@dataclass(frozen=True)
class Alignment:
    """The matched rows and items of both sides.

    rows: (matched rows,) row numbers of both sides
    items: (matched items,) positions of both sides in the lists of all rows end to end
    row_of: (matched items,) the position of each item's row among the matched rows
    rows_only, items_only: the numbers that only one side has, before and after; items of matched rows
    reordered: matched rows with the same items in another order
    """

    rows: Pair
    items: Pair
    row_of: NDArray[np.int64]
    rows_only: tuple[int, int]
    items_only: tuple[int, int]
    reordered: int


def align(before: pa.Table, after: pa.Table, context: Sequence[str], items: Sequence[str]) -> Alignment:
    """Match rows by context and time, and the items of matched rows by all item variables.

    Repeated items in a row are matched one by one, in order. A null matches nothing.
    Raises LabelError for a side with several rows of one context and time.
    """
    rows = _match_rows(before, after, context)
    starts, lengths = zip(
        *(_lists(table[items[0]], numbers) for table, numbers in zip((before, after), rows, strict=True)), strict=True
    )
    flat = tuple([one_array(table[name]).flatten() for name in items] for table in (before, after))
    same = _same_items(flat, starts, lengths)
    row = np.flatnonzero(same)
    matched = (ranges(starts[0][row], lengths[0][row]), ranges(starts[1][row], lengths[0][row]))
    row_of = np.repeat(row, lengths[0][row])
    rest = np.flatnonzero(~same)
    reordered = 0
    if len(rest):
        pairs, rows_of_pairs = _match_items(flat, starts, lengths, rest)
        matched = (np.concatenate([matched[0], pairs[0]]), np.concatenate([matched[1], pairs[1]]))
        row_of = np.concatenate([row_of, rows_of_pairs])
        counts = np.bincount(rows_of_pairs, minlength=len(same))[rest]
        reordered = int(((counts == lengths[0][rest]) & (counts == lengths[1][rest])).sum())
    return Alignment(
        rows=rows,
        items=matched,
        row_of=row_of,
        rows_only=(before.num_rows - len(rows[0]), after.num_rows - len(rows[1])),
        items_only=(int(lengths[0].sum()) - len(row_of), int(lengths[1].sum()) - len(row_of)),
        reordered=reordered,
    )


def _match_rows(before: pa.Table, after: pa.Table, context: Sequence[str]) -> Pair:
    for side, table in (("before", before), ("after", after)):
        last = _equal_rows(table, table, context)
        repeated = int(((last >= 0) & (last != np.arange(table.num_rows))).sum())
        if repeated:
            raise LabelError.because(
                f"{repeated} rows {side} repeat a context and time, so it is ambiguous which to compare",
                "keep one row for each context and time",
            )
    rows = _equal_rows(before, after, context)
    matched = np.flatnonzero(rows >= 0)
    return matched, rows[matched]


def _equal_rows(left: pa.Table, right: pa.Table, context: Sequence[str]) -> NDArray[np.int64]:
    """Return for each row the last on the right with its context and time, −1 for none: an as-of join of age 0."""
    keys = ([table[name] for name in context] for table in (left, right))
    return as_of_rows(next(keys), left[TIME_COLUMN], next(keys), right[TIME_COLUMN], max_age=_NOW)


def _equal_items(left: Sequence[pa.Array], right: Sequence[pa.Array]) -> NDArray[np.int64]:
    """Return for each left position the last on the right with equal values in all columns, −1 for none."""
    sides = [[pa.chunked_array([column]) for column in side] for side in (left, right)]
    times = [pa.chunked_array([pa.array(np.zeros(len(side[0]), dtype=np.int64)).cast(TIME)]) for side in (left, right)]
    return as_of_rows(sides[0], times[0], sides[1], times[1], max_age=_NOW)


def _lists(lists: pa.ChunkedArray, rows: NDArray[np.int64]) -> Pair:
    """Return where each row's items start in the lists of all rows end to end, and their number."""
    offsets = one_array(lists).offsets.to_numpy().astype(np.int64)
    return (offsets[:-1] - offsets[0])[rows], np.diff(offsets)[rows]


def _same_items(
    flat: tuple[list[pa.Array], ...], starts: Sequence[NDArray[np.int64]], lengths: Sequence[NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """Return a mask of the matched rows with equal items in the same order, as nearly all have."""
    same: NDArray[np.bool_] = lengths[0] == lengths[1]
    if [column.type for column in flat[0]] != [column.type for column in flat[1]]:
        return np.zeros(len(same), dtype=bool)
    row = np.flatnonzero(same)
    before, after = (pa.array(ranges(start[row], lengths[0][row])) for start in starts)
    row_of = np.repeat(row, lengths[0][row])
    for left, right in zip(*flat, strict=True):
        equal = pc.fill_null(pc.equal(left.take(before), right.take(after)), False)
        same[row_of[~equal.to_numpy(zero_copy_only=False)]] = False
    return same


def _match_items(
    flat: tuple[list[pa.Array], ...],
    starts: Sequence[NDArray[np.int64]],
    lengths: Sequence[NDArray[np.int64]],
    rows: NDArray[np.int64],
) -> tuple[Pair, NDArray[np.int64]]:
    """Match the items of some rows by value. Returns their positions and their rows."""
    keys, positions = [], []
    for columns, start, length in zip(flat, starts, lengths, strict=True):
        position = ranges(start[rows], length[rows])
        key = [pa.array(np.repeat(rows, length[rows])), *(column.take(pa.array(position)) for column in columns)]
        keys.append([*key, pa.array(_occurrences(_equal_items(key, key)))])
        positions.append(position)
    equal = _equal_items(keys[0], keys[1])
    matched = np.flatnonzero(equal >= 0)
    return (positions[0][matched], positions[1][equal[matched]]), keys[0][0].to_numpy()[matched]


def _occurrences(same: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number equal items from 0, in their order."""
    order = np.argsort(same, kind="stable")
    grouped = same[order]
    numbers = np.empty(len(same), dtype=np.int64)
    numbers[order] = np.arange(len(same)) - np.searchsorted(grouped, grouped)
    return numbers

"""Counts items that a context has again within a short time, and those whose labels then differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.labels import TIME_COLUMN


@dataclass
class NearRepeats:
    """Counts repeated items in rows that arrive sorted by context and time, a part at a time.

    Only the last rows of the last context are kept between parts. Values are compared, not hashes.

    context, items, labels: names of the columns; items and labels are lists
    near: microseconds

    duplicates: items that the context had at most `near` before, with equal labels
    contradictions: label → items that the context had at most `near` before, with another value of this label
    """

    context: Sequence[str]
    items: Sequence[str]
    labels: Sequence[str]
    near: int
    duplicates: int = 0
    contradictions: dict[str, int] = field(default_factory=dict)
    _last: pa.Table | None = None

    def __post_init__(self) -> None:
        """Start counting."""
        self.contradictions = dict.fromkeys(self.labels, 0)

    def end_of_file(self) -> None:
        """Forget the last rows: another file has other contexts."""
        self._last = None

    def add(self, rows: pa.Table) -> None:
        """Count the items of rows."""
        rows = rows.select([*self.context, TIME_COLUMN, *self.items, *self.labels])
        kept = 0 if self._last is None else len(self._last)
        if self._last is not None:
            rows = pa.concat_tables([self._last, rows])
        rows = rows.combine_chunks()
        contexts, times = _run_numbers(rows, self.context), rows[TIME_COLUMN].cast(pa.int64()).to_numpy()
        same = np.diff(contexts) == 0
        close = np.append(False, same & (np.diff(times) <= self.near))  # to the row before
        involved = close | np.append(close[1:], False)
        if involved.any():
            self._count(rows.filter(pa.array(involved)), contexts[involved], np.flatnonzero(involved) >= kept)
        recent = (contexts == contexts[-1]) & (times >= times[-1] - self.near) if len(rows) else np.zeros(0, dtype=bool)
        self._last = rows.filter(pa.array(recent))

    def _count(self, rows: pa.Table, contexts: NDArray[np.int64], new: NDArray[np.bool_]) -> None:
        """Count in rows that have a neighbour within `near`. new: whether a row has not been counted before."""
        rows = rows.combine_chunks()
        lengths = pc.list_value_length(rows[self.items[0]]).to_numpy()
        parents = np.repeat(np.arange(len(rows)), lengths)
        times = rows[TIME_COLUMN].cast(pa.int64()).to_numpy()[parents]
        keys = [_codes(pc.list_flatten(rows[name])) for name in self.items]
        order = np.lexsort((times, *keys, contexts[parents]))
        repeats = np.ones(len(order) - 1 if len(order) else 0, dtype=bool)
        for key in (*keys, contexts[parents]):
            repeats &= np.diff(key[order]) == 0
        repeats &= (np.diff(times[order]) <= self.near) & new[parents][order][1:]
        equal = repeats.copy()
        for name in self.labels:
            values = _values(rows[name])[order]
            differs = (values[1:] != values[:-1]) & ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
            self.contradictions[name] += int((repeats & differs).sum())
            equal &= ~differs
        self.duplicates += int(equal.sum())


def _run_numbers(rows: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    """Number the runs of rows whose columns are equal."""
    changed = np.zeros(len(rows), dtype=bool)
    for name in names:
        codes = _codes(rows[name])
        changed[1:] |= np.diff(codes) != 0
    return np.cumsum(changed)


def _codes(values: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """Return a number for each value, the same for equal ones."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(array, pa.ChunkedArray):  # without any chunk
        array = pa.array([], array.type)
    if pa.types.is_int64(array.type) and not array.null_count:
        numbers: NDArray[np.int64] = array.to_numpy()
        return numbers
    codes: NDArray[np.int64] = array.dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
    return codes


def _values(lists: pa.ChunkedArray) -> NDArray[np.float64]:
    flat = pc.fill_null(pc.list_flatten(lists).cast(pa.float64()), float("nan"))
    values: NDArray[np.float64] = flat.to_numpy()
    return values

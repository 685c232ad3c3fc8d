"""A batch of a feature set's rows, with the columns as arrays that several checks use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.paradox.stored_feature_set import StoredFeatureSet
from delorean.feature_sets.columns import captured_column
from delorean.labels import TIME_COLUMN
from snapshotter.records import from_micros

NEVER = int(np.iinfo(np.int64).min)  # stands for a missing time


class RowBatch:
    """A batch of rows. Times are microseconds with a mask of the existing ones."""

    def __init__(self, stored: StoredFeatureSet, table: pa.Table) -> None:
        self.stored = stored
        self.table = table.combine_chunks()
        self.time, self.timed = self.times(TIME_COLUMN)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    def times(self, column: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return a column of times, and a mask of the existing ones."""
        values = self.table[column]
        micros = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
        return micros, ~self.null(column)

    def captured(self, element: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return when an element was captured, and a mask of the rows that have it."""
        return self.times(captured_column(element))

    def null(self, column: str) -> NDArray[np.bool_]:
        """Return a mask of the rows where a column is null."""
        mask: NDArray[np.bool_] = np.asarray(self.table[column].is_null())
        return mask

    def floats(self, column: str) -> NDArray[np.float64]:
        """Return a column of numbers, NaN where it is null."""
        numbers: NDArray[np.float64] = self.table[column].cast(pa.float64()).to_numpy()
        return numbers

    def lengths(self, column: str) -> NDArray[np.int64]:
        """Return the lengths of a column's lists, −1 where it is null."""
        lengths = pc.fill_null(pc.list_value_length(self.table[column]), -1)
        return lengths.to_numpy().astype(np.int64)  # type: ignore[no-any-return]  # pyarrow has no types

    def extremes(self, elements: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return the first and the last capture among some elements, and a mask of the rows that have any."""
        first = np.full(len(self), np.iinfo(np.int64).max)
        last = np.full(len(self), NEVER)
        for element in elements:
            at, existing = self.captured(element)
            first = np.where(existing, np.minimum(first, at), first)
            last = np.where(existing, np.maximum(last, at), last)
        present = last != NEVER
        return np.where(present, first, 0), np.where(present, last, 0), present

    def by_value(self, column: str, look_up: Callable[[str], Any], absent: Any) -> NDArray[Any]:
        """Look up each distinct text of a column once. absent: the value for nulls."""
        texts = self.table[column].cast(pa.string()).combine_chunks().dictionary_encode()
        distinct = np.array([*(look_up(text) for text in texts.dictionary.to_pylist()), absent])
        values: NDArray[Any] = distinct[pc.fill_null(texts.indices, len(distinct) - 1).to_numpy(zero_copy_only=False)]
        return values

    def value(self, column: str, row: int) -> Any:
        """Return one value."""
        return self.table[column][row].as_py()

    def name(self, row: int) -> str:
        """Describe a row by its context and time."""
        context = ", ".join(f"{name} {self.value(name, row)}" for name in self.stored.context)
        return f"{context} at {moment(self.time[row]) if self.timed[row] else 'no time'}"


def moment(micros: int | np.int64) -> str:
    """Format a time.

    >>> moment(1_767_225_600_000_000)
    '2026-01-01 00:00:00Z'
    """
    return from_micros(int(micros)).isoformat(sep=" ").replace("+00:00", "Z")


def span(micros: int | np.int64) -> str:
    """Format a duration.

    >>> span(90_000_000)
    '0:01:30'
    """
    return str(timedelta(microseconds=int(micros)))

"""Some rows of a feature set, with what several checks ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.paradox.stored import StoredFeatureSet
from delorean.feature_sets.columns import captured_column
from delorean.labels import TIME_COLUMN
from snapshotter.records import from_micros

NEVER = int(np.iinfo(np.int64).min)  # stands for a time that is not there


class Rows:
    """A batch of rows. Times are microseconds with a mask of those that are there."""

    def __init__(self, stored: StoredFeatureSet, table: pa.Table) -> None:
        self.stored = stored
        self.table = table.combine_chunks()
        self.time, self.timed = self.times(TIME_COLUMN)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    def times(self, column: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Give a column of times, and which of them are there."""
        values = self.table[column]
        micros = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
        return micros, ~self.null(column)

    def captured(self, element: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Give when an element was captured, and where it was."""
        return self.times(captured_column(element))

    def null(self, column: str) -> NDArray[np.bool_]:
        """Give the rows where a column is null."""
        found: NDArray[np.bool_] = np.asarray(self.table[column].is_null())
        return found

    def floats(self, column: str) -> NDArray[np.float64]:
        """Give a column of numbers, NaN where it is null."""
        found: NDArray[np.float64] = self.table[column].cast(pa.float64()).to_numpy()
        return found

    def lengths(self, column: str) -> NDArray[np.int64]:
        """Give the lengths of a column's lists, −1 where there is none."""
        found: NDArray[np.int64] = (
            pc.fill_null(pc.list_value_length(self.table[column]), -1).to_numpy().astype(np.int64)
        )
        return found

    def extremes(self, elements: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Give the first and the last capture among some elements, and which rows have any."""
        first = np.full(len(self), np.iinfo(np.int64).max)
        last = np.full(len(self), NEVER)
        for element in elements:
            at, there = self.captured(element)
            first, last = np.where(there, np.minimum(first, at), first), np.where(there, np.maximum(last, at), last)
        present = last != NEVER
        return np.where(present, first, 0), np.where(present, last, 0), present

    def by_value(self, column: str, look_up: Callable[[str], Any], absent: Any) -> NDArray[Any]:
        """Look each distinct text of a column up once. absent: what a null becomes."""
        texts = self.table[column].cast(pa.string()).combine_chunks().dictionary_encode()
        found = np.array([*(look_up(text) for text in texts.dictionary.to_pylist()), absent])
        values: NDArray[Any] = found[pc.fill_null(texts.indices, len(found) - 1).to_numpy(zero_copy_only=False)]
        return values

    def value(self, column: str, row: int) -> Any:
        """Give one value."""
        return self.table[column][row].as_py()

    def name(self, row: int) -> str:
        """Name a row by its context and time."""
        context = ", ".join(f"{name} {self.value(name, row)}" for name in self.stored.context)
        return f"{context} at {moment(self.time[row]) if self.timed[row] else 'no time'}"


def moment(micros: int | np.int64) -> str:
    """Write a time for people.

    >>> moment(1_767_225_600_000_000)
    '2026-01-01 00:00:00Z'
    """
    return from_micros(int(micros)).isoformat(sep=" ").replace("+00:00", "Z")


def span(micros: int | np.int64) -> str:
    """Write a duration for people.

    >>> span(90_000_000)
    '0:01:30'
    """
    return str(timedelta(microseconds=int(micros)))

"""Which row groups of a file of captures may hold what serves rows, by the statistics of keys and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from snapshotter.storage.parquet import ParquetReader

_FEW_KEYS = 4_096  # of more, each range that a row group covers is likely to hold one


@dataclass(frozen=True)
class RowGroups:
    """Some row groups of a file, read as if they were all of it."""

    reader: ParquetReader
    groups: tuple[int, ...]

    @classmethod
    def all_of(cls, reader: ParquetReader) -> RowGroups:
        """Return all row groups of a file."""
        return cls(reader, tuple(range(reader.metadata.num_row_groups)))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of these row groups."""
        every = len(self.groups) == self.reader.metadata.num_row_groups
        return self.reader.read(columns, None if every else self.groups)

    def holding(self, used: NDArray[np.bool_]) -> tuple[RowGroups, NDArray[np.bool_]]:
        """Return those that hold used rows, and which rows are in them. used: of the rows of all."""
        if len(self.groups) <= 1:
            return self, np.ones(len(used), dtype=bool)
        sizes = [self.reader.metadata.row_group(group).num_rows for group in self.groups]
        needed = [part.any() for part in np.split(used, np.cumsum(sizes)[:-1])]
        groups = tuple(group for group, need in zip(self.groups, needed, strict=True) if need)
        return replace(self, groups=groups), np.repeat(needed, sizes)


@dataclass(frozen=True)
class Sought:
    """What rows may be served by.

    keys: variable → the rows' distinct values, few, or else the least and the greatest of them
    oldest, newest: of captures, in microseconds
    """

    keys: dict[str, pa.Array]
    is_range: dict[str, bool]
    oldest: int
    newest: int
    time_column: str

    @classmethod
    def of(cls, rows: pa.Table, oldest: int, newest: int, time_column: str) -> Sought:
        """Describe rows by their keys' columns, and the captures that they may see."""
        keys, is_range = {}, {}
        for name in rows.column_names:
            column = rows[name]
            if pa.types.is_signed_integer(column.type) or pa.types.is_string(column.type):
                values = pc.unique(column).drop_null()
                is_range[name] = len(values) > _FEW_KEYS
                ends = pc.min_max(values).as_py() if is_range[name] else {}
                keys[name] = pa.array([ends["min"], ends["max"]], column.type) if ends else values
        return cls(keys, is_range, oldest, newest, time_column)

    def in_file(self, reader: ParquetReader) -> RowGroups:
        """Return the row groups of a file that may hold captures of these keys and times."""
        every = RowGroups.all_of(reader)
        if len(every.groups) <= 1:
            return every
        first = reader.metadata.row_group(0)
        columns = {first.column(i).path_in_schema: i for i in range(first.num_columns)}
        return replace(every, groups=tuple(group for group in every.groups if self._may_be_in(reader, group, columns)))

    def _may_be_in(self, reader: ParquetReader, group: int, columns: dict[str, int]) -> bool:
        metadata = reader.metadata.row_group(group)
        statistics = {
            name: metadata.column(columns[name]).statistics
            for name in (*self.keys, self.time_column)
            if name in columns
        }
        known = {name: each for name, each in statistics.items() if each is not None and each.has_min_max}
        times = known.get(self.time_column)
        if times is not None and (times.min_raw > self.newest or times.max_raw < self.oldest):
            return False
        return all(self._holds(name, known[name]) for name in self.keys if name in known)

    def _holds(self, name: str, statistics: Any) -> bool:
        values = self.keys[name]
        least, greatest = (pa.scalar(each, values.type) for each in (statistics.min, statistics.max))
        if self.is_range[name]:
            return bool(values[0].as_py() <= greatest.as_py() and values[1].as_py() >= least.as_py())
        inside = pc.and_(pc.greater_equal(values, least), pc.less_equal(values, greatest))
        return bool(pc.any(inside).as_py())

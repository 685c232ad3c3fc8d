"""Rows of units, read again part by part: all rows of a unit are in one part, and one part is in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO

import numpy as np
import pyarrow as pa

from delorean.labels.casting import Caster
from delorean.labels.column_types import variable_type
from schemas.closeable import Closeable
from schemas.hashing import salted_share
from snapshotter.storage.temporary_file import full_disk_errors

UNIT = "unit"
_PARTS = 256
_ROWS_IN_MEMORY = 2_000_000
_SALT = "part"


class UnitRows(Closeable):
    """Collects rows with the column `unit`; beyond a number of rows they are in an unnamed temporary file.

    rows: number of them
    """

    def __init__(self, schema: pa.Schema, rows_in_memory: int = _ROWS_IN_MEMORY) -> None:
        self.schema, self.rows = schema, 0
        self._limit = rows_in_memory
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._resources = ExitStack()
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._reader: pa.RecordBatchFileReader | None = None

    def add(self, rows: pa.Table) -> None:
        """Add rows of the schema."""
        if rows.num_rows:
            self.rows += rows.num_rows
            self._waiting.append(rows)
            self._waiting_rows += rows.num_rows
        if self._waiting_rows >= self._limit:
            self.spill()

    @property
    def spilled(self) -> bool:
        """Whether rows are in a file."""
        return self._file is not None

    def spill(self) -> None:
        """Write the rows in memory to the file, a batch for each part."""
        rows = self.whole()
        numbers = (salted_share(rows[UNIT], _SALT) * _PARTS).astype(np.int16)
        rows = rows.take(np.argsort(numbers, kind="stable")).combine_chunks()
        ends = np.cumsum(np.bincount(numbers, minlength=_PARTS))
        with full_disk_errors("rows of an A/B test", "keep"):
            if self._writer is None:
                self._file = self._resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # until `close`
                self._writer = pa.ipc.new_file(self._file, self.schema)
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                batches = rows.slice(start, end - start).to_batches()
                self._writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], self.schema))
        self._waiting, self._waiting_rows = [], 0

    def end(self) -> None:
        """Write what is still in memory, so that all parts can be read; no rows are added any more."""
        if self._reader is None:
            if self._waiting or self._writer is None:
                self.spill()
            assert self._writer is not None
            assert self._file is not None
            self._writer.close()
            self._file.seek(0)
            self._reader = pa.ipc.open_file(self._file)

    def part(self, number: int) -> pa.Table:
        """Return one of the parts, after `end`."""
        assert self._reader is not None
        batches = [self._reader.get_batch(at) for at in range(number, self._reader.num_record_batches, _PARTS)]
        return pa.Table.from_batches(batches, self.schema)

    def whole(self) -> pa.Table:
        """Return the rows in memory."""
        return pa.concat_tables(self._waiting) if self._waiting else self.schema.empty_table()

    def close(self) -> None:
        """Delete the file."""
        self._resources.close()


def parts_of(collections: Sequence[UnitRows]) -> Iterator[list[pa.Table]]:
    """Yield the parts of several collections side by side: the rows of one unit are in parts of one number."""
    if not any(each.spilled for each in collections):
        yield [each.whole() for each in collections]
        return
    for each in collections:
        each.end()
    for number in range(_PARTS):
        yield [each.part(number) for each in collections]


def plain_units(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return units in the one type that values of their kind have in all tables: integers as int64, text as string.

    Raises LabelError for a type that no variable has.
    """
    type = variable_type(name, column.type)  # noqa: A001  # the field's own name
    type = pa.int64() if pa.types.is_integer(type) else type  # noqa: A001
    return Caster(pa.table({name: column})).value(name, type)

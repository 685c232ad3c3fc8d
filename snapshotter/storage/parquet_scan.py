"""Columns and rows of Parquet files that other programs wrote, read as Spark reads them, but in Arrow.

Where a file could be read in another way than Spark's, nothing is read: its reader is then to be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from schemas.nested_types import is_list

Operator: TypeAlias = Literal["=", "<", "<=", ">", ">=", "is not null"]
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_BATCH_ROWS = 1 << 15
_OLD_CALENDAR = (b"org.apache.spark.legacyDateTime", b"org.apache.spark.legacyINT96")  # in files of Spark 2


class UnclearFileError(Exception):
    """A file must be read by Spark itself, since it lacks a column, has another type, or cannot be read."""


@dataclass(frozen=True)
class Condition:
    """What a column's values must be. value: of the column's type; None for `is not null`."""

    column: str
    operator: Operator
    value: pa.Scalar | None = None

    def __call__(self, column: Any) -> Any:
        """Return which values meet it, as an array or an expression; null where a value is null."""
        return column.is_valid() if self.value is None else _COMPARISONS[self.operator](column, self.value)


@dataclass(frozen=True)
class ScanSlice:
    """Part `number` of the row groups of a file, of `of` parts."""

    path: str
    number: int
    of: int


@dataclass(frozen=True)
class ParquetScan:
    """Columns of local files, and the rows that meet all conditions.

    columns: name → name in the files
    types: name in the files, of columns that are read → type that Spark gives it
    """

    paths: tuple[str, ...]
    columns: Mapping[str, str]
    types: Mapping[str, pa.DataType]
    conditions: tuple[Condition, ...] = field(default=())

    def slices(self, count: int) -> list[list[ScanSlice]]:
        """Divide the files among about `count` tasks: files in turn, or several parts of each."""
        parts = -(-count // max(1, len(self.paths)))
        slices = [ScanSlice(path, number, parts) for path in self.paths for number in range(parts)]
        tasks = min(len(slices), count)
        return [slices[task::tasks] for task in range(tasks)]

    def read(self, part: ScanSlice) -> Iterator[pa.RecordBatch]:
        """Read the rows of a slice, some at a time. Raises UnclearFileError, perhaps after some."""
        try:
            with pq.ParquetFile(part.path) as file:
                self._check(file)
                groups = self._row_groups(part.path, file.num_row_groups)
                chosen = groups[len(groups) * part.number // part.of : len(groups) * (part.number + 1) // part.of]
                batches = file.iter_batches(_BATCH_ROWS, chosen, list(self.types), use_threads=False)
                for batch in map(self._selected, batches):
                    if batch.num_rows:
                        yield batch
        except MemoryError:
            raise  # Arrow's own is an ArrowException too, and says nothing about the file
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: column names in the file
            raise UnclearFileError(str(error)) from error

    def _check(self, file: pq.ParquetFile) -> None:
        schema = file.schema_arrow
        if any(key in (file.metadata.metadata or {}) for key in _OLD_CALENDAR):
            raise UnclearFileError("it has times of an older calendar")
        for name, type in self.types.items():  # noqa: A001  # the field's own name
            if schema.names.count(name) != 1 or not _is_read_as(schema.field(name).type, type):
                raise UnclearFileError(f"column '{name}' is missing or of another type")

    def _row_groups(self, path: str, count: int) -> list[int]:
        """Return the row groups whose statistics do not exclude all rows."""
        if not self.conditions or not count:
            return list(range(count))
        expression = pc.scalar(True)
        for each in self.conditions:
            expression &= each(pc.field(each.column))
        fragment = ds.ParquetFileFormat().make_fragment(path, LocalFileSystem())
        return [group.row_groups[0].id for group in fragment.split_by_row_group(expression)]

    def _selected(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for condition in self.conditions:
            batch = batch.filter(condition(batch[condition.column]))
        return batch.select(list(self.columns.values())).rename_columns(list(self.columns))


def _is_read_as(stored: pa.DataType, type: pa.DataType) -> bool:  # noqa: A002
    """Return whether a file's Arrow type has exactly the values of the type that Spark gives it."""
    if pa.types.is_dictionary(stored):
        return _is_read_as(stored.value_type, type)
    if is_list(stored) and is_list(type):
        return _is_read_as(stored.value_type, type.value_type)
    if pa.types.is_timestamp(stored) and pa.types.is_timestamp(type):
        return (stored.tz is None) == (type.tz is None) and stored.unit in ("ms", "us")
    return bool(_short(stored) == _short(type))


def _short(type: pa.DataType) -> pa.DataType:  # noqa: A002
    if pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_large_binary(type) or pa.types.is_binary_view(type):
        return pa.binary()
    return type

"""Contexts and times in buckets, so that memory is bounded by a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.labels import TIME_COLUMN, Labels
from delorean.labels.casting import Caster
from delorean.labels.column_types import variable_type
from schemas.data_keys import DataKey, context_variable, refuse_naive_times
from schemas.errors import LabelError
from schemas.hashing import bucket_of
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import ServiceSnapshot, from_micros
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

_NO_VARIABLE = ""  # of rows that are not bucketed: no snapshot is bucketed by it, so every snapshot is read whole

_RECENT = 8  # snapshots of each service that determine the buckets: older ones are mostly bucketed alike


@dataclass(frozen=True)
class BucketPosition:
    """A bucket's number, the number of buckets and the variable that they are derived from."""

    bucket: int
    buckets: int
    variable: str


class BucketedRows(Protocol):
    """Contexts and times in buckets."""

    @property
    def labels(self) -> Labels:
        """The rows described as label data."""

    @property
    def part_count(self) -> int:
        """Number of parts."""

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[BucketPosition, pa.Table]]:
        """Yield columns and `time`, bucket by bucket."""


@dataclass(frozen=True)
class StoredLabelRows:
    """The rows of label data at rest."""

    labels: Labels
    storage: Storage

    @property
    def part_count(self) -> int:
        """Number of files."""
        return len(self.labels.files)

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[BucketPosition, pa.Table]]:
        """Read columns and `time`, file by file."""
        for file in self.labels.files:
            position = BucketPosition(file.bucket, self.labels.buckets, self.labels.bucket_variable)
            yield position, read_parquet(self.storage, file, [*columns, TIME_COLUMN])


@dataclass(frozen=True)
class FrameRows:
    """The rows of a table, in the buckets of the snapshots that they are matched with.

    table: with a column `time`
    variable, buckets: see `in_buckets`
    context: its columns that services are keyed by
    """

    table: pa.Table
    variable: str = _NO_VARIABLE
    buckets: int = 1
    context: tuple[DataKey, ...] = ()

    @property
    def labels(self) -> Labels:
        """The table described as label data, without items and files."""
        times = pc.min_max(self.table[TIME_COLUMN].cast(pa.int64())).as_py()
        first, last = from_micros(times["min"]), from_micros(times["max"])
        return Labels("", self.context, (), self.variable, self.buckets, (), 0, first, last)

    def in_buckets(self, snapshots: Sequence[ServiceSnapshot]) -> FrameRows:
        """Return the same rows in the largest snapshot's number of buckets, by its variable."""
        usable = [s for s in snapshots if s.bucket_variable in self.table.column_names]
        if not usable:
            return self
        largest = max(usable, key=lambda snapshot: snapshot.buckets)
        return replace(self, variable=largest.bucket_variable or _NO_VARIABLE, buckets=largest.buckets)

    @property
    def part_count(self) -> int:
        """Number of buckets that have rows."""
        return int(np.count_nonzero(np.bincount(self._bucket)))

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[BucketPosition, pa.Table]]:
        """Yield columns and `time` of the buckets that have rows."""
        rows = self.table.select([*columns, TIME_COLUMN]).take(np.argsort(self._bucket, kind="stable"))
        ends = np.cumsum(np.bincount(self._bucket, minlength=self.buckets))
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            if end > start:
                yield BucketPosition(bucket, self.buckets, self.variable), rows.slice(start, end - start)

    @cached_property
    def _bucket(self) -> NDArray[np.int32]:
        if self.variable == _NO_VARIABLE:
            return np.zeros(self.table.num_rows, dtype=np.int32)
        return bucket_of(self.table[self.variable], self.buckets)


def rows_of(labels: Labels | Any, storage: Storage, index: SnapshotIndex) -> BucketedRows:
    """Return label data at rest, or any frame of contexts and times, as rows in buckets.

    Raises LabelError for what is not a frame or has no times, NaiveTimeError for times without a zone.
    """
    if isinstance(labels, Labels):
        return StoredLabelRows(labels, storage)
    try:
        table = pa.table(labels)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise LabelError.because(
            f"a {type(labels).__name__} is not a table of contexts and times: {error}",
            "pass Labels, or what Arrow reads: pyarrow, Polars, pandas, DuckDB",
        ) from error
    if TIME_COLUMN not in table.column_names:
        raise LabelError.unknown("column of contexts and times", TIME_COLUMN, table.column_names)
    times = table[TIME_COLUMN]
    refuse_naive_times(f"contexts and times.{TIME_COLUMN}", times.type)
    if not pa.types.is_timestamp(times.type):
        raise LabelError.because(f"column '{TIME_COLUMN}' is {times.type}, expected {TIME}", "cast it")
    if times.null_count or table.num_rows == 0:
        raise LabelError.because(
            f"contexts and times have {table.num_rows} rows, {times.null_count} of them without a time",
            "give every row a time, and at least one row",
        )
    declared = index.elements()
    variables = {variable.name for service in declared for variable in service.key}
    context = tuple(
        context_variable(field.name, variable_type(field.name, field.type))
        for field in table.schema
        if field.name in variables
    )
    caster = Caster(table)
    columns = {key.name: caster.value(key.name, key.type) for key in context}
    typed = pa.table({**columns, TIME_COLUMN: caster.time(TIME_COLUMN)})
    names = dict.fromkeys(service.name for service in declared)
    recent = [snapshot for name in names for snapshot in index.last_snapshots(name, _RECENT)]
    return FrameRows(typed, context=context).in_buckets(recent)

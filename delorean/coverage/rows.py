"""The contexts and times that are asked about, bucket by bucket, so that memory is bounded by a bucket."""

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

NO_VARIABLE = ""  # of rows that are not bucketed: no snapshot is bucketed by it, so every one is read whole

_RECENT = 8  # snapshots of each service that are looked at to choose buckets: older ones are mostly bucketed alike


@dataclass(frozen=True)
class Place:
    """Which bucket of how many, by which variable."""

    bucket: int
    buckets: int
    variable: str


class Rows(Protocol):
    """Contexts and times in buckets."""

    @property
    def labels(self) -> Labels:
        """What they are, as label data says it."""

    @property
    def part_count(self) -> int:
        """How many parts there are."""

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[Place, pa.Table]]:
        """Give columns and `time`, bucket by bucket."""


@dataclass(frozen=True)
class LabelRows:
    """The rows of label data at rest."""

    labels: Labels
    storage: Storage

    @property
    def part_count(self) -> int:
        """How many files there are."""
        return len(self.labels.files)

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[Place, pa.Table]]:
        """Read columns and `time`, file by file."""
        for file in self.labels.files:
            place = Place(file.bucket, self.labels.buckets, self.labels.bucket_variable)
            yield place, read_parquet(self.storage, file, [*columns, TIME_COLUMN])


@dataclass(frozen=True)
class FrameRows:
    """The rows of a table, put into the buckets of the snapshots they will meet.

    table: with a column `time`
    variable, buckets: see `in_buckets`
    context: its columns that services are keyed by
    """

    table: pa.Table
    variable: str = NO_VARIABLE
    buckets: int = 1
    context: tuple[DataKey, ...] = ()

    @property
    def labels(self) -> Labels:
        """The frame as if it were label data at rest, without items and files."""
        times = pc.min_max(self.table[TIME_COLUMN].cast(pa.int64())).as_py()
        first, last = from_micros(times["min"]), from_micros(times["max"])
        return Labels("", self.context, (), self.variable, self.buckets, (), 0, first, last)

    def in_buckets(self, snapshots: Sequence[ServiceSnapshot]) -> FrameRows:
        """Give the same rows in as many buckets as the largest of the snapshots has, by its variable."""
        usable = [s for s in snapshots if s.bucket_variable in self.table.column_names]
        if not usable:
            return self
        largest = max(usable, key=lambda snapshot: snapshot.buckets)
        return replace(self, variable=largest.bucket_variable or NO_VARIABLE, buckets=largest.buckets)

    @property
    def part_count(self) -> int:
        """How many buckets have rows."""
        return int(np.count_nonzero(np.bincount(self._bucket)))

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[Place, pa.Table]]:
        """Give columns and `time` of the buckets that have rows."""
        of = self._bucket
        wanted = self.table.select([*columns, TIME_COLUMN]).take(np.argsort(of, kind="stable"))
        ends = np.cumsum(np.bincount(of, minlength=self.buckets))
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            if end > start:
                yield Place(bucket, self.buckets, self.variable), wanted.slice(start, end - start)

    @cached_property
    def _bucket(self) -> NDArray[np.int32]:
        if self.variable == NO_VARIABLE:
            return np.zeros(self.table.num_rows, dtype=np.int32)
        return bucket_of(self.table[self.variable], self.buckets)


def rows_of(labels: Labels | Any, storage: Storage, index: SnapshotIndex) -> Rows:
    """See label data at rest, or any frame of contexts and times, as rows in buckets.

    Raises LabelError for what is no frame or has no times, NaiveTimeError for times without a zone.
    """
    if isinstance(labels, Labels):
        return LabelRows(labels, storage)
    try:
        table = pa.table(labels)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise LabelError.because(
            f"a {type(labels).__name__} holds no contexts and times: {error}",
            "give Labels, or what Arrow reads: pyarrow, Polars, pandas, DuckDB",
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
    keyed_by = {variable.name for service in declared for variable in service.key}
    context = tuple(context_variable(f.name, variable_type(f.name, f.type)) for f in table.schema if f.name in keyed_by)
    caster = Caster(table)
    columns = {key.name: caster.value(key.name, key.type) for key in context}
    typed = pa.table({**columns, TIME_COLUMN: caster.time(TIME_COLUMN)})
    names = dict.fromkeys(service.name for service in declared)
    recent = [snapshot for name in names for snapshot in index.last_snapshots(name, _RECENT)]
    return FrameRows(typed, context=context).in_buckets(recent)

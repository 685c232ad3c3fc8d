"""A service's element as of a moment, for all keys or for those of one bucket, which a Spark task reads by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from delorean.state.captures import CAPTURED_COLUMN, match_captures
from delorean.state.matches import CaptureFile, ElementMatch
from delorean.state.sources import ServiceSource
from delorean.time_travel.contexts import distinct_keys, read_chosen_contexts
from schemas.hashing import bucket_of
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.records import ContextGroup, ServiceSnapshot
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet

RUN_COLUMN = "run_id"
_FILES_AT_ONCE = 16  # files whose keys are read before they are made distinct, which bounds memory


@dataclass(frozen=True)
class Buckets:
    """How a view is divided. variable: None: one bucket with everything."""

    count: int
    variable: str | None

    @classmethod
    def of(cls, snapshots: Sequence[ServiceSnapshot]) -> Buckets:
        """Return the finest division that snapshots have."""
        finest = max(snapshots, key=lambda snapshot: snapshot.buckets, default=None)
        if finest is None or finest.bucket_variable is None:
            return cls(1, None)
        return cls(finest.buckets, finest.bucket_variable)


@dataclass(frozen=True)
class BucketView:
    """The rows of a view in one bucket, read by `rows`.

    source: with the bucket's files only
    micros: the moment, in microseconds
    groups, experiment: the contexts with the service's variables, and the experiment whose ones are in view; None: all
        keys captured
    """

    source: ServiceSource
    micros: int
    storage_uri: str
    bucket: int
    buckets: Buckets
    groups: tuple[ContextGroup, ...] | None = None
    experiment: str | None = None

    def rows(self) -> Iterator[pa.Table]:
        """Read the rows."""
        storage, service = open_storage(self.storage_uri), self.source.service
        files = [CaptureFile(snapshot, file) for snapshot in self.source.snapshots for file in snapshot.files]
        if self.groups is None:
            keys = captured_keys(service, files, storage, self.keep)
        else:
            names = [variable.name for variable in service.key]
            parts = [replace(group, files=(file,)) for group in self.groups for file in group.files]
            chosen = (read_chosen_contexts(part, storage, self.experiment).select(names) for part in parts)
            empty = _empty_keys(service)
            keys = distinct_keys(pa.concat_tables([empty, *(self.keep(each.cast(empty.schema)) for each in chosen)]))
        yield state_rows(keys, match_at(keys, self.micros, self.source, files, storage), files, service)

    def keep(self, keys: pa.Table) -> pa.Table:
        """Keep the keys of the bucket: files of coarser buckets, and of none, hold others too."""
        if self.buckets.variable is None:
            return keys
        keys = keys.drop_null()
        return keys.filter(pa.array(bucket_of(keys[self.buckets.variable], self.buckets.count) == self.bucket))


def captured_keys(
    service: Service, files: Sequence[CaptureFile], storage: Storage, keep: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """Return the distinct keys that files hold, sorted. keep: selects among them."""
    names = [variable.name for variable in service.key]
    keys = _empty_keys(service)
    for start in range(0, len(files), _FILES_AT_ONCE):
        parts = [keep(read_parquet(storage, file, names)) for _, file in files[start : start + _FILES_AT_ONCE]]
        keys = distinct_keys(pa.concat_tables([keys, *parts]))
    return keys


def match_at(
    keys: pa.Table, micros: int, source: ServiceSource, files: Sequence[CaptureFile], storage: Storage
) -> ElementMatch:
    """Find the capture that serves each key at a moment, and read the values."""
    times = pa.chunked_array([pa.array(np.full(keys.num_rows, micros)).cast(TIME)])
    return match_captures(keys, times, source.service.key, source.element, source.rule, files, storage)


def state_rows(keys: pa.Table, match: ElementMatch, files: Sequence[CaptureFile], service: Service) -> pa.Table:
    """Return a view's rows, for the keys that have a capture."""
    runs = pa.array([snapshot.run_id for snapshot, _ in files], pa.string())
    table = keys.append_column(CAPTURED_COLUMN, match.captured_times())
    table = table.append_column(RUN_COLUMN, runs.take(pa.array(match.file, mask=match.absent)))
    values = match.element.values.take(pa.array(match.element.rows, mask=match.absent))
    return table.append_column(service.element.name, values).filter(pa.array(~match.absent))


def view_schema(service: Service) -> pa.Schema:
    """Return the schema of a view's rows."""
    key = [(variable.name, variable.type) for variable in service.key]
    element = service.element
    return pa.schema([*key, (CAPTURED_COLUMN, TIME), (RUN_COLUMN, pa.string()), (element.name, element.type)])


def _empty_keys(service: Service) -> pa.Table:
    return pa.schema([(variable.name, variable.type) for variable in service.key]).empty_table()

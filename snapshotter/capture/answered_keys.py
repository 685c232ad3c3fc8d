"""The keys that earlier runs of a day have answers for, which its later runs do not request again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from schemas.services import OnFallback, Service
from schemas.tables import IS_FALLBACK
from snapshotter.records import DataFile, ServiceSnapshot, SnapshotRun
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet


@dataclass(frozen=True)
class AnsweredKeys:
    """The keys that one run has answers of a service for: plain data that travels with Spark's tasks.

    buckets: that the files are bucketed into; 1: each file may have keys of any bucket
    has_fallbacks: whether the files also have rows without an answer, which are marked
    """

    files: tuple[DataFile, ...]
    buckets: int
    has_fallbacks: bool

    @classmethod
    def of(cls, snapshot: ServiceSnapshot, bucket_variable: str | None) -> AnsweredKeys:
        """Return the keys of a snapshot, for a run that buckets the service by a variable."""
        buckets = snapshot.buckets if snapshot.bucket_variable == bucket_variable else 1
        return cls(snapshot.files, buckets, snapshot.service.on_fallback is OnFallback.VALUE)

    def missing(self, keys: pa.Table, storage: Storage, bucket: int, buckets: int) -> pa.Table:
        """Return the keys without an answer. bucket: the one that they are in, of so many."""
        aligned = min(buckets, self.buckets)
        for file in self.files:
            if keys.num_rows and (file.bucket - bucket) % aligned == 0:
                answered = self._answered(keys.column_names, storage, file)
                keys = keys.join(answered, keys.column_names, join_type="left anti", use_threads=False)
        return keys

    def _answered(self, names: list[str], storage: Storage, file: DataFile) -> pa.Table:
        rows = read_parquet(storage, file, [*names, *([IS_FALLBACK] if self.has_fallbacks else [])])
        return rows.filter(pc.invert(rows[IS_FALLBACK])).select(names) if self.has_fallbacks else rows


def answered_keys(
    runs: Iterable[SnapshotRun], service: Service, bucket_variable: str | None
) -> tuple[AnsweredKeys, ...]:
    """Return the keys that runs have answers of a service for, if they captured it as it is declared now."""
    return tuple(
        AnsweredKeys.of(snapshot, bucket_variable)
        for run in runs
        for snapshot in run.services
        if snapshot.service == service and snapshot.files
    )

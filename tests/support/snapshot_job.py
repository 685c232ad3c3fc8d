"""Snapshots of one context set, for tests that take many."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from snapshotter.capture.snapshot import take_snapshot
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, ServiceSnapshot, SnapshotRun
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet


class Job:
    """Snapshots of one context set through one proxy."""

    def __init__(self, spark: SparkSession, context_set: ContextSet, storage: Storage, index: SnapshotIndex) -> None:
        self.spark: SparkSession | None = spark  # None: this process asks
        self.context_set, self.storage, self.index = context_set, storage, index
        self.proxies = ["127.0.0.1:1"]

    def run(self, run_id: str = "r1", services: list[str] | None = None, **options: Any) -> SnapshotRun:
        options = {"buckets": 4, "page": 16, **options}
        context_set = options.pop("context_set", self.context_set)
        proxies = options.pop("proxies", self.proxies)
        uri = self.storage.uri
        return take_snapshot(self.spark, context_set, services, proxies, uri, self.index, run_id, **options)

    def read(self, snapshot: ServiceSnapshot) -> list[dict[str, Any]]:
        return [row for file in snapshot.files for row in read_parquet(self.storage, file).to_pylist()]


def service(run: SnapshotRun, name: str) -> ServiceSnapshot:
    return next(snapshot for snapshot in run.services if snapshot.service.name == name)

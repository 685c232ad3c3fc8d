"""Snapshots of one context set, for tests that take many."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from snapshotter.capture import SnapshotOptions, take_snapshot
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, ServiceSnapshot, SnapshotRun
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet


class Job:
    """Snapshots of one context set through one proxy."""

    def __init__(
        self, spark: SparkSession | None, context_set: ContextSet, storage: Storage, index: SnapshotIndex
    ) -> None:
        self.spark, self.context_set, self.storage, self.index = spark, context_set, storage, index
        self.proxies = ["127.0.0.1:1"]

    def run(self, run_id: str = "r1", services: list[str] | None = None, **options: Any) -> SnapshotRun:
        given = {"buckets": 4, "page": 16, **options}
        context_set = given.pop("context_set", self.context_set)
        proxies = given.pop("proxies", self.proxies)
        rest = {name: given.pop(name) for name in ("access", "progress") if name in given}
        spark = given.pop("spark", self.spark)
        where = self.storage.uri, self.index, run_id, SnapshotOptions(**given)
        return take_snapshot(spark, context_set, services, proxies, *where, **rest)

    def read(self, snapshot: ServiceSnapshot) -> list[dict[str, Any]]:
        return [row for file in snapshot.files for row in read_parquet(self.storage, file).to_pylist()]


def service(run: SnapshotRun, name: str) -> ServiceSnapshot:
    return next(snapshot for snapshot in run.services if snapshot.service.name == name)

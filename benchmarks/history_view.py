"""Counts a large view in Spark, and how much memory the driver's Python needs meanwhile."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from typing import Self

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.history_project import DAY, ELEMENTS, FIRST, PROFILE, SERVICES
from benchmarks.load_report import Verdict
from delorean.time_travel import TimeMachine
from schemas.hashing import bucket_of
from schemas.services import Status
from schemas.tables import TIME, snapshot_schema
from snapshotter.index import open_index
from snapshotter.records import ServiceSnapshot, SnapshotRun, to_micros
from snapshotter.spark.session import spark_session
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

DRIVER_MIB = 100
MIB = 1 << 20


def counted_in_spark(contexts: int) -> Verdict:
    """Count a view's rows in Spark, and return by how much this process has grown at most meanwhile."""
    spark = spark_session("history", "local[2]", spark__ui__enabled="false")
    with tempfile.TemporaryDirectory(prefix="history-") as folder, open_index(f"sqlite://{folder}/index.db") as index:
        storage = open_storage(f"file://{folder}/store")
        for run_id, count in (("small", 1_000), ("large", contexts)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # so that this process holds none of the data
                snapshot = pool.apply(one_event_each, (storage.uri, run_id, count))
            assert index.publish_run(SnapshotRun(run_id, "set", FIRST, (snapshot,)))
            view = TimeMachine(index, storage).at(FIRST + DAY)[ELEMENTS[0].name]
            before, start = psutil.Process().memory_info().rss, time.perf_counter()
            with PeakOfThisProcess() as peak:
                assert view.to_spark(spark).count() == count
        taken = time.perf_counter() - start
    spark.stop()
    grown = (peak.bytes - before) / MIB
    what = f"counting a view of {contexts:,} contexts in Spark, the driver's Python grows by at most {DRIVER_MIB} MiB"
    return Verdict(what, f"{grown:.0f} MiB, in {taken:.1f} s", grown <= DRIVER_MIB)


def one_event_each(storage_uri: str, run_id: str, contexts: int) -> ServiceSnapshot:
    """Write a snapshot in which every context has one event."""
    storage = open_storage(storage_uri)
    service, buckets, files = SERVICES[0], 64, []
    of = bucket_of(pa.chunked_array([np.arange(contexts)]), buckets)
    for bucket in range(buckets):
        keys = np.flatnonzero(of == bucket)
        times = pa.array(np.full(len(keys), to_micros(FIRST))).cast(TIME)
        fields = [pa.array(keys), pa.array(np.ones(len(keys), np.float32)), times]
        events = pa.StructArray.from_arrays(fields, fields=list(service.element.type.value_type))
        values = pa.ListArray.from_arrays(np.arange(len(keys) + 1, dtype=np.int32), events)
        table = pa.table([pa.array(keys), times, values.cast(service.element.type)], snapshot_schema(service))
        path = f"snapshots/{service.name}/{run_id}/{bucket:05d}-a1b2c3.parquet"
        files.append(write_parquet(storage, path, table, table.schema, bucket))
    counts = {Status.OK: contexts}
    return ServiceSnapshot(run_id, service, PROFILE.name, buckets, counts, FIRST, FIRST, tuple(files), {})


class PeakOfThisProcess:
    """The largest resident size of this process, sampled within a block."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.bytes = max(self.bytes, psutil.Process().memory_info().rss)

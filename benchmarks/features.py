"""Workload F: contexts with 20 items each and three services' nested state, seven features that join the two.

(a) this project over Spark, (b) what one would write by hand with Spark joins and mapInPandas,
(c) the same kernels in two plain processes. Medians of runs in one warm session; ratios matter, the machine is noisy.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from benchmarks import by_hand, plain_processes
from benchmarks.memory import PeakMemory
from delorean.generation import generate
from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel
from encoders.library import listed, minutes_watched, predicted_rating, rewatching
from encoders.library.keys import MY_LIST, PREDICTED_RATINGS, PROFILE_ID, VIEWING_HISTORY
from schemas.data_keys import DataKey
from schemas.hashing import bucket_of
from schemas.services import Service, Status
from schemas.tables import TIME, snapshot_schema
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ServiceSnapshot, SnapshotRun, from_micros, to_micros
from snapshotter.spark.session import spark_session
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet

MODEL = FeatureModel([minutes_watched, rewatching, listed, predicted_rating])
CAPTURED = to_micros(datetime(2026, 6, 1, tzinfo=UTC))
SECOND = 1_000_000
DAY = 86_400 * SECOND
VIDEOS = 2_000  # few enough for candidates to be in the state often
ITEMS, EVENTS, LISTED, RATED = 20, 50, 20, 100


def main(arguments: list[str]) -> None:
    """Make the data, run the three ways side by side and print the table."""
    parser = argparse.ArgumentParser("make bench", description=__doc__)
    parser.add_argument("--contexts", type=int, default=500_000)
    parser.add_argument("--by-hand-contexts", type=int, default=25_000, help="a size that (b) can finish")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the data here, and use what is here")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="workload-f-"))
    spark = spark_session("workload F", "local[2]", spark__ui__enabled="false", spark__driver__memory="3g")
    try:
        sizes = {options.contexts: "full", 2 * options.contexts: "twice", options.by_hand_contexts: "small"}
        report = Report(options.repeats)
        for contexts, name in sizes.items():
            measure(World(folder / name, contexts), name, spark, report)
        report.show()
    finally:
        spark.stop()
        if options.folder is None:
            shutil.rmtree(folder)


class World:
    """Labels and snapshots of one size, at rest."""

    def __init__(self, folder: Path, contexts: int) -> None:
        self.folder, self.contexts = folder, contexts
        self.buckets = max(2, 1 << max(0, (contexts // 16_000 - 1)).bit_length())
        self.storage: Storage = open_storage(f"file://{folder}/store")
        self.index: SnapshotIndex = open_index(f"sqlite://{folder}/index.db")
        self.long_labels = folder / "labels.parquet"
        if not self.long_labels.exists():
            self._make()

    def _make(self) -> None:
        rng = np.random.default_rng(7)
        profiles = rng.permutation(self.contexts).astype(np.int64)
        bucket = bucket_of(pa.array(profiles), self.buckets)
        by_bucket = [np.sort(profiles[bucket == b]) for b in range(self.buckets)]
        makers = {VIEWING_HISTORY: history, MY_LIST: my_list, PREDICTED_RATINGS: ratings}
        snapshots = tuple(self._snapshot(key, make, by_bucket, rng) for key, make in makers.items())
        self.index.publish_run(SnapshotRun("run", "set", from_micros(CAPTURED), snapshots))
        write_long_labels(self.long_labels, profiles, rng)

    def _snapshot(
        self, element: DataKey, make: Callable[..., pa.Array], by_bucket: list[np.ndarray], rng: np.random.Generator
    ) -> ServiceSnapshot:
        service = Service(element.name, element, (PROFILE_ID,))
        schema = snapshot_schema(service)
        files = []
        for b, profiles in enumerate(by_bucket):
            at = pa.array(CAPTURED + rng.integers(0, 60 * SECOND, len(profiles))).cast(TIME)
            table = pa.table([pa.array(profiles), at, make(len(profiles), rng).cast(element.type)], schema=schema)
            path = f"snapshots/{element.name}/run/{b:05d}-0.parquet"
            files.append(write_parquet(self.storage, path, table, schema, b))
        first = from_micros(CAPTURED)
        return ServiceSnapshot(
            "run",
            service,
            "profile_id",
            self.buckets,
            {Status.OK: self.contexts},
            first,
            first + timedelta(minutes=1),
            tuple(files),
            {},
        )


def lists(rows: int, each: int, rng: np.random.Generator) -> pa.Array:
    """Offsets of lists of about `each` entries."""
    lengths = rng.integers(each // 2, each + each // 2 + 1, rows)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def nested(offsets: pa.Array, **fields: np.ndarray) -> pa.Array:
    columns = [pa.array(column) for column in fields.values()]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, list(fields)))


def history(rows: int, rng: np.random.Generator) -> pa.Array:
    offsets = lists(rows, EVENTS, rng)
    n = offsets[-1].as_py()
    watched = pa.array(CAPTURED - rng.integers(0, 60 * DAY, n)).cast(TIME)
    return nested(
        offsets,
        video_id=rng.integers(0, VIDEOS, n),
        minutes=rng.gamma(2.0, 20.0, n).astype(np.float32),
        watched_at=watched,
    )


def my_list(rows: int, rng: np.random.Generator) -> pa.Array:
    offsets = lists(rows, LISTED, rng)
    n = offsets[-1].as_py()
    added = pa.array(CAPTURED - rng.integers(0, 300 * DAY, n)).cast(TIME)
    return nested(offsets, video_id=rng.integers(0, VIDEOS, n), added_at=added)


def ratings(rows: int, rng: np.random.Generator) -> pa.Array:
    offsets = pa.array(np.arange(rows + 1) * RATED, pa.int32())
    n = rows * RATED
    return nested(offsets, video_id=rng.integers(0, VIDEOS, n), rating=rng.normal(3.5, 1.0, n).astype(np.float32))


def write_long_labels(path: Path, profiles: np.ndarray, rng: np.random.Generator) -> None:
    """One row for each context and item, in no order."""
    schema = pa.schema(
        [
            ("profile_id", pa.int64()),
            ("time", TIME),
            ("video_id", pa.int64()),
            ("label", pa.float32()),
            ("outcome_at", TIME),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for part in np.array_split(profiles, max(1, len(profiles) // 50_000)):
            n = len(part) * ITEMS
            at = np.repeat(CAPTURED + 120 * SECOND + rng.integers(0, DAY, len(part)), ITEMS)
            first = rng.integers(0, VIDEOS, len(part))
            videos = (first[:, None] + np.arange(ITEMS) * 97) % VIDEOS  # distinct within a context
            columns = [
                np.repeat(part, ITEMS),
                pa.array(at).cast(TIME),
                videos.ravel(),
                rng.integers(0, 2, n).astype(np.float32),
                pa.array(at + 3600 * SECOND).cast(TIME),
            ]
            writer.write_table(pa.table([pa.array(c) for c in columns], schema=schema))


class Report:
    """Collects seconds and memory and prints them side by side."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.rows: list[tuple[str, int, float, PeakMemory | None]] = []

    def time(self, what: str, contexts: int, run: Callable[[], object], repeats: int | None = None) -> None:
        """Measure the median of some runs after one that does not count."""
        repeats = self.repeats if repeats is None else repeats
        if repeats > 1:
            run()
        seconds = []
        with PeakMemory() as memory:
            for _ in range(repeats):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
        self.rows.append((what, contexts, statistics.median(seconds), memory))
        Console(stderr=True).print(f"{what}, {contexts:,} contexts: " + ", ".join(f"{s:.2f}" for s in seconds) + " s")

    def rate(self, what: str, contexts: int | None = None) -> float:
        """Context-items per second."""
        for name, n, seconds, _ in self.rows:
            if name == what and contexts in (None, n):
                return n * ITEMS / seconds
        raise KeyError(what)

    def show(self) -> None:
        table = Table(title=f"Workload F: {ITEMS} items a context, 3 services, {len(MODEL.features)} features, 2 cores")
        for column in ("", "contexts", "seconds", "context-items/s", "worker peak MiB", "JVM peak MiB"):
            table.add_column(column, justify="left" if not column else "right")
        for what, contexts, seconds, memory in self.rows:
            peaks = (f"{memory.worker:,.0f}", f"{memory.jvm:,.0f}") if memory else ("", "")
            table.add_row(what, f"{contexts:,}", f"{seconds:.2f}", f"{contexts * ITEMS / seconds:,.0f}", *peaks)
        console = Console(width=120)
        console.print(table)
        full = max(n for name, n, *_ in self.rows if name == PLAIN)
        small = next(n for name, n, *_ in self.rows if name == BY_HAND)
        console.print(f"a ÷ b at {small:,} contexts: {self.rate(OURS, small) / self.rate(BY_HAND, small):.1f}×")
        console.print(
            f"a at {full:,} ÷ b at {small:,} contexts: {self.rate(OURS, full) / self.rate(BY_HAND, small):.1f}×"
        )
        console.print(f"c ÷ a at {full:,} contexts: {self.rate(PLAIN, full) / self.rate(OURS, full):.2f}×")


LABELS = "materialise labels (Spark)"
OURS = "(a) DeLorean over Spark"
BY_HAND = "(b) by hand: joins, mapInPandas"
PLAIN = "(c) two plain processes"


def measure(world: World, size: str, spark: SparkSession, report: Report) -> None:
    """Run the ways that this size is for."""
    labels: list[Labels] = []

    def materialise() -> None:
        frame = spark.read.parquet(str(world.long_labels))
        labels.append(
            materialise_labels(frame, LabelColumns(items=("video_id",)), world.storage, buckets=world.buckets)
        )

    report.time(LABELS, world.contexts, materialise, repeats=1)
    pinned = labels[-1]
    runs = iter(range(1_000_000))
    report.time(
        OURS,
        world.contexts,
        lambda: generate(pinned, MODEL, world.index, world.storage, f"f{next(runs)}-{pinned.labels_id}", spark=spark),
    )
    if size == "full":
        with plain_processes.Pool(pinned, MODEL, world.storage.uri, world.folder / "plain") as pool:
            report.time(PLAIN, world.contexts, pool.run)
    if size == "small":
        report.time(BY_HAND, world.contexts, lambda: by_hand.run(spark, world.folder), repeats=1)
        ours = generate(pinned, MODEL, world.index, world.storage, "check", spark=spark)
        by_hand.check(spark, world.folder, ours.uri, MODEL.features)
        report.time(
            "(a) without Spark, one process",
            world.contexts,
            lambda: generate(pinned, MODEL, world.index, world.storage, f"alone{next(runs)}-{pinned.labels_id}"),
        )

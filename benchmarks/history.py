"""Years of history: what planning and generating one week of labels costs in a project of 100 days and of 1,000 days.

Three services are captured daily. The index is real; data files exist only around the week whose features are
generated, so opening any other fails. Then a view of one snapshot of 5 M contexts is counted in Spark, while the memory
of this process is watched. Ended with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import pyarrow as pa
from rich.table import Table

from benchmarks.load_report import CONSOLE, Verdict, show
from delorean.coverage import day_coverage, label_coverage
from delorean.generation import generate
from delorean.generation.generation_plan import plan_generation
from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from delorean.state.rules import AsOf
from delorean.time_travel import TimeMachine
from encoders import FeatureModel, feature_encoder
from schemas.data_keys import context_variable, item, service_element
from schemas.hashing import bucket_of
from schemas.services import Service, Status
from schemas.tables import TIME, snapshot_schema
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextSet, DataFile, ServiceSnapshot, SnapshotRun, to_micros
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.spark.session import spark_session
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import ParquetReader, write_parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from cassandra_server import keyspace_at_hand, new_index  # which tests start too

FIRST = datetime(2023, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = 7 * DAY
BUCKETS = 16
SECONDS = {"SQLite": 1.0, "Cassandra": 3.0}
RATIO = 1.2
COVERAGE_REPEATS = 3
MOST_OPEN = 200
MEMORY_MIB = 20
DRIVER_MIB = 100
MIB = 1 << 20
RULES = {"max_age": AsOf(max_age=2 * DAY), "any age": AsOf()}
EVENTS = "list<struct<video_id: int64, minutes: float, watched_at: timestamp[us, UTC]>>"
PROFILE = context_variable("profile_id", "int64")
ELEMENTS = tuple(service_element(name, EVENTS) for name in ("viewing", "searches", "ratings"))
SERVICES = tuple(Service(f"{element.name}_service", element, (PROFILE,)) for element in ELEMENTS)


@feature_encoder(data=list(ELEMENTS), features=["events"])
def events(context: Any, items: Any, data: Any, out: Any) -> None:  # noqa: ARG001  # the order is the interface
    """How many events the three services know of."""
    for i in range(len(items.video_id)):
        out.events[i] = len(data.viewing.video_id) + len(data.searches.video_id) + len(data.ratings.video_id)


MODEL = FeatureModel([events])


def main(arguments: list[str]) -> None:
    """Make both projects in each index, measure, and print the tables."""
    parser = argparse.ArgumentParser("make bench BENCH=history", description=__doc__)
    parser.add_argument("--days", type=int, nargs=2, default=(100, 1_000), help="of the two projects")
    parser.add_argument("--contexts", type=int, default=20_000, help="of a day")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--viewed", type=int, default=5_000_000, help="contexts of the view that is counted in Spark")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="history-") as folder, keyspace_at_hand(Path(folder)) as keyspace:
        projects = []
        for days in options.days:
            uris = {"SQLite": f"sqlite://{folder}/{days}.db", "Cassandra": new_index(keyspace)}
            projects.append(Project(f"file://{folder}/{days}", uris, days, options.contexts))
            projects[-1].make()
        planned = [each for index in SECONDS for each in planning(projects, index, options.repeats)]
        covered = [each for index in SECONDS for each in coverage(projects, index)]
        generated = [in_process(project, index) for index in SECONDS for project in projects]
    verdicts = [*report(planned, generated, tuple(options.days)), *covered, counted_in_spark(options.viewed)]
    show(verdicts)
    if not all(verdict.met for verdict in verdicts):
        raise SystemExit(1)


@dataclass(frozen=True)
class Project:
    """A project with a run on each day. uris: of its indices, with equal contents."""

    storage_uri: str
    uris: dict[str, str]
    days: int
    contexts: int

    def make(self) -> None:
        """Publish the runs of all days, with data in those that the last week of labels needs."""
        storage = open_storage(self.storage_uri)
        real = [self._snapshots(day, storage) for day in range(self.days - 10, self.days)]
        runs = [self._snapshots(day, None) for day in range(self.days - 10)] + real
        sets = [self._context_set(day, storage if day >= self.days - 10 else None) for day in range(self.days)]
        for uri in self.uris.values():
            with open_index(uri) as index:
                for snapshots in runs:
                    run_id = snapshots[0].run_id
                    assert index.publish_run(SnapshotRun(run_id, "set", FIRST, snapshots))
                for context_set in sets:
                    assert index.publish_context_set(context_set)

    def weeks(self) -> Iterator[tuple[str, datetime]]:
        """Yield the weeks of labels that are planned, and when they begin."""
        yield "newest", FIRST + (self.days - 7) * DAY
        yield "middle", FIRST + self.days // 2 * DAY
        yield "oldest", FIRST + DAY / 2

    def labels(self) -> Labels:
        """Materialise label rows over the newest week, of contexts that were captured."""
        count = self.contexts
        chance = np.random.default_rng(7)
        start = FIRST + (self.days - 7) * DAY + DAY / 2
        times = to_micros(start) + chance.integers(0, 6 * 86_400 * 10**6, count)
        rows = pa.table(
            {
                "profile_id": np.arange(count),
                "time": pa.array(times).cast(TIME),
                "outcome_at": pa.array(times + 1).cast(TIME),
                "video_id": chance.integers(0, 100, count),
                "label": np.ones(count, np.float32),
            }
        )
        columns = LabelColumns(("video_id",))
        return materialise_labels(rows, columns, open_storage(self.storage_uri), buckets=BUCKETS)

    def _context_set(self, day: int, storage: Storage | None) -> ContextSet:
        """Return the contexts of a day. storage: None: their file does not exist."""
        path = f"context_sets/{day}.parquet"
        if storage is None:
            file = DataFile(path, self.contexts, 823_211, f"{hash(path) % 2**64:032x}", 0)
        else:
            chosen = [{"experiment": "homepage", "stratum": "all", "probability": 0.1}]
            columns = [pa.array(np.arange(self.contexts)), [chosen] * self.contexts]
            table = pa.table(columns, context_set_schema((PROFILE,)))
            file = write_parquet(storage, path, table, table.schema)
        date = (FIRST + day * DAY).date()
        return ContextSet.of_one_key(f"set-{day}", date, ("homepage",), (PROFILE,), (file,))

    def _snapshots(self, day: int, storage: Storage | None) -> tuple[ServiceSnapshot, ...]:
        """Return the snapshots of a day. storage: None: their files do not exist."""
        captured = FIRST + day * DAY
        counts = {Status.OK: self.contexts - 40, Status.TIMEOUT: 30, Status.ERROR: 10}
        profile = {"rows": float(self.contexts), "confidence": 0.998, "mean_bytes": 913.5}
        return tuple(
            ServiceSnapshot(
                f"{captured:%Y-%m-%d}-daily",
                service,
                PROFILE.name,
                BUCKETS,
                counts,
                captured,
                captured + timedelta(minutes=20),
                tuple(self._files(service, captured, storage)),
                {Status.TIMEOUT: "no answer within 250 ms", Status.ERROR: "503 Service Unavailable"},
                profile,
            )
            for service in SERVICES
        )

    def _files(self, service: Service, captured: datetime, storage: Storage | None) -> Iterator[DataFile]:
        paths = [f"snapshots/{service.name}/{captured:%F}/{bucket:05d}-a1b2c3.parquet" for bucket in range(BUCKETS)]
        if storage is None:
            rows = self.contexts // BUCKETS
            yield from (DataFile(path, rows, 923_211, f"{hash(path) % 2**64:032x}", i) for i, path in enumerate(paths))
            return
        profiles = np.arange(self.contexts)
        buckets = bucket_of(pa.chunked_array([profiles]), BUCKETS)
        at = to_micros(captured)
        for bucket, path in enumerate(paths):
            keys = profiles[buckets == bucket]
            value = [{"video_id": bucket, "minutes": 1.0, "watched_at": captured}]
            columns = [pa.array(keys), pa.array(at + keys % 10**6).cast(TIME), [value] * len(keys)]
            table = pa.table(columns, snapshot_schema(service))
            yield write_parquet(storage, path, table, table.schema, bucket)


@dataclass(frozen=True)
class Planning:
    """Median seconds of planning a week of labels, by rule, and the snapshots that are listed for an element."""

    index: str
    days: int
    week: str
    seconds: dict[str, float]
    listed: dict[str, int]


def planning(projects: Sequence[Project], index: str, repeats: int) -> list[Planning]:
    """Plan weeks of all projects in turns, each in an index that stays open."""
    seconds: dict[tuple[int, str, str], list[float]] = {}
    listed = {}
    with ExitStack() as stack:
        opened = {project.days: stack.enter_context(open_index(project.uris[index])) for project in projects}
        for _ in range(repeats):
            for project in projects:
                for week, start in project.weeks():
                    labels = a_week(start)
                    for what, rule in RULES.items():
                        key = (project.days, week, what)
                        taken, listed[key] = planned(labels, opened[project.days], project.storage_uri, rule)
                        seconds.setdefault(key, []).append(taken)
    return [
        Planning(
            index,
            project.days,
            week,
            {what: float(np.median(seconds[project.days, week, what])) for what in RULES},
            {what: listed[project.days, week, what] for what in RULES},
        )
        for project in projects
        for week, _ in project.weeks()
    ]


def a_week(start: datetime) -> Labels:
    """Return label data over a week, without files."""
    return Labels("week", (PROFILE,), (item("video_id", "int64"),), PROFILE.name, BUCKETS, (), 0, start, start + WEEK)


def planned(labels: Labels, index: SnapshotIndex, storage_uri: str, rule: AsOf) -> tuple[float, int]:
    """Plan, and return the seconds it took and the number of snapshots listed for an element."""
    start = time.perf_counter()
    rules = {element.name: rule for element in ELEMENTS}
    plan = plan_generation(labels, MODEL, index, storage_uri, rules, paged=True)
    return time.perf_counter() - start, len(plan.services[0].ids)


def coverage(projects: Sequence[Project], index: str) -> Iterator[Verdict]:
    """Count what the newest week of labels and of days would find, and compare the projects."""
    seconds: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        opened = {project.days: stack.enter_context(open_index(project.uris[index])) for project in projects}
        labels = {project.days: project.labels() for project in projects}
        for _ in range(COVERAGE_REPEATS):
            for project in projects:
                found, storage = opened[project.days], open_storage(project.storage_uri)
                last = (FIRST + (project.days - 1) * DAY).date()
                start = time.process_time()
                label_coverage(labels[project.days], found, storage, elements=ELEMENTS)
                middle = time.process_time()
                day_coverage(found, storage, first=last - 6 * DAY, last=last)
                end = time.process_time()
                seconds.setdefault(("label data", project.days), []).append(middle - start)
                seconds.setdefault(("days", project.days), []).append(end - middle)
    few, many = (project.days for project in projects)
    for what in ("label data", "days"):
        of_few, of_many = (float(np.median(seconds[what, days])) for days in (few, many))
        target = f"coverage of a week of {what} takes at most {RATIO} times as long at {many:,} days, with {index}"
        ratio = of_many / of_few
        yield Verdict(target, f"{ratio:.2f}: {of_few:.3f} s CPU, then {of_many:.3f} s", ratio <= RATIO)


@dataclass(frozen=True)
class Generated:
    """A generation of the newest week in a process of its own. opened: files; most_open: at a time."""

    index: str
    days: int
    seconds: float
    opened: int
    most_open: int
    memory_mib: float


def in_process(project: Project, index: str) -> Generated:
    """Generate in a new process, whose peak memory is then its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(generated_week, (project, index, project.labels()))


def generated_week(project: Project, index: str, labels: Labels) -> Generated:
    """Generate the features of the newest week, counting the files that are opened."""
    paths: list[str] = []
    most = 0
    enter = ParquetReader.__enter__

    def entered(reader: ParquetReader) -> ParquetReader:
        nonlocal most
        paths.append(reader.file.path)
        most = max(most, sum(1 for _ in Path("/proc/self/fd").iterdir()))
        return enter(reader)

    ParquetReader.__enter__ = entered  # type: ignore[method-assign]
    storage = open_storage(project.storage_uri)
    with open_index(project.uris[index]) as opened:
        start = time.perf_counter()
        generate(labels, MODEL, opened, storage, f"features-{index}")
        taken = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Generated(index, project.days, taken, len(paths), most, memory)


def report(planned: Sequence[Planning], generated: Sequence[Generated], days: tuple[int, int]) -> list[Verdict]:
    """Print what was measured, and return whether the targets are met."""
    table = Table(title="Planning a week of labels; ms, and snapshots listed of each service")
    for column in ("index", "days", "week", "max_age of 2 days", "any age"):
        table.add_column(column, justify="left" if column in ("index", "week") else "right")
    for each in planned:
        shown = [f"{each.seconds[what] * 1000:,.1f} ({each.listed[what]})" for what in RULES]
        table.add_row(each.index, f"{each.days:,}", each.week, *shown)
    CONSOLE.print(table)
    table = Table(title="Generating the newest week, state of any age, in a process of its own")
    for column in ("index", "days", "seconds", "files opened", "open at a time", "peak MiB"):
        table.add_column(column, justify="left" if column == "index" else "right")
    for one in generated:
        figures = (f"{one.seconds:.2f}", f"{one.opened:,}", f"{one.most_open}", f"{one.memory_mib:,.0f}")
        table.add_row(one.index, f"{one.days:,}", *figures)
    CONSOLE.print(table)
    return list(_verdicts(planned, generated, days))


def _verdicts(planned: Sequence[Planning], generated: Sequence[Generated], days: tuple[int, int]) -> Iterator[Verdict]:
    for name, most in SECONDS.items():
        few, many = (
            {
                (each.week, what): each.seconds[what]
                for each in planned
                if (each.index, each.days) == (name, n)
                for what in each.seconds
            }
            for n in days
        )
        if not many:
            continue
        slowest = max(many.values())
        yield Verdict(f"planning a week with {name} takes at most {most:g} s", f"{slowest:.3f} s", slowest <= most)
        ratio = max(many["newest", what] / few["newest", what] for what in RULES)
        what = f"{days[1]:,} days take at most {RATIO} times as long as {days[0]:,} days, with {name}"
        yield Verdict(what, f"{ratio:.2f}", ratio <= RATIO)
    opened = {one.opened for one in generated}
    yield Verdict("as many files are opened, however many days there are", str(sorted(opened)), len(opened) == 1)
    most_open = max(one.most_open for one in generated)
    yield Verdict(f"at most {MOST_OPEN} files are open at a time", str(most_open), most_open <= MOST_OPEN)
    for name in SECONDS:
        few_mib, many_mib = (
            next((one.memory_mib for one in generated if (one.index, one.days) == (name, n)), 0.0) for n in days
        )
        grown = many_mib - few_mib
        yield Verdict(f"memory grows by at most {MEMORY_MIB} MiB, with {name}", f"{grown:.0f} MiB", grown <= MEMORY_MIB)


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

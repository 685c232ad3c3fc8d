"""Years of history: what planning and generating one week of labels costs in a project of 100 days and of 1,000 days.

Three services are captured daily. The index is real; data files exist only around the week whose features are
generated, so opening any other fails. Then a view of one snapshot of 5 M contexts is counted in Spark, while the memory
of this process is watched. Ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.history_project import DAY, ELEMENTS, FIRST, MODEL, Project, a_week
from benchmarks.history_view import counted_in_spark
from benchmarks.load_report import CONSOLE, Verdict, show
from delorean.coverage import day_coverage, label_coverage
from delorean.generation import generate
from delorean.generation.generation_plan import plan_generation
from delorean.labels import Labels
from delorean.state.rules import AsOf
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import ParquetReader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from cassandra_server import keyspace_at_hand, new_index  # which tests start too

SECONDS = {"SQLite": 1.0, "Cassandra": 3.0}
RATIO = 1.2
COVERAGE_REPEATS = 3
MOST_OPEN = 200
MEMORY_MIB = 20
RULES = {"max_age": AsOf(max_age=2 * DAY), "any age": AsOf()}


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

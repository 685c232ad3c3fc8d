"""Runs the demo: from an empty folder to a served model, the parity replay and a report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from delorean.demo.ab_test import ALL_EVENINGS, CANDIDATE, CONTROL, analyse_tests, declare_tests, run_visits
from delorean.demo.audience import Audience, RatedTastes
from delorean.demo.company import Company, open_company, start_services
from delorean.demo.folder import CompanyFolder, new_folder
from delorean.demo.learning import learn
from delorean.demo.movielens import movielens_world
from delorean.demo.outcome import DemoResult, Outcome
from delorean.demo.parity import replay_requests
from delorean.demo.processes import Processes
from delorean.demo.simulation import SEED, simulate
from delorean.demo.step_bars import StepBars
from delorean.demo.summary import report_data
from delorean.demo.task_models import MEMBERS, learn_tasks, recorded_tasks
from delorean.demo.world import World
from delorean.display.report import write_report
from schemas.errors import ConfigError, SetupError
from schemas.strict_json import json_text
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.spark.session import require_java, spark_session
from snapshotter.storage import Storage, open_storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_STEPS: Final = {
    "world": "make the world",
    "start": "start services, proxy and Spark",
    "publish": "publish video metadata",
    "select": "select contexts",
    "snapshot": "capture snapshots",
    "labels": "make label data",
    "generate": "generate features",
    "train": "train as on the day before",
    "tune": "tune, train and package",
    "compare": "compare with production",
    "tasks": "learn one model of three tasks",
    "added": "add a task by configuration",
    "rival": "share the model in another way",
    "serve": "start the live scorer",
    "parity": "replay for parity",
    "visits": "let members visit during two tests",
    "analyse": "analyse the tests",
    "report": "write the report",
}


@dataclass(frozen=True)
class Size:
    """The size of a generated world, and the number of replayed requests."""

    profiles: int = 600
    videos: int = 1500
    requests: int = 240


def run_demo(
    output_dir: Path,
    movielens: Path | None = None,
    days: int = 6,
    seed: int = SEED,
    spark: SparkSession | None = None,
    *,
    size: Size | None = None,
) -> DemoResult:
    """Run the demo company: capture it day by day, train a model, serve it and check parity.

    output_dir: the run gets a new folder in it
    movielens: folder of a MovieLens data set; None generates a world
    days: number of days with a snapshot, at least 3
    spark: None starts a session, and stops it at the end

    Everything that it starts is stopped at the end, also after an interrupt. Raises errors of DeloreanError's tree.
    """
    if days < 3:
        raise ConfigError.because(f"{days} days are too few: some are for training, others for testing", "at least 3")
    size = size or Size()
    if spark is None:
        require_java()  # before anything is created or started
    with StepBars(_STEPS) as steps:
        with steps.step("world"):
            audience = _audience(movielens, seed, days + 1, size)
            world = audience.world
            folder = CompanyFolder(_folder_for_now(output_dir))
            folder.prepare(world)
        with Processes(folder.root / "logs") as processes, open_index(folder.index_uri) as index:
            storage = open_storage(folder.storage_uri)
            with _running(world, folder, processes, spark, steps) as (company, session):
                captured_days = company.live(days, session, storage, index, steps)
                learned = learn(folder, captured_days, session, storage, index, steps)
                of_tasks = learn_tasks(folder, session, storage, index, steps)
            tests = declare_tests(folder, world)
            with steps.step("serve"):
                scorer, url = company.start_scorer(MEMBERS, tests.paths)
            with steps.step("parity", size.requests):
                progress = partial(steps.show, "parity")
                recorded = recorded_tasks(of_tasks.second, captured_days)
                features = of_tasks.second.features
                parity = replay_requests(features, folder.clock, url, size.requests, seed, progress, recorded)
            with steps.step("visits", ALL_EVENINGS):
                packages = {CONTROL: of_tasks.rival, CANDIDATE: of_tasks.second.package}
                visited = run_visits(folder, audience, url, packages, seed, partial(steps.show, "visits"))
                processes.stop(scorer)  # which writes the rest of its log of what was shown
            with steps.step("analyse"):
                tested = analyse_tests(tests, storage, visited)
            outcome = Outcome(world, folder.experiment(), captured_days, learned, of_tasks, parity, tested)
            return _write_results(outcome, folder, storage, index, steps)


def _audience(movielens: Path | None, seed: int, days: int, size: Size) -> Audience:
    """Generate a world, or read one from MovieLens, with the tastes of its people."""
    if movielens is None:
        return Audience(*simulate(seed, days, size.profiles, size.videos))
    world = movielens_world(movielens, seed, days)
    return Audience(world, RatedTastes(world, np.random.default_rng(seed)))


def _folder_for_now(output_dir: Path) -> Path:
    try:
        return new_folder(output_dir, datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S"))
    except OSError as error:
        raise SetupError.because(
            f"cannot create a folder in {output_dir}: {error.strerror or error}", "choose another with --output"
        ) from error


@contextmanager
def _running(
    world: World, folder: CompanyFolder, processes: Processes, spark: SparkSession | None, steps: StepBars
) -> Iterator[tuple[Company, SparkSession]]:
    """Start the services and, meanwhile, Spark. A session that was started here is stopped at the end."""
    own = None
    try:
        with steps.step("start"):
            services = start_services(folder, processes)
            if spark is None:
                with stderr_into(folder.root / "logs" / "spark.log"):
                    own = small_session(folder)
            session = spark or own
            assert session is not None  # one or the other
            company = open_company(world, folder, services, processes)
        yield company, session
    finally:
        if own is not None:
            own.stop()


@contextmanager
def stderr_into(log: Path) -> Iterator[None]:
    """Redirect stderr of processes that start meanwhile, such as Spark's JVM, into a log."""
    stderr = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def small_session(folder: CompanyFolder) -> SparkSession:
    """Start a Spark session sized for the demo."""
    return spark_session(
        "delorean demo",
        spark__sql__shuffle__partitions="2",  # a day is a few hundred contexts
        # In a JVM that lives for a minute, the optimizing compiler costs more than it gains: half of all CPU time.
        spark__driver__extraJavaOptions="-XX:TieredStopAtLevel=1",
        spark__ui__enabled="false",
        spark__driver__memory="1g",
        spark__driver__host="127.0.0.1",
        spark__sql__warehouse__dir=str(folder.root / "warehouse"),
    )


def _write_results(
    outcome: Outcome, folder: CompanyFolder, storage: Storage, index: SnapshotIndex, steps: StepBars
) -> DemoResult:
    """Write the report and the summary."""
    report = folder.root / "report.html"
    with steps.step("report"):
        summary = outcome.summary()
        write_report(report, report_data(outcome, summary, storage, index, steps.seconds))
    summary["seconds"] = dict(steps.seconds)
    (folder.root / "summary.json").write_text(json_text(summary) + "\n")
    return DemoResult(folder.root, report, summary)

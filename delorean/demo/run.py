"""Runs the demo from nothing to the parity replay, and says what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from delorean.demo.company import Company, open_company, start_services
from delorean.demo.layout import Layout, new_folder
from delorean.demo.movielens import MAX_USERS, movielens_world
from delorean.demo.outcome import Outcome
from delorean.demo.parity import replay
from delorean.demo.processes import Processes
from delorean.demo.progress import Steps
from delorean.demo.simulation import SEED, generate_world
from delorean.demo.told import report_data
from delorean.demo.world import World
from delorean.display.report import write_report
from delorean.experiment.run import record_run
from delorean.experiment.steps import features_of, labels_of, package_of
from delorean.generation import FeatureSet
from delorean.packaging.package import ModelPackage
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
    "train": "train and package",
    "serve": "start the live scorer",
    "parity": "replay for parity",
    "report": "write the report",
}


@dataclass(frozen=True)
class Size:
    """How large a generated world is, and how many requests are replayed."""

    profiles: int = 600
    videos: int = 1500
    requests: int = 240


@dataclass(frozen=True)
class DemoResult:
    """What came of a demo.

    folder: everything that it made; a project in which the commands of `delorean` work
    report: an HTML file in it
    summary: what the last line of output says
    """

    folder: Path
    report: Path
    summary: dict[str, Any]


def run_demo(
    output_dir: Path,
    movielens: Path | None = None,
    days: int = 6,
    seed: int = SEED,
    spark: SparkSession | None = None,
    *,
    size: Size | None = None,
    max_users: int = MAX_USERS,
    console: Console | None = None,
) -> DemoResult:
    """Run the small streaming company: capture it day by day, learn from it, serve what was learned, prove parity.

    output_dir: a new folder is made in it for this run
    movielens: folder of a MovieLens data set; None: a generated world
    days: on how many days snapshots are taken, at least 2
    spark: None: a session of its own, stopped in the end
    max_users: of MovieLens, kept by seed when there are more
    console: where progress is shown, by default stderr

    Whatever it starts it stops, also when it is interrupted. Raises errors of DeloreanError's tree.
    """
    if days < 2:
        raise ConfigError.because(f"{days} days are too few to train on some and test on others", "at least 2")
    size = size or Size()
    if spark is None:
        require_java()  # before anything is made or started
    with Steps(_STEPS, console) as steps:
        with steps.step("world"):
            world = (
                generate_world(seed, days + 1, size.profiles, size.videos)
                if movielens is None
                else movielens_world(movielens, seed, days + 1, max_users)
            )
            layout = Layout(_folder_for_now(output_dir))
            layout.prepare(world)
        with Processes(layout.root / "logs") as processes, open_index(layout.index_uri) as index:
            storage = open_storage(layout.storage_uri)
            with _running(world, layout, processes, spark, steps) as (company, session):
                lived = company.live(days, session, storage, index, steps)
                features, package = _learn(layout, session, storage, index, steps)
            with steps.step("serve"):
                _, url = company.start_scorer()
            with steps.step("parity", size.requests):
                found = replay(
                    features,
                    layout.clock,
                    url,
                    size.requests,
                    seed,
                    lambda done, of: steps.show("parity", done, of),
                )
            outcome = Outcome(world, layout.experiment(), lived, features, package, found)
            return _tell(outcome, layout, storage, index, steps)


def _folder_for_now(output_dir: Path) -> Path:
    try:
        return new_folder(output_dir, datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S"))
    except OSError as error:
        raise SetupError.because(
            f"no folder can be made in {output_dir}: {error.strerror or error}", "choose another with --output"
        ) from error


@contextmanager
def _running(
    world: World, layout: Layout, processes: Processes, spark: SparkSession | None, steps: Steps
) -> Iterator[tuple[Company, SparkSession]]:
    """Start what runs, services and Spark at the same time; Spark stops with the block if it is the demo's own."""
    own = None
    try:
        with steps.step("start"):
            services = start_services(layout, processes)
            if spark is None:
                with stderr_into(layout.root / "logs" / "spark.log"):
                    own = small_session(layout)
            session = spark or own
            assert session is not None  # one or the other
            company = open_company(world, layout, services, processes)
        yield company, session
    finally:
        if own is not None:
            own.stop()


@contextmanager
def stderr_into(log: Path) -> Iterator[None]:
    """Let processes that start meanwhile, such as Spark's JVM, write their greetings into a log."""
    stderr = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def small_session(layout: Layout) -> SparkSession:
    """Start a session for a company as small as this."""
    return spark_session(
        "delorean demo",
        spark__sql__shuffle__partitions="2",  # a day is a few hundred contexts
        # In a JVM that lives for a minute the second compiler costs more than it gains: half of all its work.
        spark__driver__extraJavaOptions="-XX:TieredStopAtLevel=1",
        spark__ui__enabled="false",
        spark__driver__memory="1g",
        spark__driver__host="127.0.0.1",
        spark__sql__warehouse__dir=str(layout.root / "warehouse"),
    )


def _learn(
    layout: Layout, spark: SparkSession, storage: Storage, index: SnapshotIndex, steps: Steps
) -> tuple[FeatureSet, ModelPackage]:
    """Run the experiment, step by step so that each is shown, and record it."""
    experiment, started_at = layout.experiment(), datetime.now(UTC)
    with steps.step("labels"):
        labels = labels_of(experiment, spark, storage)
    with steps.step("generate", len(labels.files)):
        features = features_of(
            experiment, labels, index, storage, spark, lambda _, done, of: steps.show("generate", done, of)
        )
    with steps.step("train"):
        package = package_of(experiment, index, storage, layout.package)
    seconds = {name: steps.seconds[name] for name in ("labels", "generate", "train")}
    record_run(experiment, labels, features, package.report, started_at, seconds, storage)
    return features, package


def _tell(outcome: Outcome, layout: Layout, storage: Storage, index: SnapshotIndex, steps: Steps) -> DemoResult:
    """Write the report and give the summary."""
    report = layout.root / "report.html"
    with steps.step("report"):
        summary = outcome.summary()
        write_report(report, report_data(outcome, summary, storage, index, steps.seconds))
    summary["seconds"] = dict(steps.seconds)
    (layout.root / "summary.json").write_text(json_text(summary) + "\n")
    return DemoResult(layout.root, report, summary)

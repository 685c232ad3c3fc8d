"""What tests of several packages share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import quick_jvm
from cassandra_server import new_index, new_keyspace
from hypothesis import settings
from made_once import made_once
from pyspark.sql import SparkSession
from s3_server import S3Server
from shared_server import shared_server

from snapshotter.spark.session import spark_session

if TYPE_CHECKING:
    from delorean.demo.outcome import DemoResult

pytest_plugins = ["leftovers", "programs", "scheduling"]

# jsonschema imports it wherever it is installed: it spends three seconds, in each worker, on a parser of URIs.
sys.modules.setdefault("rfc3987_syntax", None)  # as if it were not installed

settings.register_profile("any machine", deadline=None)  # no test asserts how fast a machine is
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Let numerical libraries use one thread in each process of the tests.

    Several processes share the cores: threads that wait for each other at barriers then spin, which makes fitting a
    model ten times slower.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without collecting garbage, a fifth of the time; afterwards, leave what they consist of alone."""
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the cells that tests have filled as tables: a row for each fault, a column for each moment."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for report in (*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())):
        for name, reported in report.user_properties:
            if name == "cell" and report.when == "call":
                title, row, column, text = reported
                tables.setdefault(title, {}).setdefault(row, {})[column] = text if report.passed else "FAILED"
    for title, rows in tables.items():
        terminalreporter.write_sep("-", title)
        columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
        lines = [
            ["", *columns],
            *([row, *(cells.get(column, "") for column in columns)] for row, cells in rows.items()),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            terminalreporter.write_line("  ".join(map(str.ljust, line, widths)).rstrip())


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    session = spark_session(
        "tests",
        "local[2]",
        delta=True,  # so that label data and feature sets are read as Delta by the session that all share
        spark__sql__shuffle__partitions="3",
        spark__sql__warehouse__dir=str(tmp_path_factory.mktemp("warehouse")),
        spark__ui__enabled="false",
        spark__driver__host="127.0.0.1",
        spark__driver__memory="1g",
    )
    yield session
    quick_jvm.end(session)


@pytest.fixture(scope="session")
def s3_started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that checks signatures."""
    with shared_server("s3_server:s3_server", tmp_path_factory) as access:
        yield S3Server(*access)


@pytest.fixture
def s3(s3_started: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """That server, with the keys to it in this process's environment and nowhere else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_started.environment.items():
        monkeypatch.setenv(name, value)
    return s3_started


@pytest.fixture(scope="session")
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    """A small demo's project, with all that it captured and learned; copy it before changing anything."""
    from delorean.demo.run import Size, run_demo  # most tests need not wait for what it imports

    def make(folder: Path) -> DemoResult:
        spark, size = request.getfixturevalue("spark"), Size(profiles=240, videos=400, requests=60)
        return run_demo(folder, days=3, seed=11, spark=spark, size=size)

    made: DemoResult = made_once("demo", make, tmp_path_factory)
    return made


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that executors of a cluster need."""
    from spark_cluster import environment_archive  # most tests need none

    archive: Path = made_once("environment", lambda _: environment_archive(), tmp_path_factory)
    return archive


@pytest.fixture(scope="session")
def cassandra_keyspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a keyspace on a real server, which is started for the first test that asks."""
    with (
        shared_server("cassandra_server:server_at_hand", tmp_path_factory) as authority,
        new_keyspace(authority) as uri,
    ):
        yield uri


@pytest.fixture
def cassandra_uri(cassandra_keyspace: str) -> str:
    """A new index there."""
    return new_index(cassandra_keyspace)

"""Stacks for tests of faults, and the cells of the table of their outcomes."""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cassandra_server import CassandraNode
from connect_server import connect_server
from driver_process import MASTER, SETTINGS, stop_forking
from fault_stack import PROFILES, VIDEOS, Stack, company
from fault_table import Failure, Stage
from faulty_proxy import faulty_proxy
from increment_jobs import shown
from s3_server import S3Server
from small_disk import SmallDisk
from spark_cluster import ROOT, spark_cluster
from spark_cluster import SETTINGS as OF_CLUSTER

from snapshotter.index import init_index

DAYS = 30


@pytest.fixture(scope="module")
def in_production(s3_started: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Cassandra and S3."""
    folder = tmp_path_factory.mktemp("stack")
    node = CassandraNode(folder / "node", settings={"commitlog_sync": "batch", "commitlog_sync_period": None})
    with ExitStack() as stack:
        stack.callback(stop_forking)
        stack.callback(node.kill)
        node.start()
        node.wait()
        index = f"cassandra://{node.host}:{node.port}/faults"
        init_index(index, {"": 1})
        s3 = stack.enter_context(faulty_proxy(s3_started.endpoint))
        storage = s3_started.new_uri(s3.url, attempts="2", timeout="60")
        services = stack.enter_context(company())
        made = Stack(folder, node, s3, index, storage, s3_started.environment, services, stack)
        made.driver.run("lay out", profiles=PROFILES, videos=VIDEOS, **made.place)
        made.published, _ = made.look("none")
        yield made


@pytest.fixture(scope="module")
def on_a_small_disk(in_production: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """SQLite and files."""
    folder = tmp_path_factory.mktemp("small")
    disk = folder / "disk"
    uris = f"sqlite://{disk}/index.db", f"file://{disk}/data"
    with ExitStack() as stack:
        services = stack.enter_context(company())
        services.items = 3000  # so that a file is larger than the pages of a disk
        made = SmallDisk(folder, in_production.node, in_production.s3, *uris, {}, services, stack)
        made.driver.run("lay out", profiles=PROFILES, videos=VIDEOS, **made.place)
        made.published, _ = made.look("none")
        yield made


@pytest.fixture(scope="module")
def on_a_cluster(
    in_production: Stack, s3_started: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """S3, and a cluster of two executors that speculate on each other's slow tasks."""
    folder = tmp_path_factory.mktemp("cluster")
    settings = {
        **OF_CLUSTER,
        "spark.speculation": "true",
        "spark.speculation.quantile": "0.5",  # as soon as one of two tasks has ended
        "spark.executorEnv.PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "support"))),
        **{f"spark.executorEnv.{name}": value for name, value in s3_started.environment.items()},
    }
    with ExitStack() as stack:
        cluster = stack.enter_context(spark_cluster(folder))
        services = stack.enter_context(company())
        environment = {
            **s3_started.environment,
            MASTER: cluster.master,
            SETTINGS: json.dumps(settings),
        }
        storage = s3_started.new_uri(in_production.s3.url, attempts="2", timeout="60")
        index = f"sqlite://{folder}/index.db"
        made = Stack(
            folder, in_production.node, in_production.s3, index, storage, environment, services, stack, cluster=cluster
        )
        made.driver.run("lay out", profiles=PROFILES, videos=VIDEOS, **made.place)
        made.published, _ = made.look("none")
        yield made


@pytest.fixture(scope="module")
def connect(s3_started: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Spark Connect server, for drivers without a JVM: it survives them, and what they began there goes on.

    Without isolation all sessions use the same Python workers, which start slowly.
    """
    path = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests/support")))}
    with connect_server(
        tmp_path_factory.mktemp("connect"),
        {**path, **s3_started.environment},
        spark__sql__artifact__isolation__enabled="false",
    ) as url:
        yield url


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scheduled experiment, `scheduled`, whose labels are in a table of a few days, beside one of profiles."""
    folder = tmp_path_factory.mktemp("experiment")
    pq.write_table(shown(range(4), PROFILES, VIDEOS), folder / "shown.parquet")
    countries = ["US" if profile % 3 else "FR" for profile in range(PROFILES)]
    pq.write_table(pa.table({"profile_id": range(PROFILES), "country": countries}), folder / "profiles.parquet")
    text = 'encoders = ["driver_jobs:minutes_watched"]\n[tables]\nshown = { path = "shown.parquet" }\n'
    (folder / "scheduled.toml").write_text(f'{text}[labels]\ntable = "shown"\nitems = ["video_id"]\nbuckets = 2\n')
    return folder / "scheduled.toml"


STACKS = {Failure.DISK: "on_a_small_disk", Failure.EXECUTOR: "on_a_cluster", Failure.HANGING: "on_a_cluster"}


@pytest.fixture
def stack(failure: Failure, request: pytest.FixtureRequest) -> Stack:
    request.getfixturevalue("s3")  # its credentials let this process read what drivers write
    stack: Stack = request.getfixturevalue(STACKS.get(failure, "in_production"))
    return stack


@pytest.fixture
def days(stack: Stack) -> Counter[str]:
    """How many days each feature set of a stack has; snapshots of DAYS days are at rest."""
    if not stack.days:
        stack.driver.run("lay out days", days=DAYS, profiles=PROFILES, **stack.place)
        stack.published, _ = stack.look("none")
    return stack.days


@pytest.fixture
def date(stack: Stack, connect: str, spec: Path) -> dict[str, Any]:
    """What to select for a date, and where: contexts of one experiment are selected for it already."""
    arguments = {"day": datetime.date(2026, 1, 7), "table": str(spec.parent / "profiles.parquet"), "connect": connect}
    if not stack.experiments:
        stack.experiments = ["morning"]
        stack.driver.run("select", experiments=stack.experiments, **arguments, **stack.place)
    return arguments


@pytest.fixture
def cell(request: pytest.FixtureRequest, failure: Failure, stage: Stage) -> list[str]:
    """A cell of the table that is printed at the end."""
    cell = [request.function.__doc__.partition(":")[0], str(failure), str(stage), ""]
    request.node.user_properties.append(("cell", cell))
    return cell

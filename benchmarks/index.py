"""The index: publishing and looking up, in SQLite and in Cassandra, over many runs of many services.

Cassandra is the one in DELOREAN_TEST_CASSANDRA, or a container's, or one node from Maven's artifacts on this machine,
whose cores it then shares.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import DataFile, ServiceSnapshot, SnapshotRun

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from cassandra_server import keyspace_at_hand, new_index  # which tests start too

FIRST = datetime(2025, 1, 1, tzinfo=UTC)
APART = timedelta(hours=6)
PROFILE = {"rows": 1000.0, "confidence": 1.0, "mean_bytes": 123.4}


def main(arguments: list[str]) -> None:
    """Publish all runs to both, look up, and print the table."""
    parser = argparse.ArgumentParser("make bench BENCH=index", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--services", type=int, default=50)
    parser.add_argument("--files", type=int, default=8, help="of each service and run")
    parser.add_argument("--look-ups", type=int, default=1_000, help="of each kind")
    options = parser.parse_args(arguments)
    table = Table(title=f"{options.runs:,} runs of {options.services} services, {options.files} files each; ms")
    for column in ("index", "what", "p50", "p99"):
        table.add_column(column, justify="right" if column.startswith("p") else "left")
    with tempfile.TemporaryDirectory(prefix="index-") as folder, indexes(Path(folder)) as uris:
        for name, uri in uris.items():
            with open_index(uri) as index:
                for what, seconds in measure(index, options):
                    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
                    table.add_row(name, what, f"{p50:,.2f}", f"{p99:,.2f}")
    Console(width=100).print(table)


@contextmanager
def indexes(folder: Path) -> Iterator[dict[str, str]]:
    """Give an empty index of each kind."""
    with keyspace_at_hand(folder) as keyspace:
        yield {"SQLite": f"sqlite://{folder}/index.db", "Cassandra": new_index(keyspace)}


def measure(index: SnapshotIndex, options: argparse.Namespace) -> Iterator[tuple[str, list[float]]]:
    """Give the seconds of each call, by what it did."""
    services = [service(f"service_{number}") for number in range(options.services)]
    runs = [run(number, services, options.files) for number in range(options.runs)]
    yield "publish a run", [timed(lambda taken=taken: index.publish_run(taken)) for taken in runs]
    chance = random.Random(7)

    def lookup(days: int) -> Callable[[], object]:
        at = FIRST + APART * chance.randrange(options.runs)
        return lambda: index.snapshots(chance.choice(services).name, at - timedelta(days=days), at)

    for days in (2, 30):
        lookups = [lookup(days) for _ in range(options.look_ups)]
        yield f"snapshots of a service within {days} days", [timed(each) for each in lookups]
    ids = [chance.choice(runs).run_id for _ in range(options.look_ups)]
    yield "a run by its id", [timed(lambda run_id=run_id: index.run(run_id)) for run_id in ids]
    names = [chance.choice(services).name for _ in range(options.look_ups)]
    yield "a service's last 20 snapshots", [timed(lambda name=name: index.last_snapshots(name, 20)) for name in names]


def service(name: str) -> Service:
    return Service(name, service_element(name, "list<int64>"), (context_variable("profile_id", "int64"),))


def run(number: int, services: list[Service], files: int) -> SnapshotRun:
    run_id, first = f"run-{number:06d}", FIRST + APART * number
    taken = tuple(
        ServiceSnapshot(
            run_id,
            service,
            "profile_id",
            files,
            {Status.OK: 1000},
            first,
            first + timedelta(minutes=5),
            tuple(
                DataFile(f"snapshots/{service.name}/{run_id}/{i:05d}-a1b2c3.parquet", 125, 9_999, f"{i:032x}", i)
                for i in range(files)
            ),
            {},
            PROFILE,
        )
        for service in services
    )
    return SnapshotRun(run_id, "2025-01-01-abc", first, taken)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

"""The small streaming company while it runs: its clock, its services, and the days it goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from delorean.demo.layout import Layout
from delorean.demo.processes import Processes, Running
from delorean.demo.progress import Steps
from delorean.demo.services import SERVICES
from delorean.demo.state import CompanyState
from delorean.demo.world import World
from encoders.library.keys import VIDEOS
from schemas.tables import TIME
from snapshotter.capture import take_snapshot
from snapshotter.global_elements import publish_global
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, SnapshotRun
from snapshotter.selection import read_context_set, select_contexts
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_CLI: Final = ("-c", "from delorean.cli import main; main()")
_CAPTURED: Final = pa.schema([("profile_id", pa.int64()), ("captured_at", TIME)])


@dataclass(frozen=True)
class Day:
    """What was captured on a day of the company."""

    moment: datetime
    context_set: ContextSet
    run: SnapshotRun


@dataclass(frozen=True)
class Company:
    """The company in the middle of its life. proxy: "host:port" of its Prana proxy."""

    world: World
    layout: Layout
    processes: Processes
    proxy: str

    def live(
        self, days: int, spark: SparkSession, storage: Storage, index: SnapshotIndex, steps: Steps
    ) -> tuple[Day, ...]:
        """Go through the days: new metadata at midnight, a snapshot in the afternoon, then people watch.

        Leaves the clock where the last outcome is known.
        """
        experiments, clock = self.layout.selection(), self.layout.clock
        state = CompanyState(self.world)
        lived = []
        for number in range(days):
            midnight = self.world.starts_at + timedelta(days=number)
            clock.set(midnight)
            with steps.step("publish", days):
                name = f"day-{number + 1}"
                publish_global(state.catalogue(midnight), VIDEOS, midnight, storage, index, name)
            with steps.step("select", days):
                chosen = select_contexts(spark, experiments, midnight.date(), storage, index)
            moment = self.world.snapshot_moment(number)
            clock.set(moment)
            with steps.step("snapshot", days):
                run = take_snapshot(spark, chosen, None, [self.proxy], storage.uri, index, name)
            lived.append(Day(moment, chosen, run))
        clock.set(self.world.starts_at + timedelta(days=self.world.days))
        self._write_captured(lived, storage)
        return tuple(lived)

    def start_scorer(self) -> tuple[Running, str]:
        """Start serving the trained model; gives the process and its URL."""
        scorer = self.processes.start(
            "scorer",
            [
                *_CLI,
                "serve",
                str(self.layout.package),
                "--port=0",
                "--budget=30",  # the replay asks for equal answers, not for fast ones
                f"--config={self.layout.root / 'delorean.toml'}",
            ],
        )
        return scorer, scorer.wait_for(r"(http://127\.0\.0\.1:\d+)")

    def _write_captured(self, lived: Sequence[Day], storage: Storage) -> None:
        """Say who was captured when: label data is wanted of just these people."""
        parts = []
        for day in lived:
            profiles = read_context_set(day.context_set, storage, ["profile_id"])["profile_id"].unique()
            moments = pa.array([day.moment] * len(profiles), TIME)
            parts.append(pa.table([profiles, moments], schema=_CAPTURED))
        pq.write_table(pa.concat_tables(parts), self.layout.root / "captured.parquet")


def start_services(layout: Layout, processes: Processes) -> dict[str, Running]:
    """Start the three services; they take a second or two, in which something else can be done."""
    arguments = [f"--world={layout.world}", f"--clock={layout.clock.path}"]
    return {name: processes.start(name, ["-m", "delorean.demo.services", name, *arguments]) for name in SERVICES}


def open_company(world: World, layout: Layout, services: dict[str, Running], processes: Processes) -> Company:
    """Wait for the services, tell the proxy about them, and start it."""
    ports = {name: running.wait_for(r"port (\d+)") for name, running in services.items()}
    template = Template(files("delorean.demo").joinpath("services.toml").read_text(encoding="utf-8"))
    layout.services.write_text(template.substitute(clock=layout.clock.path.absolute().as_uri(), **ports))
    proxy = processes.start("prana", [*_CLI, "prana", "serve", f"--config={layout.services}", "--port=0"])
    return Company(world, layout, processes, proxy.wait_for(r"ready on ([\d.]+:\d+)"))

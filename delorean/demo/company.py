"""The demo company while it runs: its clock, its services, and the days that are simulated and captured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from delorean.demo.folder import CompanyFolder
from delorean.demo.processes import Processes, Running
from delorean.demo.services import SERVICES
from delorean.demo.state import CompanyState
from delorean.demo.step_bars import StepBars
from delorean.demo.world import World
from encoders.library.keys import VIDEOS
from snapshotter.capture import take_snapshot
from snapshotter.global_elements import publish_global
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, SnapshotRun
from snapshotter.selection import select_contexts
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_CLI: Final = ("-c", "from delorean.cli import main; main()")


@dataclass(frozen=True)
class CapturedDay:
    """One simulated day: the moment of its snapshot, the context set and the snapshot run."""

    moment: datetime
    context_set: ContextSet
    run: SnapshotRun


@dataclass(frozen=True)
class Company:
    """The company with its services and its Prana proxy running. proxy: "host:port" of the proxy."""

    world: World
    folder: CompanyFolder
    processes: Processes
    proxy: str

    def live(
        self, days: int, spark: SparkSession, storage: Storage, index: SnapshotIndex, steps: StepBars
    ) -> tuple[CapturedDay, ...]:
        """Simulate the days: publish metadata at midnight, take a snapshot in the afternoon.

        Afterwards the clock stands where the last outcome is known.
        """
        experiments, clock = self.folder.selection(), self.folder.clock
        state = CompanyState(self.world)
        captured_days = []
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
            captured_days.append(CapturedDay(moment, chosen, run))
        clock.set(self.world.starts_at + timedelta(days=self.world.days))
        return tuple(captured_days)

    def start_scorer(self) -> tuple[Running, str]:
        """Start serving the trained model; return the process and its URL."""
        scorer = self.processes.start(
            "scorer",
            [
                *_CLI,
                "serve",
                str(self.folder.package),
                "--port=0",
                "--budget=30",  # the replay checks values, not latency
                f"--config={self.folder.root / 'delorean.toml'}",
            ],
        )
        return scorer, scorer.wait_for(r"(http://127\.0\.0\.1:\d+)")


def start_services(folder: CompanyFolder, processes: Processes) -> dict[str, Running]:
    """Start the three services without waiting for them; they need a second or two."""
    arguments = [f"--world={folder.world}", f"--clock={folder.clock.path}"]
    return {name: processes.start(name, ["-m", "delorean.demo.services", name, *arguments]) for name in SERVICES}


def open_company(world: World, folder: CompanyFolder, services: dict[str, Running], processes: Processes) -> Company:
    """Wait for the services, then start a proxy that is configured with them."""
    ports = {name: running.wait_for(r"port (\d+)") for name, running in services.items()}
    template = Template(files("delorean.demo").joinpath("services.toml").read_text(encoding="utf-8"))
    folder.services.write_text(template.substitute(clock=folder.clock.path.absolute().as_uri(), **ports))
    proxy = processes.start("prana", [*_CLI, "prana", "serve", f"--config={folder.services}", "--port=0"])
    return Company(world, folder, processes, proxy.wait_for(r"ready on ([\d.]+:\d+)"))

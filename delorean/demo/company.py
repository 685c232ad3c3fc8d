"""The demo company while it runs: its clock, its services, and the days that are simulated and captured."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
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
from prana_proxy.client import PranaClient
from schemas.errors import SetupError
from snapshotter.capture import take_snapshots
from snapshotter.global_elements import publish_global
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, ServiceSnapshot, SnapshotRun
from snapshotter.selection import select_contexts
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PORT: Final = r"port (\d+)"
_POLL_SECONDS: Final = 0.1
_CLI: Final = ("-c", "from delorean.cli import main; main()")
SEARCHES_FROM_DAY: Final = 2  # counted from 0
DEVICES_FROM_DAY: Final = 3  # on which entries were added to lists: a new field of a service's answers
_DEVICE_FIELD: Final = ", device: string"
_DEVICE_DEFAULT: Final = 'defaults = { device = "unknown" }  # of lists that were captured before'
_RELOAD_SECONDS: Final = 60.0


@dataclass(frozen=True)
class CapturedDay:
    """One simulated day: the moment of its snapshot, the revisions of its context set and a run for each."""

    moment: datetime
    context_sets: tuple[ContextSet, ...]
    runs: tuple[SnapshotRun, ...]

    @property
    def snapshots(self) -> list[ServiceSnapshot]:
        """The services' snapshots."""
        return [snapshot for run in self.runs for snapshot in run.services]

    def confidence(self, service: str) -> float:
        """Answers of a service as a share of the keys requested over the day; NaN if it was not asked."""
        asked = [snapshot for snapshot in self.snapshots if snapshot.service.name == service and snapshot.asked]
        answered = sum(snapshot.confidence * snapshot.asked for snapshot in asked)
        return answered / sum(snapshot.asked for snapshot in asked) if asked else math.nan


@dataclass(frozen=True)
class Company:
    """The company with its services and its Prana proxy running.

    proxy: "host:port" of the proxy; ports: of the services that it started with
    """

    world: World
    folder: CompanyFolder
    processes: Processes
    proxy: str
    ports: Mapping[str, str]

    def live(
        self, days: int, spark: SparkSession, storage: Storage, index: SnapshotIndex, steps: StepBars
    ) -> tuple[CapturedDay, ...]:
        """Simulate the days: publish metadata at midnight, take a snapshot in the afternoon.

        On the third day searches are added to the contexts; on the fourth the service of lists adds a field to its
        answers. Afterwards the clock stands where the last outcome is known.
        """
        experiments, search, clock = self.folder.selection(), self.folder.search().selections[0], self.folder.clock
        state = CompanyState(self.world)
        captured_days = []
        for number in range(days):
            midnight = self.world.starts_at + timedelta(days=number)
            clock.set(midnight)
            if number == SEARCHES_FROM_DAY + 1:
                experiments = (*experiments, search)
            if number == DEVICES_FROM_DAY:
                self.deploy_lists_with_devices()
            with steps.step("publish", days):
                name = f"day-{number + 1}"
                publish_global(state.catalogue(midnight), VIDEOS, midnight, storage, index, name)
            with steps.step("select", days):
                select_contexts(spark, experiments, midnight.date(), storage, index)
                if number == SEARCHES_FROM_DAY:  # added during the day, which gets a second revision of its contexts
                    clock.set(midnight + timedelta(hours=12))
                    select_contexts(spark, [search], midnight.date(), storage, index)
            moment = self.world.snapshot_moment(number)
            clock.set(moment)
            with steps.step("snapshot", days):
                chosen = index.context_sets_of(midnight.date())
                runs = take_snapshots(spark, chosen, None, [self.proxy], storage.uri, index, name)
            captured_days.append(CapturedDay(moment, tuple(chosen), tuple(runs)))
        clock.set(self.world.starts_at + timedelta(days=self.world.days))
        return tuple(captured_days)

    def start_scorer(self) -> tuple[Running, str]:
        """Start serving the package that is in production; return the process and its URL."""
        scorer = self.processes.start(
            "scorer",
            [
                *_CLI,
                "serve",
                "registry:production",
                "--port=0",
                "--budget=30",  # the replay checks values, not latency
                f"--config={self.folder.root / 'delorean.toml'}",
            ],
        )
        return scorer, scorer.wait_for(r"(http://127\.0\.0\.1:\d+)")

    def deploy_lists_with_devices(self) -> None:
        """Replace the service of lists by its next release, and declare the field that it adds."""
        release = _start_service("my_list", self.folder, self.processes, "--devices")
        ports = {**self.ports, "my_list": release.wait_for(_PORT)}
        _write_services(self.folder, ports, my_list_field=_DEVICE_FIELD, my_list_default=_DEVICE_DEFAULT)
        deadline = time.monotonic() + _RELOAD_SECONDS
        with PranaClient([self.proxy]) as client:
            while "device" not in str(client.services()["my_list"].element.type):
                if time.monotonic() > deadline:
                    raise SetupError.because(f"the proxy has not read {self.folder.services} again", "see its log")
                time.sleep(_POLL_SECONDS)


def start_services(folder: CompanyFolder, processes: Processes) -> dict[str, Running]:
    """Start the services without waiting for them; they need a second or two."""
    return {name: _start_service(name, folder, processes) for name in SERVICES}


def open_company(world: World, folder: CompanyFolder, services: dict[str, Running], processes: Processes) -> Company:
    """Wait for the services, then start a proxy that is configured with them."""
    ports = {name: running.wait_for(_PORT) for name, running in services.items()}
    _write_services(folder, ports)
    proxy = processes.start("prana", [*_CLI, "prana", "serve", f"--config={folder.services}", "--port=0"])
    return Company(world, folder, processes, proxy.wait_for(r"ready on ([\d.]+:\d+)"), ports)


def _start_service(name: str, folder: CompanyFolder, processes: Processes, *options: str) -> Running:
    arguments = [name, f"--world={folder.world}", f"--clock={folder.clock.path}", *options]
    return processes.start(f"{name}{''.join(options)}", ["-m", "delorean.demo.services", *arguments])


def _write_services(
    folder: CompanyFolder, ports: Mapping[str, str], my_list_field: str = "", my_list_default: str = ""
) -> None:
    """Write the services.toml that the proxy follows, complete at once."""
    template = Template(files("delorean.demo").joinpath("services.toml").read_text(encoding="utf-8"))
    text = template.substitute(
        clock=folder.clock.path.absolute().as_uri(),
        my_list_field=my_list_field,
        my_list_default=my_list_default,
        **ports,
    )
    new = folder.services.with_suffix(".new")
    new.write_text(text)
    new.replace(folder.services)

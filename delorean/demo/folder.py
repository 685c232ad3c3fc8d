"""The folder of a demo run: its world, clock, specs, data and results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from delorean.demo.world import World
from delorean.experiment import ExperimentSpec, load_experiment
from prana_proxy.clock import FileClock
from schemas.file_uri import file_uri
from snapshotter.selection.declarations import NamedSelection, load_selections

_PROJECT: Final = """\
# The demo's project. `delorean` commands work in this folder, for example:
# delorean travel my_list --at {moment} --config {file}
index = "data/index.db"
storage = "data"
proxies = []
services = "services.toml"
"""


@dataclass(frozen=True)
class CompanyFolder:
    """Paths and URIs inside the folder of a demo run."""

    root: Path

    @property
    def world(self) -> Path:
        """The company's events."""
        return self.root / "world"

    @property
    def data(self) -> Path:
        """The storage of snapshots, labels and features."""
        return self.root / "data"

    @property
    def index_uri(self) -> str:
        """URI of the index."""
        return file_uri(self.data.absolute() / "index.db", "sqlite")

    @property
    def storage_uri(self) -> str:
        """URI of the storage."""
        return file_uri(self.data.absolute())

    @property
    def services(self) -> Path:
        """The services.toml of the proxy and the scorer."""
        return self.root / "services.toml"

    def package(self, name: str) -> Path:
        """Return the folder of a trained model."""
        return self.root / "packages" / name

    @property
    def clock(self) -> FileClock:
        """The company's clock."""
        return FileClock(self.root / "clock")

    def prepare(self, world: World) -> None:
        """Write the world, the specs, the clock and the project file."""
        self.data.mkdir(parents=True)
        self.write_company(world)
        moment, file = world.snapshot_moment(0).isoformat(), self.root / "delorean.toml"
        file.write_text(_PROJECT.format(moment=moment, file=file))

    def write_company(self, world: World) -> None:
        """Write the world, the specs and, last, the clock."""
        world.write(self.world)
        for name in ("experiments.toml", "homepage.toml", "members.toml"):
            (self.root / name).write_bytes(files("delorean.demo").joinpath(name).read_bytes())
        self.clock.set(world.starts_at)

    def selection(self) -> tuple[NamedSelection, ...]:
        """Read which contexts are selected each day."""
        return load_selections(self.root / "experiments.toml")

    def experiment(self) -> ExperimentSpec:
        """Read the experiment that the demo trains."""
        return load_experiment(self.root / "homepage.toml")

    def members(self) -> ExperimentSpec:
        """Read the experiment of several tasks."""
        return load_experiment(self.root / "members.toml")

    def write_test(self, name: str, start: datetime, end: datetime) -> Path:
        """Write an A/B test of the demo with its times; return its path."""
        template = Template(files("delorean.demo").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
        path = self.root / f"{name}.toml"
        path.write_text(template.substitute(start=start.isoformat(), end=end.isoformat()), encoding="utf-8")
        return path

    def add_notifications(self) -> None:
        """Append the task of notifications to the spec of several tasks, complete at once."""
        spec = self.root / "members.toml"
        added = files("delorean.demo").joinpath("notifications.toml").read_text(encoding="utf-8")
        new = spec.with_suffix(".new")
        new.write_text(spec.read_text(encoding="utf-8") + added, encoding="utf-8")
        new.replace(spec)


def new_folder(parent: Path, name: str) -> Path:
    """Create a new folder; append a number if the name is taken."""
    for nth in range(1, 1000):
        folder = parent / (name if nth == 1 else f"{name}-{nth}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder.resolve()
    raise FileExistsError(parent / name)

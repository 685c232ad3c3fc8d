"""A project at hand, for notebooks and prompts: one line opens it, and completion names what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from delorean.experiment import load_experiment
from delorean.experiment.record import find_run, recorded_runs
from delorean.feature_sets.table import feature_sets, load_feature_set
from delorean.labels import load_labels, names_of_labels
from delorean.project.config import PROJECT_FILE, Project, load_project
from delorean.time_travel import TimeMachine
from encoders.compilation.code_cache import use_cache_folder
from encoders.project_modules import import_from_project
from prana_proxy.config.toml_file import TomlFile, toml_files_in
from schemas.display import MOST_ROWS, Displayed, Facts, Headline, Note, Part, Table
from schemas.errors import ConfigError, DeloreanError
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.storage import Storage, open_storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_T = TypeVar("_T")


@dataclass(frozen=True, repr=False)
class Shelf(Displayed, Generic[_T]):
    """Things of one kind by name, read when they are asked for. Notebooks complete the names.

    kind: what they are, in the singular
    names: gives all names
    read: gives the thing of a name
    """

    kind: str
    names: Callable[[], list[str]]
    read: Callable[[str], _T]

    def __getitem__(self, name: str) -> _T:
        """Read one. Raises ConfigError that names those that are there, what reading raises of one that is."""
        try:
            return self.read(name)
        except DeloreanError as error:
            known = self.names()
            if name in known:
                raise
            raise ConfigError.unknown(self.kind, name, known) from error

    def __iter__(self) -> Iterator[str]:
        """Name them."""
        return iter(self.names())

    def __len__(self) -> int:
        """Count them."""
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        """Tell whether one is there."""
        return name in self.names()

    @property
    def first(self) -> _T:
        """Read the first of them; of what comes newest first, the newest. Raises ConfigError where there is none."""
        for name in self:
            return self.read(name)
        raise ConfigError.because(f"there is no {self.kind} yet")

    def _ipython_key_completions_(self) -> list[str]:
        return self.names()

    def _headline(self) -> Headline:
        try:
            return Headline("", f"{self.kind}s", f"{len(self)}")
        except DeloreanError as error:
            return Headline("", f"{self.kind}s", f"cannot be listed: {error}")

    def _parts(self) -> Iterator[Part]:
        names = self.names()
        yield Table([{"name": name} for name in names[:MOST_ROWS]], of=len(names))
        yield Note('["…"] gives one of them' if names else "there is none yet")


class OpenProject(Displayed):
    """A project whose index and storage are open. Use it as a context manager, or close it.

    folder: where its file lies, and the specs of its experiments
    config: what the file says
    machine: travels to any past moment
    experiments: specs beside the project's file, by the names of their files
    labels: label data at rest, by id
    feature_sets: the newest version of each feature set
    runs: recorded runs of experiments by id, the latest first; an experiment's name gives its latest
    snapshots: snapshot runs by id, the latest published first
    context_sets: by date, the newest first
    """

    def __init__(self, folder: Path, config: Project, index: SnapshotIndex, storage: Storage) -> None:
        # Plain attributes, none of them a property: so completion, which calls nothing, sees what they hold.
        self.folder, self.config, self.index, self.storage = folder, config, index, storage
        self.machine = TimeMachine(index, storage)
        self.experiments = Shelf("experiment", self._specs, lambda name: load_experiment(folder / f"{name}.toml"))
        self.labels = Shelf("label data set", lambda: names_of_labels(storage), lambda name: load_labels(name, storage))
        self.feature_sets = Shelf(
            "feature set", lambda: feature_sets(storage), lambda name: load_feature_set(storage, name)
        )
        self.runs = Shelf(
            "run", lambda: [record.run_id for record in recorded_runs(storage)], lambda name: find_run(name, storage)
        )
        self.snapshots = Shelf("snapshot", lambda: list(index.run_ids()), index.run)
        self.context_sets = Shelf(
            "context set",
            lambda: [day.isoformat() for day in index.context_set_dates()],
            lambda day: index.context_set(_day(day)),
        )

    def spark_session(self, app_name: str = "notebook", *, delta: bool = False, s3: bool = False) -> SparkSession:
        """Give the active Spark session as it is, or start one where the project's file says; see `Project`."""
        return self.config.spark_session(app_name, delta=delta, s3=s3)

    def close(self) -> None:
        """Let go of the index."""
        self.index.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _specs(self) -> list[str]:
        found = []
        for path in toml_files_in(self.folder):
            try:
                if {"labels", "encoders"} <= set(TomlFile.read(path).content):
                    found.append(path.stem)
            except ConfigError:
                continue  # of no file that is broken is it known what it would be
        return found

    def _headline(self) -> Headline:
        return Headline("project", self.folder.name, str(self.folder))

    def _parts(self) -> Iterator[Part]:
        yield Facts({"index": self.index.uri, "storage": self.storage.uri})
        rows: list[dict[str, Any]] = []
        for name in ("experiments", "labels", "feature_sets", "runs", "snapshots", "context_sets"):
            try:
                names = list(getattr(self, name))
            except DeloreanError as error:
                rows.append({"": name, "count": None, "names": f"cannot be listed: {error}"})
                continue
            rows.append({"": name, "count": len(names), "names": ", ".join(names[:5]) + (", …" if names[5:] else "")})
        yield Table(rows)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError.because(f"'{text}' is no day, expected such as 2026-01-31") from error


def open_project(place: str | Path = ".") -> OpenProject:
    """Open a project: its file `delorean.toml`, or the folder where that lies.

    `project.machine`, `project.experiments["…"]`, `.labels`, `.feature_sets`, `.runs`, `.snapshots` and
    `.context_sets` give what is in it, and show what there is. Modules beside the file can be imported from then on.

    Raises ConfigError for a file that is not there or is wrong, what `open_index` and `open_storage` raise.
    """
    path = Path(place)
    path = path / PROJECT_FILE if path.is_dir() else path
    config, folder = load_project(path), path.resolve().parent
    import_from_project(folder, config.encoders)
    use_cache_folder(config.encoder_cache)
    return OpenProject(folder, config, open_index(config.index), open_storage(config.storage))

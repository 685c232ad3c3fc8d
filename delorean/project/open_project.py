"""Opens a project for notebooks and prompts: one line opens it, and completion lists what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from delorean.experiment import load_experiment
from delorean.experiment.record import find_run
from delorean.experiment.record_files import record_paths
from delorean.feature_sets.table import load_feature_set
from delorean.feature_sets.versions import feature_sets
from delorean.labels import label_data_names, load_labels
from delorean.project.actions import ProjectActions
from delorean.project.config import PROJECT_FILE, Project, load_project
from delorean.project.elements import elements_of
from delorean.registry.registry import Registry
from delorean.time_travel import TimeMachine
from encoders.compilation.code_cache import use_cache_folder
from encoders.declared_elements import declare_elements
from encoders.project_modules import import_from_project
from prana_proxy.config.toml_file import TomlFile, toml_files_in
from schemas.closeable import Closeable
from schemas.errors import ConfigError, DeloreanError
from schemas.plain_text import plain_text
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.storage import Storage, open_storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_T = TypeVar("_T")


@dataclass(frozen=True, repr=False)
class Shelf(Mapping[str, _T]):
    """The objects of one kind by name, each read when it is accessed. Notebooks complete the names.

    kind: the noun for one of them
    names: returns all names
    read: reads the object with a name
    """

    kind: str
    names: Callable[[], list[str]]
    read: Callable[[str], _T]

    def __getitem__(self, name: str) -> _T:
        """Read one object. Raises ConfigError for an unknown name, and what reading an existing one raises."""
        try:
            return self.read(name)
        except DeloreanError as error:
            existing = self.names()
            if name in existing:
                raise
            raise ConfigError.unknown(self.kind, name, existing) from error

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names())

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        """Return whether there is an object with a name."""
        return name in self.names()

    @property
    def first(self) -> _T:
        """Read the first object: the newest, if sorted by time. Raises ConfigError if the shelf is empty."""
        for name in self:
            return self.read(name)
        raise ConfigError.because(f"there is no {self.kind} yet")

    def _ipython_key_completions_(self) -> list[str]:
        return self.names()

    def __repr__(self) -> str:
        """One line for people."""
        try:
            count = str(len(self))
        except DeloreanError as error:
            count = f"cannot be listed: {error}"
        return plain_text(f"{self.kind}s: {count}")


class OpenProject(ProjectActions, Closeable):
    """A project whose index and storage are open. Use it as a context manager, or close it.

    folder: that contains its file and the specs of its experiments
    config: the content of its file
    machine: travels to any past moment
    registry: versions of model packages and the pointers to them
    experiments: specs beside the project's file, by the names of their files
    labels: label data at rest, by id
    feature_sets: the newest version of each feature set
    runs: recorded runs of experiments by id, the latest first; an experiment's name gives its latest
    snapshots: snapshot runs by id, the latest published first
    context_sets: by date, the newest first; a later revision is "2026-01-31.r2"
    """

    def __init__(self, folder: Path, config: Project, index: SnapshotIndex, storage: Storage) -> None:
        # Attributes, not properties: completion, which calls nothing, then sees their content.
        self.folder, self.config, self.index, self.storage = folder, config, index, storage
        self.machine = TimeMachine(index, storage)
        self.registry = Registry(storage, config.encoders, config.packages.allow)
        self.experiments = Shelf("experiment", self._specs, lambda name: load_experiment(folder / f"{name}.toml"))
        self.labels = Shelf(
            "label data set", lambda: label_data_names(storage), lambda name: load_labels(name, storage)
        )
        self.feature_sets = Shelf(
            "feature set", lambda: feature_sets(storage), lambda name: load_feature_set(storage, name)
        )
        self.runs = Shelf(
            "run", lambda: [PurePosixPath(p).stem for p in record_paths(storage)], lambda name: find_run(name, storage)
        )
        self.snapshots = Shelf("snapshot", lambda: list(index.run_ids()), index.run)
        self.context_sets = Shelf(
            "context set",
            lambda: [name.label for name in index.context_set_names()],
            lambda name: index.context_set(*_revision(name)),
        )

    def spark_session(self, app_name: str = "notebook", *, delta: bool = False, s3: bool = False) -> SparkSession:
        """Return the active Spark session, or start one as the project's file configures it; see `Project`."""
        return self.config.spark_session(app_name, delta=delta, s3=s3)

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def _specs(self) -> list[str]:
        names = []
        for path in toml_files_in(self.folder):
            try:
                if {"labels", "encoders"} <= set(TomlFile.read(path).content):
                    names.append(path.stem)
            except ConfigError:
                continue  # a file that cannot be parsed cannot be classified
        return names

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"project {self.folder.name}: {self.folder}")


def _revision(text: str) -> tuple[date, int]:
    day, dot, revision = text.partition(".r")
    try:
        return date.fromisoformat(day), int(revision) if dot else 1
    except ValueError as error:
        hint = "write one such as 2026-01-31, or 2026-01-31.r2 for its second revision"
        raise ConfigError.because(f"'{text}' is not a date", hint) from error


def open_project(path: str | Path = ".") -> OpenProject:
    """Open a project: its file `delorean.toml`, or the folder that contains it.

    `project.experiments["…"]`, `.labels`, `.feature_sets`, `.runs`, `.snapshots` and `.context_sets` read what is in
    it, and list it when displayed. Modules beside the file can be imported from then on, and `data_key` gives them the
    elements that the project's services declare.

    Raises ConfigError for a file that does not exist or is invalid, and what `open_index` and `open_storage` raise.

    Example: `with open_project("shop") as project: features = project.generate("checkout")`
    """
    path = Path(path)
    path = path / PROJECT_FILE if path.is_dir() else path
    config, folder = load_project(path), path.resolve().parent
    import_from_project(folder, config.encoders)
    declare_elements(folder, elements_of(config))
    use_cache_folder(config.encoder_cache)
    return OpenProject(folder, config, open_index(config.index), open_storage(config.storage))

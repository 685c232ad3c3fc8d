"""The schedule: the experiments whose specs are in a project's folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from delorean.experiment import contexts_to_select, load_experiment
from delorean.project.config import Schedule
from prana_proxy.config.toml_file import TomlFile, toml_files_in
from schemas.errors import ConfigError, DeloreanError
from snapshotter.selection import NamedSelection


@dataclass(frozen=True)
class ScheduledExperiment:
    """An experiment whose features are generated each day.

    id: changes with the spec's content and with its encoders, so features of other contents are never mistaken for its
        own
    error: why its spec cannot be used; it then has no id and is never trained
    """

    name: str
    spec: Path
    id: str = ""
    training: Literal["weekly", "daily", "never"] = "never"
    error: str | None = None


@dataclass(frozen=True)
class Scheduled:
    """Everything that is scheduled.

    selected: specs that select contexts
    experiments: one for each spec with labels, and one for each file that cannot be read, so that it is noticed
    """

    selected: Sequence[Path]
    experiments: Sequence[ScheduledExperiment]


def scheduled(schedule: Schedule) -> Scheduled:
    """Read each spec in the folder. One that is invalid does not prevent the others."""
    selected, experiments = [], []
    for path in toml_files_in(schedule.specs):
        try:
            content = TomlFile.read(path).content
            if "labels" in content:
                experiments.append(_experiment(path))
            if "experiments" in content or {"labels", "contexts"} <= content.keys():
                contexts_to_select(path)
                selected.append(path)
        except DeloreanError as error:
            experiments.append(ScheduledExperiment(path.stem, path, error=str(error)))
    return Scheduled(selected, experiments)


def experiments_of(paths: Iterable[Path]) -> list[NamedSelection]:
    """Read the context selections of specs. Raises ConfigError where two of them have the same id."""
    declared: dict[str, Path] = {}
    experiments = []
    for path in paths:
        for experiment in contexts_to_select(path):
            other = declared.setdefault(experiment.id, path)
            if other != path:
                raise ConfigError.because(f"experiment '{experiment.id}' is in {other} and in {path}", "rename one")
            experiments.append(experiment)
    return experiments


def owners_in(schedule: Schedule) -> dict[str, str]:
    """Return the owner of each experiment whose spec in the folder names one. Files that cannot be read are skipped."""
    owners = {}
    for path in toml_files_in(schedule.specs):
        with suppress(DeloreanError):
            content = TomlFile.read(path).content
            if "labels" in content and isinstance(owner := content.get("owner"), str):
                owners[str(content.get("name") or path.stem)] = owner
    return owners


def _experiment(path: Path) -> ScheduledExperiment:
    spec = load_experiment(path)
    content = sha256(f"{spec.id}/{spec.feature_model.fingerprint}".encode()).hexdigest()[:8]
    return ScheduledExperiment(spec.name, path, content, spec.schedule.training)

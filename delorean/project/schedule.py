"""The schedule: the experiments whose specs are in a project's folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from delorean.experiment import contexts_to_select, load_experiment
from delorean.experiment.files import had_ended, is_experiment, selects_contexts
from delorean.project.config import Schedule
from prana_proxy.config.toml_file import TomlFile, toml_files_in
from schemas.errors import ConfigError, DeloreanError
from snapshotter.selection import NamedSelection
from snapshotter.selection.declarations import in_namespace

_RENAME = "rename one, or give one a namespace"


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
    experiments: one for each spec with labels or tasks, and one for each file that cannot be read, so it is noticed
    """

    selected: Sequence[Path]
    experiments: Sequence[ScheduledExperiment]


def scheduled(schedule: Schedule, day: date | None = None) -> Scheduled:
    """Read each spec in the folder. One that is invalid does not prevent the others.

    day: leave out the contexts of A/B tests that had ended when this day began, UTC
    """
    selected, experiments = [], []
    for path in toml_files_in(schedule.specs):
        try:
            content = TomlFile.read(path).content
            if is_experiment(content):
                experiments.append(_experiment(path))
            if selects_contexts(content):
                contexts_to_select(path)
                if day is None or not had_ended(path, content, day):
                    selected.append(path)
        except DeloreanError as error:
            experiments.append(ScheduledExperiment(path.stem, path, error=str(error)))
    return Scheduled(selected, [_unless_taken(schedule, each) for each in experiments])


def refuse_taken(schedule: Schedule, name: str, spec: str | Path) -> None:
    """Raise ConfigError if another spec in the folder has an experiment's name: both would write one feature set."""
    own = Path(spec).resolve()
    others = [path for path, other, _ in _declared(schedule) if other == name and path.resolve() != own]
    if others:
        raise ConfigError.because(f"experiment '{name}' is in {spec} and in {others[0]}", _RENAME)


def _unless_taken(schedule: Schedule, experiment: ScheduledExperiment) -> ScheduledExperiment:
    try:
        refuse_taken(schedule, experiment.name, experiment.spec)
    except ConfigError as error:
        return ScheduledExperiment(experiment.name, experiment.spec, error=experiment.error or str(error))
    return experiment


def _declared(schedule: Schedule) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
    """Yield each spec's path, its experiment's name and its content. Files that cannot be read are skipped."""
    for path in toml_files_in(schedule.specs):
        with suppress(DeloreanError):
            content = TomlFile.read(path).content
            if is_experiment(content):
                name = str(content.get("name") or path.stem)
                yield path, in_namespace(str(content.get("namespace", "")), name), content


def experiments_of(paths: Iterable[Path]) -> list[NamedSelection]:
    """Read the context selections of specs. Raises ConfigError where two of them have the same id."""
    declared: dict[str, Path] = {}
    experiments = []
    for path in paths:
        for experiment in contexts_to_select(path):
            other = declared.setdefault(experiment.id, path)
            if other != path:
                raise ConfigError.because(f"experiment '{experiment.id}' is in {other} and in {path}", _RENAME)
            experiments.append(experiment)
    return experiments


def owners_in(schedule: Schedule) -> dict[str, str]:
    """Return the owner of each experiment whose spec in the folder names one, and of what its tasks select.

    Files that cannot be read are skipped.
    """
    owners: dict[str, str] = {}
    for _, name, content in _declared(schedule):
        tasks = content.get("tasks")
        if isinstance(owner := content.get("owner"), str):
            owners |= {
                name: owner,
                **{f"{name}-{task}": owner for task in (tasks if isinstance(tasks, Mapping) else ())},
            }
    return owners


def _experiment(path: Path) -> ScheduledExperiment:
    spec = load_experiment(path)
    content = sha256(f"{spec.id}/{spec.feature_model.fingerprint}".encode()).hexdigest()[:8]
    return ScheduledExperiment(spec.name, path, content, spec.schedule.training)

"""What is on schedule: the specs in a project's folder, whoever put them there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from delorean.experiment import load_experiment, load_selection
from delorean.project.config import Schedule
from prana_proxy.config.toml_file import TomlFile, toml_files_in
from schemas.errors import DeloreanError


@dataclass(frozen=True)
class ScheduledExperiment:
    """An experiment whose features are made each day.

    id: changes with what the spec says and with its encoders, so that another's features are never taken for its own
    error: why its spec cannot be used; then it has no id and is never trained
    """

    name: str
    spec: Path
    id: str = ""
    training: Literal["weekly", "daily", "never"] = "never"
    error: str | None = None


@dataclass(frozen=True)
class Scheduled:
    """All that is on schedule.

    selected: specs that choose contexts
    experiments: one for each spec with labels, and for each file that cannot be read, so that somebody sees it
    """

    selected: Sequence[Path]
    experiments: Sequence[ScheduledExperiment]


def scheduled(schedule: Schedule) -> Scheduled:
    """Look at each spec in the folder. One that is wrong stands in no other's way."""
    selected, experiments = [], []
    for path in toml_files_in(schedule.specs):
        try:
            content = TomlFile.read(path).content
            if "labels" in content:
                experiments.append(_experiment(path))
            if "experiments" in content or {"labels", "contexts"} <= content.keys():
                load_selection(path)
                selected.append(path)
        except DeloreanError as error:
            experiments.append(ScheduledExperiment(path.stem, path, error=str(error)))
    return Scheduled(selected, experiments)


def _experiment(path: Path) -> ScheduledExperiment:
    spec = load_experiment(path)
    of = sha256(f"{spec.id}/{spec.feature_model.fingerprint}".encode()).hexdigest()[:8]
    return ScheduledExperiment(spec.name, path, of, spec.schedule.training)

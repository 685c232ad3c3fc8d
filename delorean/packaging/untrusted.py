"""Reads the parts of a package that must not be trusted: encoders' names, and files that unpack to any size."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from delorean.packaging.files import read_json
from delorean.packaging.golden_rows import open_arrow
from delorean.packaging.trial import try_package
from delorean.scoring.onnx_rules import check_model
from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet
from encoders import FeatureModel
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, EncoderError, FingerprintError, PackageError
from snapshotter.storage import require_plain_name

TASKS: Final = "tasks.json"


def read_feature_model(data: bytes, modules: tuple[str, ...], allow: Collection[str]) -> FeatureModel:
    """Import the encoders that a package names. Raises PackageError, and FingerprintError for changed encoders.

    allow: fingerprints of encoders whose packaged source may be executed where the installed ones are others
    """
    read_json("feature_model.json", data)
    try:
        return FeatureModel.from_json(data.decode(), modules, allow)
    except FingerprintError:
        raise
    except (EncoderError, DataKeyError) as error:
        raise PackageError.because(f"feature_model.json: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PackageError.because(f"feature_model.json is malformed: {error!r}", "package the model again") from error


def read_tasks(
    data: bytes, features: Collection[str], context: Collection[DataKey], items: Collection[DataKey]
) -> TaskSet:
    """Read a package's tasks. Raises PackageError for tasks that do not fit the package's features and variables."""
    read_json(TASKS, data)
    try:
        tasks = msgspec.json.decode(data, type=TaskSet)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PackageError.because(f"'{TASKS}' is malformed: {error}", "package the model again") from error
    names = [name.casefold() for name in tasks.names]
    if not names or len(set(names)) < len(names):
        raise PackageError.because(f"'{TASKS}' has no tasks, or two of one name", "package the model again")
    variables = ({key.name for key in context}, {key.name for key in items})
    if TASK_VARIABLE not in variables[0]:
        raise PackageError.unknown("context variable of a package of tasks", TASK_VARIABLE, variables[0])
    for task in tasks.tasks:
        _check_task(task, variables, features)
    for name in tasks.defaults:
        if name not in features:
            raise PackageError.unknown("feature with a default", name, features)
    return tasks


def _check_task(task: Task, variables: tuple[Collection[str], Collection[str]], features: Collection[str]) -> None:
    try:
        require_plain_name("task", task.name)
    except ConfigError as error:
        raise PackageError.because(f"'{TASKS}': {error}") from error
    for own, existing in ((task.context, variables[0]), (task.items, variables[1]), (task.without, features)):
        for name in own:
            if name not in existing:
                raise PackageError.unknown(f"variable or feature of task '{task.name}'", name, existing)


def refuse_excess(path: Path, files: Mapping[str, bytes], width: int) -> None:
    """Raise PackageError for models or golden rows that cannot be loaded in bounded memory and time."""
    tried = {name: data for name, data in files.items() if name.endswith((".onnx", ".arrow"))}
    for name, data in tried.items():
        if name.endswith(".onnx"):
            check_model(data)
        else:
            open_arrow(name, data)
    problem = try_package(tried, width)
    if problem is not None:
        raise PackageError.because(f"the package {path} cannot be loaded: {problem}", "package the model again")

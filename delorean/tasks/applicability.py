"""Which features a task cannot have: their encoders read a variable that it lacks, or belong to other tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import combinations

import msgspec

from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet
from encoders.encoder import FeatureEncoder
from encoders.feature_model import FeatureModel
from schemas.errors import ConfigError


def with_impossible_features(
    tasks: TaskSet,
    model: FeatureModel,
    service_keys: Mapping[str, Collection[str]],
    owners: Mapping[str, Collection[str]] | None = None,
) -> TaskSet:
    """Return the task set in which each task names the features of a model that it cannot have, and those named before.

    An encoder whose source does not show which variables it reads is taken to read none in particular.

    service_keys: service element → the context variables that its service is keyed by; elements that are missing here
        are those of all contexts
    owners: feature → the tasks that it belongs to; other features belong to all tasks

    Raises ConfigError for a feature that its own task cannot have.
    """
    reads = {feature: _variables(encoder, service_keys) for encoder in model.encoders for feature in encoder.features}
    named = tuple(
        msgspec.structs.replace(task, without=tuple(_impossible(task, reads, owners or {}))) for task in tasks.tasks
    )
    return msgspec.structs.replace(tasks, tasks=named)


def require_features(tasks: TaskSet, features: Collection[str]) -> None:
    """Raise ConfigError for a task without any feature, a feature that no task can have, and tasks that share none.

    Only tasks of different items must share a feature.

    features: of all tasks
    """
    possible = {task.name: {name for name in features if name not in task.without} for task in tasks.tasks}
    for task in tasks.tasks:
        if not possible[task.name]:
            raise ConfigError.because(
                f"task '{task.name}' can have none of the features {', '.join(features)}: their encoders read "
                "variables that it lacks, or belong to other tasks",
                f"declare encoders for it: [tasks.{task.name}] encoders = […]",
            )
    for feature in features:
        if not any(feature in names for names in possible.values()):
            raise ConfigError.because(
                f"no task can have the feature '{feature}': each lacks a variable or a service that its encoder reads",
                "remove the encoder, or add the variables to a task",
            )
    for one, other in combinations(tasks.tasks, 2):
        if {*one.items} != {*other.items} and not possible[one.name] & possible[other.name]:
            raise ConfigError.because(
                f"task '{one.name}' ranks {', '.join(one.items)} and task '{other.name}' {', '.join(other.items)}, and "
                "no feature can be computed for both, so a shared model has nothing to share",
                "add an encoder that reads only what both have, or train them apart",
            )


def _variables(encoder: FeatureEncoder, service_keys: Mapping[str, Collection[str]]) -> frozenset[str]:
    """Return the variables without which an encoder cannot be computed."""
    of_services = (name for key in encoder.data for name in service_keys.get(key.name, ()))
    return frozenset((*(encoder.reads.context or ()), *(encoder.reads.items or ()), *of_services))


def _impossible(
    task: Task, reads: Mapping[str, frozenset[str]], owners: Mapping[str, Collection[str]]
) -> Iterator[str]:
    existing = {TASK_VARIABLE, "time", *task.context, *task.items}
    for feature, variables in reads.items():
        lacking = sorted(variables - existing)
        if feature in owners and task.name in owners[feature] and lacking:
            raise ConfigError.because(
                f"task '{task.name}' declares the feature '{feature}', whose encoder needs {', '.join(lacking)}, which "
                "the task lacks",
                "declare the encoder for another task, or add the variable to the task's context or items",
            )
        if lacking or feature in task.without or task.name not in owners.get(feature, (task.name,)):
            yield feature

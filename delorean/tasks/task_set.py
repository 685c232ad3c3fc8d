"""The tasks of a shared model: which variables each has, and what stands for those that it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from schemas.errors import ConfigError

TASK_VARIABLE = "task_type"
Sentinel: TypeAlias = int | float | str | bool


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One use of a shared model.

    context, items: its own variables, of those that the tasks have together
    without: the features that it cannot have, because their encoders read a variable or a service that it lacks, or
        belong to other tasks
    """

    name: str
    context: tuple[str, ...]
    items: tuple[str, ...]
    without: tuple[str, ...] = ()


class TaskSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All tasks of a shared model, in the order in which its spec declares them.

    A context of the unified context has the variable `task_type` and those of all tasks. What its task lacks has the
    sentinel, which is never a value of a task that has the variable.

    sentinels: context or item variable → what stands for it in tasks that lack it
    defaults: feature → its value in tasks that cannot have it; features without one are missing there (NaN)

    >>> tasks = TaskSet((Task("home", ("profile_id",), ("video_id",)), Task("similar", ("seed_id",), ("video_id",))))
    >>> tasks.has("similar", ["profile_id"]), tasks.number("similar")
    (False, 1)
    """

    tasks: tuple[Task, ...]
    sentinels: Mapping[str, Sentinel] = {}
    defaults: Mapping[str, float] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names."""
        return tuple(task.name for task in self.tasks)

    def task(self, name: str) -> Task:
        """Return a task by name. Raises ConfigError if none has it."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise ConfigError.unknown("task", name, self.names)

    def number(self, name: str) -> int:
        """Return a task's position. Raises ConfigError if none has the name."""
        return self.tasks.index(self.task(name))

    @property
    def context(self) -> tuple[str, ...]:
        """The variables of the unified context: those of all tasks, then `task_type`."""
        return (*dict.fromkeys(name for task in self.tasks for name in task.context), TASK_VARIABLE)

    @property
    def items(self) -> tuple[str, ...]:
        """The item variables of all tasks."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.items))

    def check_sentinels(self) -> None:
        """Raise ConfigError for a missing sentinel, and for one of an unknown variable."""
        variables = [name for name in (*self.context, *self.items) if name != TASK_VARIABLE]
        for name in self.sentinels:
            if name not in variables:
                raise ConfigError.unknown("variable with a sentinel", name, variables)
        for name in variables:
            lacking = self.lacking([name])
            if lacking and name not in self.sentinels:
                raise ConfigError.because(
                    f"variable '{name}' has no sentinel, and tasks lack it: {', '.join(lacking)}",
                    f"write a value that it never has: [sentinels] {name} = …",
                )

    def lacking(self, variables: Iterable[str]) -> tuple[str, ...]:
        """Return the tasks that lack any of some context or item variables."""
        required = frozenset(variables)
        return tuple(task.name for task in self.tasks if not self.has(task.name, required))

    def has(self, name: str, variables: Iterable[str]) -> bool:
        """Return whether a task has all of some context or item variables."""
        task = self.task(name)
        return {*variables} <= {TASK_VARIABLE, *task.context, *task.items}


def recorded_tasks(lineage: Mapping[str, Any]) -> TaskSet | None:
    """Return the tasks in the lineage of a feature set, with the features that they lack; None if it has one use."""
    return msgspec.convert(lineage.get("tasks"), TaskSet | None)

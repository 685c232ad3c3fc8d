"""The tasks on whose contexts two packages are compared, and what a loss of one of them means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.comparison.result import Comparison
from delorean.comparison.settings import ComparisonSettings
from delorean.packaging.package import ModelPackage
from delorean.tasks.task_set import TASK_VARIABLE
from schemas.errors import ComparisonError


@dataclass(frozen=True)
class ComparedTasks:
    """The tasks that both packages serve.

    names: None: neither package has tasks
    items: the variables of their items, None: those of both packages
    """

    names: tuple[str, ...] | None
    items: tuple[str, ...] | None = None

    @classmethod
    def of(cls, candidate: ModelPackage, production: ModelPackage, task: str | None) -> Self:
        """Return the tasks of two packages. Raises ComparisonError where they have none in common.

        task: the only one to compare, which must be named where one package has tasks and the other none
        """
        sides = [package.tasks for package in (candidate, production)]
        existing = [tasks for tasks in sides if tasks is not None]
        if not existing:
            if task is not None:
                raise ComparisonError.because("neither package has tasks", "compare without --task")
            return cls(None)
        names = tuple(name for name in existing[0].names if all(name in tasks.names for tasks in existing))
        if task is not None and task not in names:
            raise ComparisonError.unknown("task of the packages", task, names)
        if task is None and len(existing) == 1:
            raise ComparisonError.because(
                f"only one of the packages has tasks: {', '.join(existing[0].names)}",
                f"name the task of the other one: --task {existing[0].names[0]}",
            )
        if not names:
            raise ComparisonError.because(
                f"the packages have no task in common: {', '.join(sides[0].names if sides[0] else ())} and "
                f"{', '.join(sides[1].names if sides[1] else ())}",
                "compare packages that serve the same tasks",
            )
        return cls(names if task is None else (task,), None if task is None else existing[0].task(task).items)

    def settings(self, settings: ComparisonSettings) -> ComparisonSettings:
        """Return settings by which several tasks are compared one by one too."""
        if self.names is None or len(self.names) == 1:
            return settings
        by = tuple(dict.fromkeys((TASK_VARIABLE, *settings.evaluation.by)))
        return replace(settings, evaluation=replace(settings.evaluation, by=by))

    def mask(self, contexts: pa.Table) -> NDArray[np.bool_]:
        """Return which contexts are of these tasks. Raises ComparisonError for data that names no tasks."""
        if self.names is None:
            return np.ones(len(contexts), np.bool_)
        if TASK_VARIABLE not in contexts.schema.names:
            raise ComparisonError.because(
                f"the data has no column '{TASK_VARIABLE}'", "compare on the feature set of the package of tasks"
            )
        inside = pc.is_in(contexts[TASK_VARIABLE].cast(pa.string()), pa.array(self.names))
        mask: NDArray[np.bool_] = inside.to_numpy(zero_copy_only=False)
        return mask


def with_new_features(
    comparison: Comparison, candidate: ModelPackage, production: ModelPackage, margin: float
) -> Comparison:
    """Add which tasks may lose although they can have none of the features that the candidate adds.

    margin: the loss that is tolerated
    """
    tasks = candidate.tasks
    added = [name for name in candidate.features if name not in production.features]
    if tasks is None or not added:
        return comparison

    def reasons() -> Iterator[str]:
        for group in comparison.groups:
            low, high = group.simultaneous.low, group.simultaneous.high
            if group.by != TASK_VARIABLE or group.group not in tasks.names or low is None or high is None:
                continue
            if low < -margin and {*added} <= {*tasks.task(group.group).without}:
                loses = "loses" if high < 0 else "may lose"
                yield (
                    f"Task '{group.group}' {loses} [{low:+.4f}, {high:+.4f}], although the features that the candidate "
                    f"adds ({', '.join(added)}) are off there: they are paid for by trees that it shares."
                )

    return replace(comparison, reasons=(*comparison.reasons, *reasons()))

"""Sets the features that tasks cannot have to their declared defaults: the only code that does, offline and online."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.tasks.task_set import TASK_VARIABLE, TaskSet
from schemas.errors import DataKeyError


def task_numbers(contexts: pa.Table | pa.RecordBatch, tasks: TaskSet) -> NDArray[np.int64]:
    """Return each context's task as its position in the task set.

    contexts: with the variable `task_type`

    Raises DataKeyError where the variable is missing, or is no task's name.
    """
    if TASK_VARIABLE not in contexts.schema.names:
        raise DataKeyError.unknown("context variable that names the task", TASK_VARIABLE, contexts.schema.names)
    names = contexts[TASK_VARIABLE].cast(pa.string())
    found = pc.fill_null(pc.index_in(names, pa.array(tasks.names, pa.string())), -1)
    numbers: NDArray[np.int64] = np.asarray(found).astype(np.int64)
    if (numbers < 0).any():
        raise DataKeyError.unknown("task", str(names[int(np.argmax(numbers < 0))].as_py()), tasks.names)
    return numbers


def with_defaults(
    features: Mapping[str, NDArray[np.float32]], task_of_items: NDArray[np.int64], tasks: TaskSet
) -> dict[str, NDArray[np.float32]]:
    """Return features with the values of tasks that cannot have them replaced: by the declared default, else by NaN.

    features: name → (items,) or (items, width) float32; arrays that change are copied
    task_of_items: (items,) the position of each item's task in the task set, see `task_numbers`

    >>> from delorean.tasks.task_set import Task
    >>> tasks = TaskSet((Task("home", ("profile_id",), ("video_id",)),
    ...                  Task("similar", ("seed_id",), ("video_id",), without=("listed", "minutes"))),
    ...                 defaults={"listed": 0.0})
    >>> values = {"listed": np.ones(2, np.float32), "minutes": np.ones(2, np.float32)}
    >>> {name: each.tolist() for name, each in with_defaults(values, np.array([0, 1]), tasks).items()}
    {'listed': [1.0, 0.0], 'minutes': [1.0, nan]}
    """
    masks = [task_of_items == number for number in range(len(tasks.tasks))]
    replaced = dict(features)
    for name, values in features.items():
        lacking = [mask for mask, task in zip(masks, tasks.tasks, strict=True) if name in task.without]
        if any(mask.any() for mask in lacking):
            default = np.float32(tasks.defaults.get(name, np.nan))
            mask = np.logical_or.reduce(lacking)
            replaced[name] = np.where(mask if values.ndim == 1 else mask[:, None], default, values)
    return replaced

"""Which rows of several tasks a service applies to: those whose task has all variables of the service's key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.tasks.impossible_features import task_numbers
from delorean.tasks.task_set import TaskSet


def lacking_rows(contexts: pa.Table, variables: Sequence[str], tasks: TaskSet | None) -> NDArray[np.bool_]:
    """Return a mask of the contexts whose task lacks any of some variables. tasks: None: no context does."""
    lacking = () if tasks is None else tasks.lacking(variables)
    if tasks is None or not lacking:
        return np.zeros(contexts.num_rows, dtype=bool)
    return np.isin(task_numbers(contexts, tasks), [tasks.number(name) for name in lacking])


def without_sentinels(rows: pa.Table, variables: Sequence[str], tasks: TaskSet | None) -> pa.Table:
    """Return rows in which a key is null where the row's task lacks any of its variables, so that it matches nothing.

    A capture under a sentinel, which somebody else may have made, then never serves such a row.

    variables: of the key
    """
    lacking = lacking_rows(rows, variables, tasks)
    if not lacking.any():
        return rows
    present = pa.array(~lacking)
    for name in variables:
        nulled = pc.if_else(present, rows[name], pa.scalar(None, rows[name].type))
        rows = rows.set_column(rows.schema.get_field_index(name), name, nulled)
    return rows

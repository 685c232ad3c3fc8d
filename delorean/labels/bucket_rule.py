"""Which bucket a label row belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.tasks.task_set import TASK_VARIABLE, TaskSet
from schemas.data_keys import DataKey
from schemas.hashing import bucket_of


@dataclass(frozen=True)
class BucketRule:
    """Rows are bucketed by a context variable, by which snapshots may be bucketed too.

    Rows of a task that lacks the variable all have its sentinel, and no capture under that variable serves them. They
    are bucketed by a variable of their own, so that they do not fill one bucket.

    variable: the context variable
    substitutes: task that lacks it → its own variable
    """

    variable: str
    substitutes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_tasks(cls, variable: str, context: Sequence[DataKey], tasks: TaskSet | None) -> BucketRule:
        """Return the rule for label data of tasks, or of one use (None). context: the unified context."""
        substitutes = {}
        bucketable = {key.name for key in context if is_bucketable(key.type)}
        for task in () if tasks is None else tasks.tasks:
            own = [name for name in task.context if name in bucketable]
            if variable not in task.context and own:
                substitutes[task.name] = own[0]
        return cls(variable, substitutes)

    def buckets(self, rows: pa.Table | pa.RecordBatch, buckets: int) -> NDArray[np.int32]:
        """Return the bucket of each row. buckets: their number, a power of two."""
        numbers = bucket_of(rows[self.variable], buckets)
        for task, variable in self.substitutes.items():
            own = pc.equal(rows[TASK_VARIABLE], task).to_numpy(zero_copy_only=False)
            if own.any():
                numbers[own] = bucket_of(rows[variable].filter(pa.array(own)), buckets)
        return numbers


def is_bucketable(type: pa.DataType) -> bool:  # noqa: A002  # the field's own name
    """Whether rows can be bucketed by a variable of a type."""
    return bool(pa.types.is_integer(type) or pa.types.is_string(type))

"""The shape of a request's JSON for the variables of a model, or of one of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels.task_layout import sentinel_of
from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet
from prana_proxy.gateway.decoded_values import python_type, to_arrow
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, LabelError
from schemas.nulls import may_be_null
from schemas.tables import TIME

MOST_CANDIDATES = 1_000
LONGEST_REQUEST_ID = 128  # characters


@dataclass(frozen=True)
class RequestShape:
    """What a request of one task has, or any request of a model without tasks.

    context, items: the model's variables, in its order
    task: None for a model without tasks
    fillers: variable that the task lacks → its sentinel, and `task_type` → the task's name
    sentinels: variable that the task has, and others lack → what stands for it there
    """

    context: tuple[DataKey, ...]
    items: tuple[DataKey, ...]
    task: Task | None = None
    fillers: Mapping[str, pa.Scalar] = field(default_factory=dict)
    sentinels: Mapping[str, pa.Scalar] = field(default_factory=dict)

    @cached_property
    def own_items(self) -> list[DataKey]:
        """The item variables that a request names."""
        return [key for key in self.items if key.name not in self.fillers]

    @cached_property
    def lacking(self) -> frozenset[str]:
        """The context variables that the task lacks."""
        return frozenset(key.name for key in self.context if key.name in self.fillers) - {TASK_VARIABLE}

    @cached_property
    def item(self) -> Any:
        """The type of a candidate that is written as an object."""
        return _struct("Item", self.own_items)

    @cached_property
    def body(self) -> Any:
        """The type of a request; those of several tasks make a union, told apart by `task`."""
        own = [key for key in self.context if key.name not in self.fillers]
        candidate = self.item if len(self.own_items) > 1 else _nullable(self.own_items[0]) | self.item
        task = None if self.task is None else self.task.name
        return msgspec.defstruct(
            "Body",
            [
                ("context", _struct("Context", own)),
                ("candidates", Annotated[list[candidate], msgspec.Meta(min_length=1, max_length=MOST_CANDIDATES)]),  # type: ignore[valid-type]  # built at run time
                ("time", python_type(TIME) | None, None),
                ("k", Annotated[int, msgspec.Meta(ge=1)] | None, None),
                ("explain", bool, False),
                ("request_id", Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_REQUEST_ID)] | None, None),
            ],
            forbid_unknown_fields=True,
            tag_field=None if task is None else "task",
            tag=task,
        )

    def context_table(self, context: Any) -> pa.Table:
        """Return a request's context as a row of all of the model's context variables."""
        return self._table(self.context, [context])

    def item_table(self, candidates: Sequence[Any]) -> pa.Table:
        """Return a request's candidates as rows of all of the model's item variables."""
        item = self.item
        return self._table(self.items, [each if isinstance(each, item) else item(each) for each in candidates])

    def _table(self, keys: Sequence[DataKey], rows: Sequence[Any]) -> pa.Table:
        columns, own = [], 0
        for key in keys:
            if key.name in self.fillers:
                columns.append(pa.repeat(self.fillers[key.name], len(rows)))
                continue
            column = to_arrow(list(map(attrgetter(f"f{own}"), rows)), key.type)
            if key.name in self.sentinels:
                _refuse_sentinel(key.name, self.sentinels[key.name], column)
            columns.append(column)
            own += 1
        return pa.Table.from_arrays(columns, names=[key.name for key in keys])


def request_shapes(
    context: Sequence[DataKey], items: Sequence[DataKey], tasks: TaskSet | None
) -> dict[str | None, RequestShape]:
    """Return the shapes of a model's requests by task; a model without tasks has one shape, of the task None.

    Raises ConfigError for a variable that a task lacks and that has no sentinel, or one of another type.
    """
    if tasks is None:
        return {None: RequestShape(tuple(context), tuple(items))}
    types = {key.name: key.type for key in (*context, *items)}
    try:
        sentinels = {n: sentinel_of(n, value, types[n]) for n, value in tasks.sentinels.items() if n in types}
    except LabelError as error:
        raise ConfigError(f"the package's tasks: {error}") from error
    shapes: dict[str | None, RequestShape] = {}
    for task in tasks.tasks:
        own = {*task.context, *task.items}
        fillers = {TASK_VARIABLE: pa.scalar(task.name, types[TASK_VARIABLE])}
        for name in types.keys() - own - {TASK_VARIABLE}:
            if name not in sentinels:
                raise ConfigError.because(
                    f"task '{task.name}' lacks '{name}', which has no sentinel", "package the model again"
                )
            fillers[name] = sentinels[name]
        refused = {name: value for name, value in sentinels.items() if name in own}
        shapes[task.name] = RequestShape(tuple(context), tuple(items), task, fillers, refused)
    return shapes


def _refuse_sentinel(name: str, sentinel: pa.Scalar, values: pa.Array) -> None:
    if pc.any(pc.equal(values, sentinel)).as_py():
        raise DataKeyError.because(
            f"'{name}' is {sentinel.as_py()!r}, which stands for it in the requests of tasks that lack it",
            "send its real value, or the task that the request is of",
        )


def _struct(name: str, keys: Sequence[DataKey]) -> Any:
    """Build the type of a group of variables; fields are numbered because a name may be a Python keyword."""
    fields = [(f"f{i}", _nullable(key)) for i, key in enumerate(keys)]
    names = {f"f{i}": key.name for i, key in enumerate(keys)}
    return msgspec.defstruct(name, fields, rename=names, forbid_unknown_fields=True)


def _nullable(key: DataKey) -> Any:
    expected = python_type(key.type)
    return expected | None if may_be_null(key.type) else expected

"""The columns of several tasks' label data when it is merged: their union, with sentinels for what a task lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import OUTCOME_COLUMN, TIME_COLUMN, WEIGHT_COLUMN, KeptColumn, LabelColumns, Labels, LabelShape
from delorean.labels.bucket_rule import BucketRule, is_bucketable
from delorean.labels.grouping import LabelGrouper
from delorean.labels.layout import LabelLayout
from delorean.labels.row_sources import LabelRows
from delorean.labels.task_sample import INCLUSION_COLUMN, LabelSample
from delorean.tasks.task_set import TASK_VARIABLE, Sentinel, Task, TaskSet
from encoders.columns import one_array
from schemas.data_keys import DataKey, Kind
from schemas.errors import DataKeyError, DeloreanError, LabelError
from schemas.evolution import adapt
from schemas.nested_types import is_list


@dataclass(frozen=True)
class TaskRows:
    """The label rows of one task, before the merge.

    rows: as `materialise_labels` takes them
    columns: their roles; the context variables are named
    sample: of the task's contexts; None: all
    """

    task: str
    rows: Any
    columns: LabelColumns
    sample: LabelSample | None = None


@dataclass(frozen=True)
class TaskCaster:
    """Casts the label rows of one task to the columns of all tasks. It is sent to Spark's tasks.

    grouper: of the task's own columns
    schema: of the merged rows
    fillers: column that the task lacks → its value
    sentinels: variable that the task has → the value that it must never have
    """

    task: str
    grouper: LabelGrouper
    schema: pa.Schema
    fillers: Mapping[str, pa.Scalar]
    sentinels: Mapping[str, pa.Scalar]

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Cast rows. Raises what `LabelGrouper.cast` raises, and LabelError for a sentinel that is a real value."""
        try:
            own = self.grouper.cast(rows)
        except DeloreanError as error:
            raise type(error)(f"task '{self.task}': {error}") from error
        for name, sentinel in self.sentinels.items():
            self._refuse(name, sentinel, own[name])
        return pa.table([self._column(own, field) for field in self.schema], schema=self.schema)

    def _refuse(self, name: str, sentinel: pa.Scalar, column: pa.ChunkedArray) -> None:
        values = pc.list_flatten(column) if is_list(column.type) else column
        real = pc.sum(pc.equal(values, sentinel)).as_py() or 0
        if real:
            raise LabelError.because(
                f"task '{self.task}': '{name}' is {sentinel.as_py()!r} in {real} label rows, which is the sentinel of "
                "tasks that lack it",
                f"declare a value that '{name}' never has, or leave those rows out",
            )

    def _column(self, own: pa.Table, field: pa.Field) -> pa.Array:
        if field.name in own.column_names:
            stored = one_array(own[field.name])
            return adapt(stored.type, field.type, name=field.name)(stored)
        filler = self.fillers[field.name]
        if not is_list(field.type):
            return pa.repeat(filler, own.num_rows)
        items = one_array(own[self.grouper.items[0]])
        offsets = pc.subtract(items.offsets, items.offsets[0]) if len(items) else items.offsets
        return pa.ListArray.from_arrays(offsets, pa.repeat(filler, len(items.flatten())))


class TaskLayout:
    """The columns and types of merged label data. Raises for tasks that cannot be merged.

    layouts: of each task's own label data
    shape: of the merged label data
    """

    def __init__(self, sources: Sequence[tuple[TaskRows, LabelRows]], sentinels: Mapping[str, Sentinel]) -> None:
        self.layouts = [_layout_of(task, rows) for task, rows in sources]
        self._names = [task.task for task, _ in sources]
        shapes = [layout.shape for layout in self.layouts]
        sampled = any(task.sample is not None for task, _ in sources)
        kept = self._merged([[(each.name, each.type) for each in shape.kept] for shape in shapes])
        if sampled:
            kept[INCLUSION_COLUMN] = self._probability(kept.get(INCLUSION_COLUMN, pa.float64()))
        context = self._merged([[(key.name, key.type) for key in shape.context] for shape in shapes])
        items = self._merged([[(key.name, key.type) for key in shape.items] for shape in shapes])
        self.shape = LabelShape(
            tuple(DataKey(name, Kind.CONTEXT, kind) for name, kind in {**context, TASK_VARIABLE: pa.string()}.items()),
            tuple(DataKey(name, Kind.ITEM, kind) for name, kind in items.items()),
            tuple(dict.fromkeys(label for shape in shapes for label in shape.labels)),
            any(shape.weighted for shape in shapes),
            tuple(KeptColumn(name, kind) for name, kind in kept.items()),
        )
        own = (
            Task(name, tuple(key.name for key in shape.context), tuple(key.name for key in shape.items))
            for name, shape in zip(self._names, shapes, strict=True)
        )
        self.tasks = TaskSet(tuple(own), dict(sentinels))
        self.tasks.check_sentinels()
        self._sentinels = {
            name: sentinel_of(name, value, {**context, **items}[name]) for name, value in sentinels.items()
        }
        self.grouped = self._grouped()
        self.grouper = LabelGrouper(self.shape, grouped=self.grouped)

    def caster(self, position: int) -> TaskCaster:
        """Return what casts the rows of one task."""
        task, layout = self._names[position], self.layouts[position]
        own = layout.grouper.row_schema.names
        values = {
            name: pa.scalar(1.0 if name in (WEIGHT_COLUMN, INCLUSION_COLUMN) else None, kind)
            for name, kind in self._plain_types()
        }
        values |= {name: pa.scalar(np.nan, pa.float32()) for name in self.shape.labels}
        values |= {**self._sentinels, TASK_VARIABLE: pa.scalar(task)}
        fillers = {name: value for name, value in values.items() if name not in own}
        # A sentinel that the task's own type cannot hold is none of its values.
        held = {name: self._sentinels[name] for name in self._sentinels if name in own}
        own_types = {name: layout.grouper.row_schema.field(name).type for name in held}
        sentinels = {name: cast for name, value in held.items() if (cast := _cast(value, own_types[name])) is not None}
        return TaskCaster(task, layout.grouper, self.grouper.row_schema, fillers, sentinels)

    def bucket_rule(self, requested: str | None) -> BucketRule:
        """Return how rows are bucketed: by the variable that the most tasks have, unless one is requested.

        Raises LabelError for an unknown variable, and if none is suitable.
        """
        types = {key.name: key.type for key in self.shape.context if key.name != TASK_VARIABLE}
        if requested is not None and requested not in types:
            raise LabelError.unknown("bucket variable among the context variables", requested, types)
        suitable = [name for name, kind in types.items() if is_bucketable(kind)]
        if requested is None and not suitable:
            raise LabelError.because(
                "no context variable is an integer or a text, so none can be bucketed by", "cast one in a query"
            )
        variable = requested or min(suitable, key=lambda name: len(self.tasks.lacking([name])))
        return BucketRule.of_tasks(variable, self.shape.context, self.tasks)

    def labels(self, **measured: Any) -> Labels:
        """Return the record of label data. measured: the fields that the schema does not determine."""
        return Labels(
            context=self.shape.context,
            items=self.shape.items,
            label_names=self.shape.labels,
            weighted=self.shape.weighted,
            kept=self.shape.kept,
            outcome_columns=tuple(sorted(set().union(*(layout.never_data for layout in self.layouts)))),
            tasks=self.tasks,
            **measured,
        )

    def _plain_types(self) -> Iterator[tuple[str, pa.DataType]]:
        for field in self.grouper.row_schema:
            if field.name not in (TIME_COLUMN, OUTCOME_COLUMN):
                yield field.name, field.type.value_type if is_list(field.type) else field.type

    def _merged(self, columns: Sequence[Sequence[tuple[str, pa.DataType]]]) -> dict[str, pa.DataType]:
        """Return name → the widest of its types. Raises LabelError that names two tasks of types that do not fit."""
        merged: dict[str, tuple[pa.DataType, str]] = {}
        for task, own in zip(self._names, columns, strict=True):
            for name, kind in own:
                before, other = merged.setdefault(name, (kind, task))
                wider = _wider(before, kind)
                if wider is None:
                    raise LabelError.because(
                        f"'{name}' is {before} in task '{other}' and {kind} in task '{task}', and neither holds all "
                        "values of the other",
                        f"cast it in one of the queries: CAST({name} AS …)",
                    )
                merged[name] = (wider, other if wider == before else task)
        return {name: kind for name, (kind, _) in merged.items()}

    def _probability(self, type: pa.DataType) -> pa.DataType:  # noqa: A002  # the field's own name
        """Return the type of inclusion probabilities. Raises LabelError if the tasks' own ones are no floats."""
        if not pa.types.is_floating(type):
            raise LabelError.because(
                f"column '{INCLUSION_COLUMN}' of the label data is {type}, and a task's sample multiplies it",
                f"cast it in the query: CAST({INCLUSION_COLUMN} AS DOUBLE)",
            )
        return pa.float64()

    def _grouped(self) -> bool:
        grouped = [layout.grouped for layout in self.layouts]
        if len({*grouped}) > 1:
            lists = [name for name, each in zip(self._names, grouped, strict=True) if each]
            raise LabelError.because(
                f"the labels of tasks {', '.join(lists)} are lists, those of the others are not",
                "make all lists or none",
            )
        return grouped[0]


def sentinel_of(name: str, value: Sentinel, type: pa.DataType) -> pa.Scalar:  # noqa: A002
    """Return a sentinel as a value of its variable's type. Raises LabelError if it is none.

    >>> sentinel_of("profile_id", -1, pa.int32())
    <pyarrow.Int32Scalar: -1>
    """
    of = pa.types
    kinds = {bool: of.is_boolean(type), int: of.is_integer(type) or of.is_floating(type) or of.is_decimal(type)}
    kinds |= {float: of.is_floating(type), str: of.is_string(type) or of.is_timestamp(type) or of.is_date(type)}
    found = None
    if kinds[value.__class__] and value == value:  # NaN equals nothing, so it would be no key
        found = _cast(pa.scalar(Decimal(value) if of.is_decimal(type) else value), type)
    if found is None:
        raise LabelError.because(
            f"the sentinel of '{name}' is {value!r}, and the variable is {type}",
            f"write a value of that type which '{name}' never has",
        )
    return found


def _cast(value: pa.Scalar, type: pa.DataType) -> pa.Scalar | None:  # noqa: A002
    try:
        return value.cast(type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    for stored, wanted in ((one, other), (other, one)):
        try:
            adapt(stored, wanted)
        except DataKeyError:
            continue
        return wanted
    return None


def _layout_of(task: TaskRows, rows: LabelRows) -> LabelLayout:
    try:
        return LabelLayout(rows, task.columns)
    except DeloreanError as error:
        raise type(error)(f"task '{task.task}': {error}") from error

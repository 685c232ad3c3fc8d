"""The roles of label data's columns in its source, and the columns that it has at rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, get_args

import pyarrow as pa

from delorean.labels.column_types import TimeUnit
from schemas.data_keys import DataKey
from schemas.errors import LabelError, ParadoxError
from schemas.tables import TIME
from schemas.type_records import type_from_json, type_to_json
from snapshotter.records import JsonRecord

TIME_COLUMN = "time"
LABEL_COLUMN = "label"
OUTCOME_COLUMN = "outcome_at"
WEIGHT_COLUMN = "weight"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class LabelColumns:
    """The roles of label data's columns.

    items: the variables that identify an item; in grouped data they, the labels and the weight are lists
    context: the variables that identify a context; None: all columns without another role
    outcome_at: when the outcome was observed; it must be later than the time. Without labels there is none
    time_unit: of integers in these two columns: "s", "ms", "us", "ns" or "day" since 1970, in UTC; with "day" dates
        are accepted too, as their beginning in UTC. None: integers and dates are refused
    label: the only label, which is named `label` at rest
    labels: several labels, which keep their names, or an empty tuple: no label. None: `label`
    weight: each item's weight in training and metrics, named `weight` at rest
    keep: columns that are carried along, such as inclusion_probability: one plain value, or null, for each context and
        time. They are neither data nor features

    >>> LabelColumns(items=("video_id",), labels=("play", "minutes")).label_names
    {'play': 'play', 'minutes': 'minutes'}
    """

    items: tuple[str, ...]
    context: tuple[str, ...] | None = None
    time: str = TIME_COLUMN
    label: str = LABEL_COLUMN
    outcome_at: str = OUTCOME_COLUMN
    time_unit: TimeUnit | None = None
    labels: tuple[str, ...] | None = None
    weight: str | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject a bare string, which would be read as one name per letter, and an unknown unit."""
        if self.time_unit is not None and self.time_unit not in get_args(TimeUnit):
            raise LabelError.unknown("time_unit", str(self.time_unit), get_args(TimeUnit))
        for what in ("items", "context", "labels", "keep"):
            names = getattr(self, what)
            if isinstance(names, str):
                raise LabelError.mistaken(what, names, "names of columns", f'write {what}=("{names}",)')

    @property
    def label_names(self) -> dict[str, str]:
        """Name at rest of each label → name in the source."""
        return {LABEL_COLUMN: self.label} if self.labels is None else {name: name for name in self.labels}

    @property
    def own_names(self) -> dict[str, str]:
        """Name at rest → name in the source, of all columns except variables and those that are carried along."""
        outcome = {OUTCOME_COLUMN: self.outcome_at} if self.label_names else {}
        weight = {} if self.weight is None else {WEIGHT_COLUMN: self.weight}
        return {TIME_COLUMN: self.time, **outcome, **self.label_names, **weight}

    def check(self) -> None:
        """Raise LabelError or ParadoxError for roles that are wrong for any label data."""
        if self.labels is not None and self.label != LABEL_COLUMN:
            raise LabelError.because(
                f"label data names both label = '{self.label}' and labels", "leave one of them out"
            )
        at_rest = [name.casefold() for name in (TIME_COLUMN, OUTCOME_COLUMN, WEIGHT_COLUMN, *(self.labels or ()))]
        taken = sorted({name for name in self.labels or () if at_rest.count(name.casefold()) > 1})
        if taken:
            raise LabelError.because(
                f"label '{taken[0]}' has a name that the rows have already", "give it another name: SELECT … AS …"
            )
        if not self.items:
            raise LabelError.because(
                "label data names no items", 'name the columns that identify one: items=("video_id",)'
            )
        if self.context == ():
            raise _no_context()
        own = self.own_names
        used = [*(self.context or ()), *self.items, *own.values(), *self.keep]
        repeated = sorted({name for name in used if used.count(name) > 1})
        outcomes = (*self.label_names.values(), *([self.outcome_at] if self.label_names else []))
        leaks = [name for name in repeated if name in outcomes and name in (*(self.context or ()), *self.items)]
        if leaks:
            raise ParadoxError.because(
                f"label column '{leaks[0]}' is also a context or item variable",
                "no feature may know its label: leave it out of items and context",
            )
        if repeated:
            raise LabelError.because(
                f"label data uses {', '.join(repeated)} in two roles", "use a column for each role"
            )

    def resolve(self, names: Sequence[str]) -> LabelColumns:
        """Return the roles with the context named, if every column exists exactly once. Raises LabelError.

        Index columns that pandas adds to a file, `__index_level_0__`, become context variables only if they are named.
        """
        self.check()
        plain = (*self.own_names.values(), *self.keep)
        context = self.context
        if context is None:
            others = (name for name in names if name not in (*self.items, *plain))
            context = tuple(name for name in others if not _PANDAS_INDEX.fullmatch(name))
        if not context:
            raise _no_context()
        for name in (*context, *self.items, *plain):
            if name not in names:
                raise LabelError.unknown("column of the label data", name, names)
        _refuse_alike(list(names), (*context, *self.items, *plain))
        reserved = {TIME_COLUMN, LABEL_COLUMN, OUTCOME_COLUMN, *(name.casefold() for name in self.own_names)}
        for name in (*context, *self.items, *self.keep):
            if name.casefold() in reserved:
                raise LabelError.because(
                    f"column '{name}' of the label data would clash with the rows' own {name.casefold()}",
                    f"leave it out of the query, SELECT * EXCEPT ({name}), or give it another name",
                )
        return replace(self, context=context)


@dataclass(frozen=True)
class KeptColumn(JsonRecord):
    """A column of label data that is carried along, and its type."""

    name: str
    type: pa.DataType

    def to_json(self) -> dict[str, Any]:
        """Write the column as text fields."""
        return {"name": self.name, **type_to_json(self.type)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read fields that `to_json` wrote."""
        return cls(fields["name"], type_from_json(fields))


@dataclass(frozen=True)
class LabelShape:
    """The columns of label data at rest: one row for each context and time, items and labels as aligned lists.

    labels: names of the labels' columns, list<float32>
    weighted: whether there is a column `weight`, list<float32>
    kept: columns that are carried along
    """

    context: tuple[DataKey, ...]
    items: tuple[DataKey, ...]
    labels: tuple[str, ...] = (LABEL_COLUMN,)
    weighted: bool = False
    kept: tuple[KeptColumn, ...] = ()

    @property
    def of_items(self) -> tuple[str, ...]:
        """The columns of lists, apart from the items' own."""
        return (*self.labels, WEIGHT_COLUMN) if self.weighted else self.labels

    @property
    def schema(self) -> pa.Schema:
        """Their schema. `outcome_at` is when the last of the row's outcomes was observed: then its labels are known."""
        return pa.schema(
            [
                *((key.name, key.type) for key in self.context),
                (TIME_COLUMN, TIME),
                *([(OUTCOME_COLUMN, TIME)] if self.labels else []),
                *((key.name, pa.list_(key.type)) for key in self.items),
                *((name, pa.list_(pa.float32())) for name in self.of_items),
                *((column.name, column.type) for column in self.kept),
            ]
        )


def _no_context() -> LabelError:
    return LabelError.because("label data has no context variables", "add at least one column beside the items")


def _refuse_alike(names: Sequence[str], used: Sequence[str]) -> None:
    """Raise LabelError for columns whose names others share, by spelling or apart from upper and lower case."""
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(name.casefold(), []).append(name)
    for name in used:
        alike = spelled[name.casefold()]
        if len(alike) > 1:
            raise LabelError.because(
                f"label data has several columns named {' and '.join(repr(each) for each in alike)}, "
                "which Spark and Delta tables take for one",
                "leave all but one out of the query, or give them other names: SELECT … AS …",
            )

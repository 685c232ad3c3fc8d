"""The columns and types of label data at rest, for the schema of its source."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from delorean.labels import (
    LABEL_COLUMN,
    OUTCOME_COLUMN,
    TIME_COLUMN,
    WEIGHT_COLUMN,
    KeptColumn,
    LabelColumns,
    Labels,
    LabelShape,
)
from delorean.labels.bucket_rule import is_bucketable
from delorean.labels.column_types import check_label, check_time, unencoded, variable_type
from delorean.labels.grouping import LabelGrouper
from delorean.labels.row_sources import LabelRows
from schemas.data_keys import DataKey, Kind
from schemas.errors import LabelError
from schemas.nested_types import is_list


class LabelLayout:
    """The columns and types of label data at rest, from the rows' schema. Raises for schemas that cannot be right.

    names: name at rest → name in the source
    """

    def __init__(self, rows: LabelRows, columns: LabelColumns) -> None:
        resolved = columns.resolve(rows.names)
        self.rows = rows
        own = resolved.own_names
        variables = (*(resolved.context or ()), *resolved.items)
        self.names = {**{name: name for name in (*variables, *resolved.keep)}, **own}
        types = rows.types(list(self.names.values()))
        per_item = [own[name] for name in (*resolved.label_names, WEIGHT_COLUMN) if name in own]
        for name in per_item:
            check_label(name, types[name])
        self.grouped = is_list(types[(per_item or resolved.items)[0]])
        for name in per_item:
            if is_list(types[name]) != self.grouped:
                raise self._mixed(name, types[name])
        for name in (TIME_COLUMN, OUTCOME_COLUMN):
            if name in own:
                check_time(own[name], types[own[name]], resolved.time_unit)
        for name in resolved.label_names:
            variable_type(name, pa.float32())  # raises for a name that no column may have
        self.shape = LabelShape(
            tuple(DataKey(name, Kind.CONTEXT, variable_type(name, types[name])) for name in resolved.context or ()),
            tuple(
                DataKey(name, Kind.ITEM, variable_type(name, self._item_type(name, types[name])))
                for name in resolved.items
            ),
            tuple(resolved.label_names),
            resolved.weight is not None,
            tuple(KeptColumn(name, variable_type(name, types[name])) for name in resolved.keep),
        )
        self.context = self.shape.context
        self.grouper = LabelGrouper(self.shape, grouped=self.grouped, names=self.names, time_unit=resolved.time_unit)

    def _item_type(self, name: str, type: pa.DataType) -> pa.DataType:  # noqa: A002
        if not self.grouped:
            return type
        if not is_list(type):
            raise self._mixed(name, type)
        return unencoded(type).value_type

    def _mixed(self, name: str, type: pa.DataType) -> LabelError:  # noqa: A002
        others = "lists" if self.grouped else "not lists"
        return LabelError.because(f"labels are {others}, but column '{name}' is {type}", "make all lists or none")

    def bucket_variable(self, requested: str | None) -> str:
        """Return the variable to bucket by. Raises LabelError for an unknown one, and if none is suitable."""
        types = {key.name: key.type for key in self.context}
        if requested is not None:
            if requested not in types:
                raise LabelError.unknown("bucket variable among the context variables", requested, types)
            return requested
        for name, type in types.items():  # noqa: A001  # the field's own name
            if is_bucketable(type):
                return name
        raise LabelError.because(
            "no context variable is an integer or a text, so none can be bucketed by", "cast one in the query"
        )

    @property
    def never_data(self) -> set[str]:
        """The columns that no feature may read, by their names at rest and in the source."""
        names = {LABEL_COLUMN, OUTCOME_COLUMN}
        for name in (OUTCOME_COLUMN, *self.shape.of_items, *(column.name for column in self.shape.kept)):
            names |= {name, self.names.get(name, name)}
        return names

    def labels(self, **measured: Any) -> Labels:
        """Return the record of label data. measured: the fields that the schema does not determine."""
        shape = self.shape
        return Labels(
            context=shape.context,
            items=shape.items,
            label_names=shape.labels,
            weighted=shape.weighted,
            kept=shape.kept,
            outcome_columns=tuple(sorted(self.never_data)),
            **measured,
        )

"""Groups one bucket's label rows into one row for each context and time, in Arrow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.labels import OUTCOME_COLUMN, TIME_COLUMN, WEIGHT_COLUMN, LabelShape
from delorean.labels.casting import Caster
from delorean.labels.column_types import TimeUnit
from schemas.errors import LabelError, ParadoxError


class LabelGrouper:
    """Groups label rows, one for each item or already grouped, into label data at rest, and raises for wrong rows.

    shape: of the result; the rows' columns have the same names
    grouped: whether the rows already hold lists of items
    names: of the columns in the source, where they differ
    time_unit: see `LabelColumns`
    """

    def __init__(
        self,
        shape: LabelShape,
        *,
        grouped: bool,
        names: Mapping[str, str] | None = None,
        time_unit: TimeUnit | None = None,
    ) -> None:
        self.context = [key.name for key in shape.context]
        self.items = [key.name for key in shape.items]
        self.lists = [*self.items, *shape.of_items]
        self.kept = [column.name for column in shape.kept]
        self.labels = shape.labels
        self.grouped = grouped
        self.names, self.time_unit = names or {}, time_unit
        self.schema = shape.schema
        self.row_schema = self.schema if grouped else _long_schema(self.schema, self.lists)

    @property
    def key(self) -> list[str]:
        """The columns that identify a row at rest, by which rows are sorted."""
        return [*self.context, TIME_COLUMN]

    def cast_and_group(self, rows: pa.Table) -> pa.Table:
        """Return one bucket's label rows at rest, sorted by context and time. rows: in any order."""
        return self.group(self.cast(rows))

    def group(self, rows: pa.Table) -> pa.Table:
        """Group one bucket's rows that `cast` returned."""
        order = [*self.context, TIME_COLUMN, *([] if self.grouped else self.items)]
        rows = rows.sort_by([(name, "ascending") for name in order]).combine_chunks()
        starts = self._group_starts(rows)
        if self.grouped:
            self._check_grouped(rows, starts)
        else:
            rows = self._group(rows, starts)
        return rows.cast(self.schema).combine_chunks()

    def cast(self, rows: pa.Table) -> pa.Table:
        """Cast rows to the types at rest. Raises LabelError and ParadoxError for rows that are wrong by themselves."""
        rows = rows.select(self.row_schema.names)
        caster = Caster(rows, self.names, self.time_unit)
        columns = [
            caster.time(field.name)
            if field.name in (TIME_COLUMN, OUTCOME_COLUMN)
            else caster.value(field.name, field.type)
            for field in self.row_schema
        ]
        rows = pa.table(columns, schema=self.row_schema).combine_chunks()
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            if name not in self.kept:
                self._refuse_nulls(name, column)
        if WEIGHT_COLUMN in self.lists:
            self._refuse_weights(rows[WEIGHT_COLUMN])
        if self.labels:
            late = pc.less_equal(rows[OUTCOME_COLUMN], rows[TIME_COLUMN])
            if pc.any(late).as_py():
                raise self._paradox(rows.filter(late))
        return rows

    def _refuse_weights(self, column: pa.ChunkedArray) -> None:
        weights = (pc.list_flatten(column) if self.grouped else column).to_numpy()
        wrong = weights[~((weights >= 0) & (weights < np.inf))]
        if len(wrong):
            raise LabelError.because(
                f"column '{self.names.get(WEIGHT_COLUMN, WEIGHT_COLUMN)}' of the label data: {len(wrong)} weights are "
                f"negative or not finite, such as {wrong[0]}",
                "leave those rows out, or correct their weights",
            )

    def _refuse_nulls(self, name: str, column: pa.ChunkedArray) -> None:
        values = [column, pc.list_flatten(column)] if pa.types.is_list(column.type) else [column]
        nulls = sum(array.null_count for array in values)
        if name not in self.labels and pa.types.is_floating(values[-1].type):
            nulls += pc.sum(pc.is_nan(values[-1])).as_py() or 0  # NaN equals nothing, so it cannot be a key
        if nulls:
            raise LabelError.because(
                f"label data has {nulls} nulls in column '{self.names.get(name, name)}'", "leave those rows out"
            )

    def _paradox(self, rows: pa.Table) -> ParadoxError:
        example = rows.select([*self.context, TIME_COLUMN, OUTCOME_COLUMN]).slice(0, 1).to_pylist()[0]
        return ParadoxError.because(
            f"{rows.num_rows} label rows have an outcome not later than their time, such as "
            + ", ".join(f"{name}={value}" for name, value in example.items()),
            "a label is known only after its time: check which column is outcome_at",
        )

    def _group_starts(self, rows: pa.Table) -> NDArray[np.int64]:
        changed = np.zeros(rows.num_rows, dtype=bool)
        changed[0] = True
        for name in [*self.context, TIME_COLUMN]:
            changed[1:] |= _differs(rows[name])
        return np.flatnonzero(changed)

    def _group(self, rows: pa.Table, starts: NDArray[np.int64]) -> pa.Table:
        self._refuse_duplicates(rows, starts)
        self._refuse_several_values(rows, starts)
        offsets = pa.array(np.append(starts, rows.num_rows), pa.int32())
        first = pa.array(starts)
        columns = {name: rows[name].take(first) for name in [*self.key, *self.kept]}
        if self.labels:
            outcomes = np.maximum.reduceat(rows[OUTCOME_COLUMN].cast(pa.int64()).to_numpy(), starts)
            columns[OUTCOME_COLUMN] = pa.array(outcomes).cast(self.schema.field(OUTCOME_COLUMN).type)
        for name in self.lists:
            columns[name] = pa.ListArray.from_arrays(offsets, rows[name].combine_chunks())
        return pa.table({name: columns[name] for name in self.schema.names})

    def _refuse_duplicates(self, rows: pa.Table, starts: NDArray[np.int64]) -> None:
        """Raise LabelError for items repeated in a context: rows are sorted by item, so these are neighbours."""
        same = np.ones(rows.num_rows, dtype=bool)
        same[starts] = False
        for name in self.items:
            same[1:] &= ~_differs(rows[name])
        if same.any():
            row = rows.select([*self.context, TIME_COLUMN, *self.items]).slice(int(np.flatnonzero(same)[0]), 1)
            raise LabelError.because(
                f"{int(same.sum())} label rows repeat an item of the same context and time, such as "
                + ", ".join(f"{name}={value}" for name, value in row.to_pylist()[0].items()),
                "a join that multiplies rows does this: keep one row, or add what distinguishes them to the items",
            )

    def _refuse_several_values(self, rows: pa.Table, starts: NDArray[np.int64]) -> None:
        """Raise LabelError for a column that is carried along with several values in one context and time."""
        for name in self.kept:
            differs = np.zeros(rows.num_rows, dtype=bool)
            differs[1:] = _differs_or_null(rows[name])
            differs[starts] = False
            if differs.any():
                row = rows.select([*self.key, name]).slice(int(np.flatnonzero(differs)[0]), 1)
                raise LabelError.because(
                    f"column '{name}' of the label data, which is carried along, has several values for one context "
                    "and time, such as " + ", ".join(f"{key}={value}" for key, value in row.to_pylist()[0].items()),
                    "it must be the same for all of their items: aggregate it in the query, or leave it out of keep",
                )

    def _check_grouped(self, rows: pa.Table, starts: NDArray[np.int64]) -> None:
        if len(starts) != rows.num_rows:
            raise LabelError.because(
                f"{rows.num_rows - len(starts)} grouped label rows repeat a context and time", "merge their items"
            )
        lengths = pc.list_value_length(rows[self.lists[-1]])
        for name in self.lists[:-1]:
            if not pc.list_value_length(rows[name]).equals(lengths):
                raise LabelError.because(f"label rows have '{name}' and '{self.lists[-1]}' lists of different lengths")
        items = {name: rows[name].combine_chunks().flatten() for name in self.items}
        flat = pa.table({"#row": pc.list_parent_indices(rows[self.items[0]].combine_chunks()), **items})
        repeated = flat.num_rows - flat.group_by(flat.column_names).aggregate([]).num_rows
        if repeated:
            raise LabelError.because(
                f"grouped label rows repeat {repeated} items within a context and time",
                "a join that multiplies rows does this: keep one of each",
            )


def _differs(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return for each row but the first whether it differs from the one before."""
    array = column.combine_chunks()
    differs: NDArray[np.bool_] = pc.not_equal(array[1:], array[:-1]).to_numpy(zero_copy_only=False)
    return differs


def _differs_or_null(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return the same where nulls and NaN equal themselves."""
    array = column.combine_chunks()
    codes = array.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    differs: NDArray[np.bool_] = codes[1:] != codes[:-1]
    return differs


def _long_schema(schema: pa.Schema, lists: list[str]) -> pa.Schema:
    return pa.schema([(field.name, field.type.value_type if field.name in lists else field.type) for field in schema])

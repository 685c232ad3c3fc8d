"""Writes label data in buckets, once, so that generation never has to move it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import (
    LABEL_COLUMN,
    OUTCOME_COLUMN,
    TIME_COLUMN,
    WEIGHT_COLUMN,
    KeptColumn,
    LabelColumns,
    Labels,
    LabelShape,
    check_new_id,
    new_folder,
    new_labels_id,
    save_labels,
)
from delorean.labels.column_types import check_label, check_time, unencoded, variable_type
from delorean.labels.grouping import LabelGrouper
from delorean.labels.row_sources import ArrowLabelRows, BucketWriter, LabelRows
from delorean.labels.spark_rows import SparkLabelRows
from schemas.data_keys import DataKey, Kind
from schemas.errors import EmptyLabelsError, LabelError
from schemas.hashing import check_bucket_count
from schemas.nested_types import is_list
from snapshotter.records import DataFile, from_micros
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage


def materialise_labels(
    rows: Any,
    columns: LabelColumns,
    storage: Storage,
    *,
    labels_id: str | None = None,
    named: bool = True,
    bucket_variable: str | None = None,
    buckets: int | None = None,
    source: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Labels:
    """Group label data by context and time and write it in buckets, sorted.

    rows: a Spark DataFrame, or anything Arrow reads (pyarrow, Polars, pandas, DuckDB); one row for each item, or
        already grouped: one row for each context and time with lists of items and labels. The items of ungrouped rows
        are sorted, so that the result does not depend on how the rows were distributed
    labels_id: None: a new id, of label data that a vacuum deletes once no recorded run and no feature set refers to it
    named: False: a vacuum treats the label data as if it had no id of its own, because no person chose it
    bucket_variable: the variable that snapshots are bucketed by too; None: the first suitable context variable
    buckets: a power of two; None: by size
    source: where the rows come from, recorded with the label data
    progress: called with (what is written, buckets done, all); None: a bar in a notebook or at a prompt

    Where another process publishes the same under the same id meanwhile, the result is what it published.

    Raises ConfigError for an id that cannot name a folder or is taken, before any work, unless it is taken meanwhile;
    ParadoxError for an outcome not later than its time, LabelError for nulls, repeated rows or missing columns,
    NaiveTimeError for times without a zone.
    """
    if labels_id is not None:
        check_new_id(labels_id, storage)
    if buckets is not None:
        check_bucket_count(buckets)
    layout = _Layout(_rows_of(rows), columns)
    variable = layout.bucket_variable(bucket_variable)
    named = named and labels_id is not None
    labels_id = labels_id or new_labels_id()
    written = _write_buckets(layout, labels_id, variable, buckets, storage, progress)
    labels = layout.labels(
        labels_id=labels_id,
        bucket_variable=variable,
        source=dict(source or {}),
        named=named,
        **written,
    )
    return save_labels(labels, storage)


def _write_buckets(
    layout: _Layout, labels_id: str, variable: str, buckets: int | None, storage: Storage, progress: Progress | None
) -> dict[str, Any]:
    """Write the rows and return the fields of `Labels` that they determine. Raises EmptyLabelsError if there are none.

    variable: the rows are bucketed by it
    """
    writer = BucketWriter(layout.grouper, layout.names, variable, new_folder(labels_id))
    with shown_progress(progress) as shown:
        report = partial(shown, f"labels {labels_id}, buckets")
        written = layout.rows.write(writer, buckets, storage, report)
    results = [json.loads(result) for result in written.results]
    if not results:
        raise EmptyLabelsError.because("label data has no rows", "widen its query, or wait for them")
    files = (DataFile.from_json(result["file"]) for result in results)
    return {
        "buckets": written.buckets,
        "files": tuple(sorted(files, key=lambda file: file.bucket)),
        "item_count": sum(result["items"] for result in results),
        "earliest": from_micros(min(result["earliest"] for result in results)),
        "latest": from_micros(max(result["latest"] for result in results)),
    }


def group_labels(rows: Any, columns: LabelColumns) -> tuple[Labels, pa.Table]:
    """Group label data in memory as one bucket, writing nothing: to preview features, not for training sets.

    rows: as `materialise_labels` takes them, except that Spark's must be converted to Arrow first

    Raises what `materialise_labels` does.
    """
    source = ArrowLabelRows(rows)
    layout = _Layout(source, columns)
    if not source.table.num_rows:
        raise EmptyLabelsError.because("label data has no rows", "pass at least one")
    grouped = layout.grouper.cast_and_group(source.renamed(layout.names))
    times = pc.min_max(grouped[TIME_COLUMN].cast(pa.int64())).as_py()
    labels = layout.labels(
        labels_id="in memory",
        bucket_variable=layout.bucket_variable(None),
        buckets=1,
        files=(),
        item_count=len(grouped[layout.shape.items[0].name].combine_chunks().flatten()),
        earliest=from_micros(times["min"]),
        latest=from_micros(times["max"]),
    )
    return labels, grouped


def _rows_of(source: Any) -> LabelRows:
    """Read label rows from Spark, or from anything that Arrow reads. Raises LabelError."""
    return SparkLabelRows(source) if type(source).__module__.startswith("pyspark.") else ArrowLabelRows(source)


class _Layout:
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
        types = {key.name: key.type for key in self.context}
        if requested is not None:
            if requested not in types:
                raise LabelError.unknown("bucket variable among the context variables", requested, types)
            return requested
        for name, type in types.items():  # noqa: A001  # the field's own name
            if pa.types.is_integer(type) or pa.types.is_string(type):
                return name
        raise LabelError.because(
            "no context variable is an integer or a text, so none can be bucketed by", "cast one in the query"
        )

    def labels(self, **measured: Any) -> Labels:
        """Return the record of label data. measured: the fields that the schema does not determine."""
        shape = self.shape
        never_data = {LABEL_COLUMN, OUTCOME_COLUMN}
        for name in (OUTCOME_COLUMN, *shape.of_items, *(column.name for column in shape.kept)):
            never_data |= {name, self.names.get(name, name)}
        return Labels(
            context=shape.context,
            items=shape.items,
            label_names=shape.labels,
            weighted=shape.weighted,
            kept=shape.kept,
            outcome_columns=tuple(sorted(never_data)),
            **measured,
        )

"""Puts somebody's label data into buckets, once, so that generation never has to move it again."""

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
    LabelColumns,
    Labels,
    find_labels,
    id_is_taken,
    new_folder,
    new_labels_id,
    save_labels,
)
from delorean.labels.column_types import check_label, check_time, is_list, unencoded, variable_type
from delorean.labels.grouping import LabelGrouper
from delorean.labels.rows import ArrowRows, SparkRows, rows_of
from schemas.data_keys import DataKey, Kind
from schemas.errors import EmptyLabelsError, LabelError
from schemas.hashing import check_bucket_count
from snapshotter.records import DataFile, from_micros
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage, require_plain_name

_ITEMS_IN_BUCKET = 400_000  # a bucket's labels, state and features then stay far below a worker's gigabyte
_MOST_BUCKETS = 4096


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
        grouped already: one row for each context and time with lists of items and labels. Items of long data are
        sorted, so that the result does not depend on how the rows were spread
    labels_id: None: a new one, for label data that a vacuum takes once no recorded run and no feature set refers to it
    named: False: no person chose the id, so a vacuum treats the label data like label data without one
    bucket_variable: what snapshots are bucketed by too; None: the first context variable that can be
    buckets: a power of two; None: by size
    source: what the rows come from, kept with the label data
    progress: called with (what is written, buckets done, all); None: a bar in a notebook or at a prompt

    Where another process publishes the same under the same id meanwhile, the result is what it published.

    Raises ConfigError for an id that cannot name a folder or is taken, before any work, unless it is taken meanwhile;
    ParadoxError for an outcome not later than its time, LabelError for nulls, repeated rows or missing columns,
    NaiveTimeError for times without a zone.
    """
    if labels_id is not None:
        require_plain_name("label data", labels_id)
        if find_labels(labels_id, storage) is not None:
            raise id_is_taken(labels_id)
    if buckets is not None:
        check_bucket_count(buckets)
    job = _Job(rows_of(rows), columns)
    variable = bucket_variable or job.default_bucket_variable()
    types = {key.name: key.type for key in job.context}
    if variable not in types:
        raise LabelError.unknown("bucket variable among the context variables", variable, types)
    named = named and labels_id is not None
    labels_id = labels_id or new_labels_id()
    count = buckets or job.buckets()
    with shown_progress(progress) as shown:
        report = partial(shown, f"labels {labels_id}, buckets")
        written = job.rows.write(job.grouper, job.renamed, variable, count, storage, new_folder(labels_id), report)
    results = [json.loads(text) for text in written]
    if not results:
        raise EmptyLabelsError.because("label data has no rows", "widen its query, or wait for them")
    return save_labels(
        Labels(
            labels_id=labels_id,
            context=job.context,
            items=job.items,
            bucket_variable=variable,
            buckets=count,
            files=tuple(sorted((DataFile.from_json(r["file"]) for r in results), key=lambda file: file.bucket)),
            item_count=sum(r["items"] for r in results),
            earliest=from_micros(min(r["earliest"] for r in results)),
            latest=from_micros(max(r["latest"] for r in results)),
            outcome_columns=tuple(
                sorted({LABEL_COLUMN, OUTCOME_COLUMN, job.renamed[LABEL_COLUMN], job.renamed[OUTCOME_COLUMN]})
            ),
            source=dict(source or {}),
            named=named,
        ),
        storage,
    )


def group_labels(rows: Any, columns: LabelColumns) -> tuple[Labels, pa.Table]:
    """Group label data in memory as one bucket, writing nothing: for a look at features, not for training sets.

    rows: as `materialise_labels` takes them, except that Spark's must be turned into Arrow first

    Raises what `materialise_labels` does.
    """
    given = ArrowRows(rows)
    job = _Job(given, columns)
    if not given.table.num_rows:
        raise EmptyLabelsError.because("label data has no rows", "give at least one")
    found = job.grouper.label_rows(given.table.select(list(job.renamed.values())).rename_columns(list(job.renamed)))
    times = pc.min_max(found[TIME_COLUMN].cast(pa.int64())).as_py()
    labels = Labels(
        labels_id="in memory",
        context=job.context,
        items=job.items,
        bucket_variable=job.default_bucket_variable(),
        buckets=1,
        files=(),
        item_count=len(found[LABEL_COLUMN].combine_chunks().flatten()),
        earliest=from_micros(times["min"]),
        latest=from_micros(times["max"]),
    )
    return labels, found


class _Job:
    """What the label data's own schema says of the work. Refuses what it shows to be wrong."""

    def __init__(self, rows: ArrowRows | SparkRows, columns: LabelColumns) -> None:
        resolved = columns.resolve(rows.names)
        self.rows = rows
        self.renamed = {
            **{name: name for name in (*(resolved.context or ()), *resolved.items)},
            TIME_COLUMN: resolved.time,
            OUTCOME_COLUMN: resolved.outcome_at,
            LABEL_COLUMN: resolved.label,
        }
        types = rows.types(list(self.renamed.values()))
        check_label(resolved.label, types[resolved.label])
        self.grouped = is_list(types[resolved.label])
        for name in (resolved.time, resolved.outcome_at):
            check_time(name, types[name], resolved.time_unit)
        self.context = tuple(
            DataKey(name, Kind.CONTEXT, variable_type(name, types[name])) for name in resolved.context or ()
        )
        self.items = tuple(
            DataKey(name, Kind.ITEM, variable_type(name, self._item_type(name, types[name]))) for name in resolved.items
        )
        self.grouper = LabelGrouper(
            self.context, self.items, grouped=self.grouped, names=self.renamed, time_unit=resolved.time_unit
        )

    def _item_type(self, name: str, type: pa.DataType) -> pa.DataType:  # noqa: A002
        if not self.grouped:
            return type
        if not is_list(type):
            raise LabelError.because(
                f"labels are lists, but item column '{name}' is {type}", "make both lists or neither"
            )
        return unencoded(type).value_type

    def default_bucket_variable(self) -> str:
        for key in self.context:
            if pa.types.is_integer(key.type) or pa.types.is_string(key.type):
                return key.name
        raise LabelError.because("no context variable is an integer or a text, so none can be bucketed by")

    def buckets(self) -> int:
        count = self.rows.count_items(self.renamed[LABEL_COLUMN] if self.grouped else None)
        buckets = 1
        while buckets < _MOST_BUCKETS and count > buckets * _ITEMS_IN_BUCKET:
            buckets *= 2
        return buckets

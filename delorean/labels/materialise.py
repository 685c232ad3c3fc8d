"""Puts somebody's label data into buckets, once, so that generation never has to move it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import (
    LABEL_COLUMN,
    OUTCOME_COLUMN,
    TIME_COLUMN,
    LabelColumns,
    Labels,
    new_folder,
    new_labels_id,
    save_labels,
)
from delorean.labels.column_types import plain_type, without_large
from delorean.labels.grouping import LabelGrouper
from schemas.data_keys import DataKey, Kind, refuse_naive_times
from schemas.errors import LabelError
from schemas.hashing import bucket_of, bucket_sql
from snapshotter.progress import Board, Tellers, driver_host, listening
from snapshotter.progress_bars import counted
from snapshotter.records import DataFile, from_micros
from snapshotter.spark_errors import spark_errors_as
from snapshotter.spark_jobs import described
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BUCKET_COLUMN = "__bucket"
Progress = Callable[[int, int], None]
_ITEMS_IN_BUCKET = 400_000  # a bucket's labels, state and features then stay far below a worker's gigabyte
_MOST_BUCKETS = 4096


def materialise_labels(
    rows: Any,
    columns: LabelColumns,
    storage: Storage,
    *,
    labels_id: str | None = None,
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
    bucket_variable: what snapshots are bucketed by too; None: the first context variable that can be
    buckets: a power of two; None: by size
    source: what the rows come from, kept with the label data
    progress: called with (buckets done, all); None: a bar in a notebook or at a prompt

    Raises ParadoxError for an outcome not later than its time, LabelError for nulls, repeated rows or missing
    columns, NaiveTimeError for times without a zone.
    """
    job = _Job(_SparkRows(rows) if _is_spark(rows) else _ArrowRows(rows), columns)
    variable = bucket_variable or job.default_bucket_variable()
    types = {key.name: key.type for key in job.context}
    if variable not in types:
        raise LabelError.unknown("bucket variable among the context variables", variable, types)
    labels_id = labels_id or new_labels_id()
    count = buckets or job.buckets()
    grouper = LabelGrouper(job.context, job.items, grouped=job.grouped)
    with counted(f"labels {labels_id}, buckets", progress) as told:
        written = job.rows.write(grouper, job.renamed, variable, count, storage, new_folder(labels_id), told)
    results = [json.loads(text) for text in written]
    if not results:
        raise LabelError.because("label data has no rows", "widen its query")
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
        ),
        storage,
    )


def group_labels(rows: Any, columns: LabelColumns) -> tuple[Labels, pa.Table]:
    """Group label data in memory as one bucket, writing nothing: for a look at features, not for training sets.

    rows: as `materialise_labels` takes them, except that Spark's must be turned into Arrow first

    Raises what `materialise_labels` does.
    """
    given = _ArrowRows(rows)
    job = _Job(given, columns)
    grouper = LabelGrouper(job.context, job.items, grouped=job.grouped)
    if not given.table.num_rows:
        raise LabelError.because("label data has no rows", "give at least one")
    found = grouper.label_rows(given.table.select(list(job.renamed.values())).rename_columns(list(job.renamed)))
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
    """What the label data's own schema says of the work."""

    def __init__(self, rows: _ArrowRows | _SparkRows, columns: LabelColumns) -> None:
        schema = rows.schema
        resolved = columns.resolve(schema.names)
        self.rows = rows
        self.grouped = pa.types.is_list(schema.field(resolved.label).type)
        self.context = tuple(
            DataKey(name, Kind.CONTEXT, plain_type(name, schema.field(name).type)) for name in resolved.context or ()
        )
        self.items = tuple(
            DataKey(name, Kind.ITEM, plain_type(name, self._item_type(name, schema.field(name).type)))
            for name in resolved.items
        )
        for name in (resolved.time, resolved.outcome_at):
            refuse_naive_times(f"label data.{name}", schema.field(name).type)
        self.renamed = {
            **{key.name: key.name for key in (*self.context, *self.items)},
            TIME_COLUMN: resolved.time,
            OUTCOME_COLUMN: resolved.outcome_at,
            LABEL_COLUMN: resolved.label,
        }

    def _item_type(self, name: str, type: pa.DataType) -> pa.DataType:  # noqa: A002
        if not self.grouped:
            return type
        if not pa.types.is_list(type):
            raise LabelError.because(
                f"labels are lists, but item column '{name}' is {type}", "make both lists or neither"
            )
        return type.value_type

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


class _ArrowRows:
    """Label data in this process."""

    def __init__(self, source: Any) -> None:
        try:
            self.table: pa.Table = pa.table(source)
        except (TypeError, pa.ArrowException) as error:
            raise LabelError.because(
                f"label data is a {type(source).__name__}, expected a Spark DataFrame or what Arrow reads: {error}"
            ) from error
        self.schema = pa.schema([(f.name, without_large(f.type)) for f in self.table.schema])

    def count_items(self, lists: str | None) -> int:
        if lists is None:
            return int(self.table.num_rows)
        return int(pc.sum(pc.list_value_length(self.table[lists])).as_py() or 0)

    def write(
        self,
        grouper: LabelGrouper,
        renamed: dict[str, str],
        variable: str,
        buckets: int,
        storage: Storage,
        folder: str,
        progress: Progress | None,
    ) -> list[str]:
        rows = self.table.select(list(renamed.values())).rename_columns(list(renamed))
        rows = rows.cast(pa.schema([(f.name, without_large(f.type)) for f in rows.schema]))
        of = bucket_of(rows[variable], buckets)
        rows = rows.take(np.argsort(of, kind="stable"))
        ends = np.cumsum(np.bincount(of, minlength=buckets))
        written = []
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            if end > start:
                part = rows.slice(start, end - start)
                written.append(_write_bucket(bucket, part, grouper, storage, folder, attempt=0))
            if progress is not None:
                progress(bucket + 1, buckets)
        return written


class _SparkRows:
    """Label data in Spark: one shuffle, then each task sorts and groups its bucket in Arrow, far faster than Spark."""

    def __init__(self, source: DataFrame) -> None:
        self.frame = source
        with described(source.sparkSession, "look at label data"), spark_errors_as(LabelError, "label data"):
            schema = source.limit(0).toArrow().schema
        self.schema = pa.schema([(f.name, without_large(f.type)) for f in schema])

    def count_items(self, lists: str | None) -> int:
        spark = self.frame.sparkSession
        with described(spark, "materialise labels: count"), spark_errors_as(LabelError, "label data"):
            if lists is None:
                return self.frame.count()
            return int(self.frame.selectExpr(f"sum(size(`{lists}`))").first()[0] or 0)  # type: ignore[index]  # one row

    def write(
        self,
        grouper: LabelGrouper,
        renamed: dict[str, str],
        variable: str,
        buckets: int,
        storage: Storage,
        folder: str,
        progress: Progress | None,
    ) -> list[str]:
        from pyspark import TaskContext
        from pyspark.sql import functions

        types = {field.name: field.type for field in grouper.schema}
        rows = self.frame.selectExpr(
            *(f"`{column}` AS `{name}`" for name, column in renamed.items()),
            f"{bucket_sql(renamed[variable], types[variable], buckets)} AS `{BUCKET_COLUMN}`",
        )
        spark, uri = self.frame.sparkSession, storage.uri
        board = Board(None if progress is None else driver_host(spark), [buckets])
        ear = board.ear

        def write_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            attempt = context.taskAttemptId() if context is not None else 0
            parts = [batch for batch in batches if batch.num_rows]
            if parts:
                rows = pa.Table.from_batches(parts)
                bucket = rows[BUCKET_COLUMN][0].as_py()
                result = _write_bucket(bucket, rows, grouper, open_storage(uri), folder, attempt)
                with Tellers(ear, bucket, {0: lambda _: None}) as tellers:
                    tellers.of(0)(1, 1)
                yield pa.RecordBatch.from_pydict({"result": [result]})

        what = f"materialise labels: {buckets} buckets"
        with (
            board,
            listening(board, buckets, progress),
            described(spark, what),
            spark_errors_as(LabelError, "label data"),
        ):
            placed = rows.repartitionById(buckets, functions.col(BUCKET_COLUMN))
            written = placed.mapInArrow(write_task, "result string").collect()
        if progress is not None:
            progress(buckets, buckets)
        return [row.result for row in written]


def _write_bucket(
    bucket: int, rows: pa.Table, grouper: LabelGrouper, storage: Storage, folder: str, attempt: int
) -> str:
    """Write one bucket's file and say, as JSON, what is in it."""
    label_rows = grouper.label_rows(rows)
    path = f"{folder}/{bucket:05d}-{attempt}.parquet"
    file = write_parquet(storage, path, label_rows, grouper.schema, bucket)
    times = pc.min_max(label_rows[TIME_COLUMN].cast(pa.int64())).as_py()
    items = pc.sum(pc.list_value_length(label_rows[LABEL_COLUMN])).as_py()
    return json.dumps({"file": file.to_json(), "items": items, "earliest": times["min"], "latest": times["max"]})


def _is_spark(source: Any) -> bool:
    return type(source).__module__.startswith("pyspark.")

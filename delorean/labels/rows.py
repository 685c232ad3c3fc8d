"""Rows of label data, in this process or in Spark: their columns, their number, and writing them in buckets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import LABEL_COLUMN, TIME_COLUMN
from delorean.labels.grouping import LabelGrouper
from schemas.errors import LabelError
from schemas.hashing import bucket_of, bucket_sql
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, reported_tasks
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BUCKET_COLUMN = "__bucket"
_KEY_COLUMN = "__bucket_key"


class ArrowRows:
    """Label data in this process."""

    def __init__(self, source: Any) -> None:
        try:
            self.table: pa.Table = pa.table(source)
        except Exception as error:  # whatever library the frame is of raises errors of its own
            raise LabelError.because(
                f"label data is a {type(source).__name__}, expected a Spark DataFrame or what Arrow reads: {error}",
                "leave out columns that it cannot read, or cast them",
            ) from error

    @property
    def names(self) -> list[str]:
        """The columns."""
        names: list[str] = self.table.column_names
        return names

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """Types of columns."""
        return {name: self.table.schema.field(name).type for name in columns}

    def count_items(self, lists: str | None) -> int:
        """Count the items. lists: a column that holds a row's items as a list; None: each row is an item."""
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
        report: Callable[[int, int], None],
    ) -> list[str]:
        """Write each bucket's file and give, as JSON, what is in each."""
        rows = grouper.typed(self.table.select(list(renamed.values())).rename_columns(list(renamed)))
        of = bucket_of(rows[variable], buckets)
        rows = rows.take(np.argsort(of, kind="stable"))
        ends = np.cumsum(np.bincount(of, minlength=buckets))
        written = []
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            if end > start:
                part = grouper.group(rows.slice(start, end - start))
                written.append(_write_bucket(bucket, part, grouper.schema, storage, folder, attempt=0))
            report(bucket + 1, buckets)
        return written


class SparkRows:
    """Label data in Spark: one shuffle, then each task sorts and groups its bucket in Arrow, far faster than Spark."""

    def __init__(self, source: DataFrame) -> None:
        self.frame = source

    @property
    def names(self) -> list[str]:
        """The columns."""
        return self.frame.columns

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """Types of columns, as Arrow has them. Raises LabelError for a type that only Spark has."""
        from pyspark.sql.pandas.types import to_arrow_type

        found, of = {}, {field.name: field.dataType for field in self.frame.schema}
        for name in columns:
            try:
                found[name] = to_arrow_type(of[name], timezone="UTC")
            except Exception as error:  # pyspark has several for this
                raise LabelError.because(
                    f"column '{name}' of the label data is {of[name].simpleString()}, which Arrow does not have",
                    "leave it out of the query, or cast it",
                ) from error
        return found

    def count_items(self, lists: str | None) -> int:
        """Count the items. lists: a column that holds a row's items as a list; None: each row is an item."""
        spark = self.frame.sparkSession
        with described(spark, "materialise labels: count"), spark_errors_as(LabelError, "label data"):
            if lists is None:
                return self.frame.count()
            return int(self.frame.selectExpr(f"sum(size({_quoted(lists)}))").first()[0] or 0)  # type: ignore[index]  # one row

    def write(
        self,
        grouper: LabelGrouper,
        renamed: dict[str, str],
        variable: str,
        buckets: int,
        storage: Storage,
        folder: str,
        report: Callable[[int, int], None],
    ) -> list[str]:
        """Write each bucket's file and give, as JSON, what is in each."""
        from pyspark import TaskContext
        from pyspark.sql import functions

        types = {field.name: field.type for field in grouper.schema}
        columns = [f"{_quoted(column)} AS {_quoted(name)}" for name, column in renamed.items()]
        key = _quoted(renamed[variable])
        if pa.types.is_integer(types[variable]):  # what does not fit is refused by name below, wherever it goes
            key = f"coalesce(try_cast({key} AS BIGINT), 0)"
        bucket = f"{bucket_sql(_KEY_COLUMN, types[variable], buckets)} AS `{BUCKET_COLUMN}`"
        rows = self.frame.selectExpr(*columns, f"{key} AS `{_KEY_COLUMN}`")
        rows = rows.selectExpr(*map(_quoted, renamed), bucket)
        spark, uri = self.frame.sparkSession, storage.uri

        def write_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            attempt = context.taskAttemptId() if context is not None else 0
            parts = [batch for batch in batches if batch.num_rows]
            if parts:
                rows = pa.Table.from_batches(parts)
                bucket = rows[BUCKET_COLUMN][0].as_py()
                rows = grouper.label_rows(rows)
                result = _write_bucket(bucket, rows, grouper.schema, open_storage(uri), folder, attempt)
                yield pa.RecordBatch.from_pydict({"result": [result]})

        what = f"materialise labels: {buckets} buckets"
        with (
            reported_tasks(spark, buckets, buckets, report, after_shuffle=True),
            described(spark, what),
            spark_errors_as(LabelError, "label data"),
        ):
            placed = rows.repartitionById(buckets, functions.col(BUCKET_COLUMN))
            written = placed.mapInArrow(write_task, "result string").collect()
        return [row.result for row in written]


def rows_of(source: Any) -> ArrowRows | SparkRows:
    """Take label data from Spark, or from anything that Arrow reads. Raises LabelError."""
    return SparkRows(source) if type(source).__module__.startswith("pyspark.") else ArrowRows(source)


def _write_bucket(bucket: int, rows: pa.Table, schema: pa.Schema, storage: Storage, folder: str, attempt: int) -> str:
    """Write one bucket's file and say, as JSON, what is in it."""
    path = f"{folder}/{bucket:05d}-{attempt}.parquet"
    file = write_parquet(storage, path, rows, schema, bucket)
    times = pc.min_max(rows[TIME_COLUMN].cast(pa.int64())).as_py()
    items = pc.sum(pc.list_value_length(rows[LABEL_COLUMN])).as_py()
    return json.dumps({"file": file.to_json(), "items": items, "earliest": times["min"], "latest": times["max"]})


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"

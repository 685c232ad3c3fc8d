"""Where label rows come from, this process or Spark: their columns, their number, and writing them in buckets."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import LABEL_COLUMN, TIME_COLUMN
from delorean.labels.grouping import LabelGrouper
from schemas.errors import LabelError
from schemas.hashing import bucket_of, bucket_sql
from snapshotter.spark.connect import require_workers
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, reported_tasks
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BUCKET_COLUMN = "__bucket"
_KEY_COLUMN = "__bucket_key"


@dataclass(frozen=True)
class BucketWriter:
    """Writes label data bucket by bucket.

    columns: name at rest → name in the source
    variable: the context variable that rows are bucketed by
    """

    grouper: LabelGrouper
    columns: Mapping[str, str]
    variable: str
    buckets: int
    folder: str

    def write(self, bucket: int, rows: pa.Table, storage: Storage, attempt: int = 0) -> str:
        """Write the file of one bucket's grouped rows. Returns a JSON object: file, items, earliest, latest."""
        path = f"{self.folder}/{bucket:05d}-{attempt}.parquet"
        file = write_parquet(storage, path, rows, self.grouper.schema, bucket)
        times = pc.min_max(rows[TIME_COLUMN].cast(pa.int64())).as_py()
        items = pc.sum(pc.list_value_length(rows[LABEL_COLUMN])).as_py()
        return json.dumps({"file": file.to_json(), "items": items, "earliest": times["min"], "latest": times["max"]})


class LabelRows(ABC):
    """Label rows of any source."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The columns."""

    @abstractmethod
    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """Return the Arrow types of columns. Raises LabelError for a type that Arrow does not have."""

    @abstractmethod
    def count_items(self, lists: str | None) -> int:
        """Count the items. lists: a column that holds a row's items as a list; None: each row is an item."""

    @abstractmethod
    def write(self, writer: BucketWriter, storage: Storage, report: Callable[[int, int], None]) -> list[str]:
        """Write all buckets that have rows. Returns what `BucketWriter.write` returned for each."""


class ArrowLabelRows(LabelRows):
    """Label rows in this process."""

    def __init__(self, source: Any) -> None:
        try:
            self.table: pa.Table = pa.table(source)
        except Exception as error:  # each frame library raises errors of its own
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
        """Return the Arrow types of columns."""
        return {name: self.table.schema.field(name).type for name in columns}

    def count_items(self, lists: str | None) -> int:
        """Count the items."""
        if lists is None:
            return int(self.table.num_rows)
        return int(pc.sum(pc.list_value_length(self.table[lists])).as_py() or 0)

    def write(self, writer: BucketWriter, storage: Storage, report: Callable[[int, int], None]) -> list[str]:
        """Write bucket after bucket."""
        rows = writer.grouper.cast(self.renamed(writer.columns))
        bucket_numbers = bucket_of(rows[writer.variable], writer.buckets)
        rows = rows.take(np.argsort(bucket_numbers, kind="stable"))
        ends = np.cumsum(np.bincount(bucket_numbers, minlength=writer.buckets))
        results = []
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            if end > start:
                grouped = writer.grouper.group(rows.slice(start, end - start))
                results.append(writer.write(bucket, grouped, storage))
            report(bucket + 1, writer.buckets)
        return results

    def renamed(self, columns: Mapping[str, str]) -> pa.Table:
        """Return columns under other names. columns: new name → name in the source."""
        return self.table.select(list(columns.values())).rename_columns(list(columns))


class SparkLabelRows(LabelRows):
    """Label rows in Spark: one shuffle, then each task sorts and groups its bucket in Arrow, far faster than Spark."""

    def __init__(self, source: DataFrame) -> None:
        self.frame = source

    @property
    def names(self) -> list[str]:
        """The columns."""
        return self.frame.columns

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """Return the Arrow types of columns. Raises LabelError for a type that only Spark has."""
        from pyspark.sql.pandas.types import to_arrow_type

        types = {}
        spark_types = {field.name: field.dataType for field in self.frame.schema}
        for name in columns:
            try:
                types[name] = to_arrow_type(spark_types[name], timezone="UTC")
            except Exception as error:  # pyspark has several for this
                raise LabelError.because(
                    f"column '{name}' of the label data is {spark_types[name].simpleString()}, which Arrow does not "
                    "have",
                    "leave it out of the query, or cast it",
                ) from error
        return types

    def count_items(self, lists: str | None) -> int:
        """Count the items."""
        spark = self.frame.sparkSession
        with described(spark, "materialise labels: count"), spark_errors_as(LabelError, "label data"):
            if lists is None:
                return self.frame.count()
            return int(self.frame.selectExpr(f"sum(size({_quoted(lists)}))").first()[0] or 0)  # type: ignore[index]  # one row

    def write(self, writer: BucketWriter, storage: Storage, report: Callable[[int, int], None]) -> list[str]:
        """Write a bucket in each task."""
        from pyspark import TaskContext

        require_workers(self.frame.sparkSession)
        spark, uri, buckets = self.frame.sparkSession, storage.uri, writer.buckets

        def write_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            attempt = context.taskAttemptId() if context is not None else 0
            parts = [batch for batch in batches if batch.num_rows]
            if parts:
                rows = pa.Table.from_batches(parts)
                bucket = rows[BUCKET_COLUMN][0].as_py()
                result = writer.write(bucket, writer.grouper.cast_and_group(rows), open_storage(uri), attempt)
                yield pa.RecordBatch.from_pydict({"result": [result]})

        what = f"materialise labels: {buckets} buckets"
        with (
            reported_tasks(spark, buckets, buckets, report, after_shuffle=True),
            described(spark, what),
            spark_errors_as(LabelError, "label data"),
        ):
            rows = self._bucketed(writer)
            placed = rows.repartitionById(buckets, rows[BUCKET_COLUMN])
            results = placed.mapInArrow(write_task, "result string").collect()
        return [row.result for row in results]

    def _bucketed(self, writer: BucketWriter) -> DataFrame:
        """Return the writer's columns and the bucket of each row."""
        columns = [f"{_quoted(column)} AS {_quoted(name)}" for name, column in writer.columns.items()]
        key, type = _quoted(writer.columns[writer.variable]), writer.grouper.schema.field(writer.variable).type  # noqa: A001
        if pa.types.is_integer(type):  # a value that does not fit is refused by name in its task, whatever its bucket
            key = f"coalesce(try_cast({key} AS BIGINT), 0)"
        bucket = f"{bucket_sql(_KEY_COLUMN, type, writer.buckets)} AS `{BUCKET_COLUMN}`"
        keyed = self.frame.selectExpr(*columns, f"{key} AS `{_KEY_COLUMN}`")
        return keyed.selectExpr(*map(_quoted, writer.columns), bucket)


def label_rows_of(source: Any) -> LabelRows:
    """Read label rows from Spark, or from anything that Arrow reads. Raises LabelError."""
    return SparkLabelRows(source) if type(source).__module__.startswith("pyspark.") else ArrowLabelRows(source)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"

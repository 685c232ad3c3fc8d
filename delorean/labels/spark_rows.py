"""Label rows in Spark: the tasks of the query write parts, from which other tasks write the buckets, in Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from delorean.labels.row_parts import RowPart, write_parts
from delorean.labels.row_sources import BucketWriter, LabelRows, LabelSource, WrittenBuckets, bucket_count
from delorean.labels.sorted_ranges import sorted_ranges
from schemas.errors import LabelError
from snapshotter.spark.connect import require_workers
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, parallelism, reported_tasks
from snapshotter.spark.plain_scan import plain_scan
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet_scan import ParquetScan, UnclearFileError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TASKS_PER_CORE = 4


@dataclass(frozen=True)
class SparkLabelRows(LabelRows):
    """Label rows of a query.

    Files of the parts are deleted at the end; those that a killed job leaves are left to `delorean vacuum`.
    """

    frame: DataFrame

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

    @staticmethod
    def write(
        sources: Sequence[LabelSource],
        writer: BucketWriter,
        buckets: int | None,
        storage: Storage,
        report: Callable[[int, int], None],
    ) -> WrittenBuckets:
        """Run the queries, one after another, then write a bucket in each task."""
        frames = [(source, source.rows.frame) for source in sources if isinstance(source.rows, SparkLabelRows)]
        spark = frames[0][1].sparkSession
        require_workers(spark)
        try:
            written = [_write_parts(frame, source, writer, storage) for source, frame in frames]
            parts = [part for each, _ in written for part in each]
            buckets = buckets or bucket_count(sum(items for _, items in written))
            work = _BucketWork(spark, writer, buckets, parts, storage.uri)
            if writer.needs_survey and parts:
                work = replace(work, writer=writer.with_draws(work.surveys()))
            return WrittenBuckets(buckets, work.write(report) if parts else [])
        finally:
            storage.delete([file.path for file in storage.list(writer.folder, _PARTS)])


def _write_parts(
    frame: DataFrame, source: LabelSource, writer: BucketWriter, storage: Storage
) -> tuple[list[RowPart], int]:
    """Run a query and write its rows. Returns the parts and the number of items in them."""
    spark, uri, cast = frame.sparkSession, storage.uri, source.cast

    def written(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        path = f"{writer.folder}/{_PARTS}{_task_attempt()}.arrow"
        for part, rows in write_parts(batches, cast, writer.rule, open_storage(uri), path):
            yield pa.RecordBatch.from_pydict(
                {"path": [part.path], "offsets": [part.offsets.tobytes()], "items": [writer.count_items(rows)]}
            )

    columns = [f"{_quoted(column)} AS {_quoted(name)}" for name, column in source.columns.items()]
    with described(spark, "materialise labels: query"), spark_errors_as(LabelError, "label data"):
        frame = frame.selectExpr(*columns)
        scan = plain_scan(frame)
        rows = None if scan is None else _scanned(spark, scan, written)
        if rows is None:
            rows = frame.mapInArrow(written, _WRITTEN).collect()
    parts = [RowPart(row.path, np.frombuffer(row.offsets, np.int64)) for row in rows]
    return parts, sum(row["items"] for row in rows)


@dataclass(frozen=True)
class _BucketWork:
    """Tasks that read the buckets of parts, several in each task."""

    spark: SparkSession
    writer: BucketWriter
    buckets: int
    parts: list[RowPart]
    uri: str

    def write(self, report: Callable[[int, int], None]) -> list[str]:
        """Write each bucket, and return the results of those with rows."""
        writer, uri = self.writer, self.uri

        def written(bucket: int, tables: Iterator[pa.Table]) -> str | None:
            return writer.write(bucket, tables, open_storage(uri), _task_attempt())

        with reported_tasks(self.spark, self._tasks, self.buckets, report):
            return self._run(f"materialise labels: {self.buckets} buckets", written)

    def surveys(self) -> list[str]:
        """Return the survey of each bucket."""
        writer = self.writer
        return self._run("materialise labels: sizes of strata", lambda _, tables: writer.survey(tables))

    @property
    def _tasks(self) -> int:
        return min(self.buckets, _TASKS_PER_CORE * parallelism(self.spark))

    def _run(self, description: str, work: Callable[[int, Iterator[pa.Table]], str | None]) -> list[str]:
        """Give the grouped rows of each bucket to a function, and collect what it returns."""
        writer, buckets, parts, uri = self.writer, self.buckets, self.parts, self.uri
        schema = writer.grouper.row_schema

        def run_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            opened = open_storage(uri)

            def read(bucket: int) -> Iterator[pa.Table]:
                for part in parts:
                    yield from part.read(bucket, buckets, writer.rule, schema, opened)

            for batch in batches:
                for bucket in batch.column(0).to_pylist():
                    ranges = sorted_ranges(partial(read, bucket), writer.grouper.key)
                    result = work(bucket, map(writer.grouper.group, ranges))
                    yield pa.RecordBatch.from_pydict({"result": [] if result is None else [result]}, _RESULT)

        with described(self.spark, description), spark_errors_as(LabelError, "label data"):
            results = self.spark.range(0, buckets, 1, self._tasks).mapInArrow(run_task, "result string").collect()
        return [row.result for row in results]


def _scanned(
    spark: SparkSession,
    scan: ParquetScan,
    written: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
) -> list[Any] | None:
    """Return what tasks that read files themselves have written; None if Spark must read them.

    Nothing that such a task has written is used then.
    """
    slices = scan.slices(_TASKS_PER_CORE * parallelism(spark))
    if not slices:
        return []

    def write_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tasks = (task for batch in batches for task in batch.column(0).to_pylist())
        try:
            yield from written(batch for task in tasks for part in slices[task] for batch in scan.read(part))
        except UnclearFileError:
            yield pa.RecordBatch.from_pydict({"path": [""], "offsets": [b""], "items": [0]})

    rows = spark.range(0, len(slices), 1, len(slices)).mapInArrow(write_task, _WRITTEN).collect()
    return rows if all(row.path for row in rows) else None


_PARTS = "rows-"  # how the names of parts begin
_WRITTEN = "path string, offsets binary, items long"
_RESULT = pa.schema([("result", pa.string())])


def _task_attempt() -> int:
    from pyspark import TaskContext

    context = TaskContext.get()
    return context.taskAttemptId() if context is not None else 0


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"

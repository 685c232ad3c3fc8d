"""Runs a query in Spark and reads its rows in this process, some at a time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from delorean.ab_tests.recorded import QUERIES
from schemas.errors import AbTestError
from snapshotter.index import SnapshotIndex
from snapshotter.selection.state_tables import state_tables
from snapshotter.spark.connect import require_workers
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.spark.table_loader import query_tables
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.table_source import TableSource

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def query_batches(
    spark: SparkSession,
    text: str,
    tables: Mapping[str, TableSource],
    columns: tuple[str, ...],
    storage: Storage,
    index: SnapshotIndex | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query. Tasks write them to files in the storage, so that memory stays bounded.

    Raises AbTestError for a query that fails or lacks a column.
    """
    text, state = (text, ()) if index is None else state_tables(text, index, AbTestError)
    frames = {table.view: table.to_spark(spark, storage.uri) for table in state}
    folder, uri = f"{QUERIES}/{uuid.uuid4().hex}", storage.uri

    def write_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            return
        context = TaskContext.get()
        path = f"{folder}/{0 if context is None else context.taskAttemptId()}.arrow"
        with (
            open_storage(uri).open_output(path) as output,
            pa.ipc.new_stream(output, first.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
        ):
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        yield pa.RecordBatch.from_pydict({"path": [path]})

    require_workers(spark)
    with described(spark, "read outcomes"), spark_errors_as(AbTestError, "the outcomes' query"):
        frame = query_tables(spark, text, tables, AbTestError, frames=frames)
        for column in columns:
            if column not in frame.columns:
                raise AbTestError.unknown("column of the query", column, frame.columns)
        chosen = frame.select(*("`" + column.replace("`", "``") + "`" for column in columns))
        paths = [row.path for row in chosen.mapInArrow(write_task, "path string").collect()]
    try:
        for path in paths:  # only files of tasks whose results were taken
            with storage.open_input(path) as file, pa.ipc.open_stream(file) as reader:
                yield from reader
    finally:
        storage.delete([file.path for file in storage.list(folder)])

"""The rows of a table of any kind as a stream of Arrow batches, for what needs no query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import ConfigError, CorruptFileError, MissingFileError, StorageError
from snapshotter.spark.errors import spark_errors_as
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion
from snapshotter.storage.foreign_parquet import read_foreign_parquet
from snapshotter.storage.iceberg import iceberg_snapshot
from snapshotter.storage.table_source import TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def table_rows(source: TableSource, spark: Callable[[], SparkSession]) -> pa.RecordBatchReader:
    """Read a table in bounded memory, without a JVM if it is Parquet, Iceberg or most Delta tables.

    spark: returns the session for tables that only Spark can read

    Raises ConfigError for a table that does not exist or cannot be read as its format, and errors of its storage, also
    while rows are read.
    """
    try:
        if source.format == "parquet":
            return read_foreign_parquet(source.path)
        if source.format == "delta":
            return _delta_rows(source, spark)
        if source.format == "iceberg":
            snapshot = iceberg_snapshot(source.path, source.version)
            return pa.RecordBatchReader.from_batches(snapshot.schema, snapshot.batches())
    except MissingFileError as error:
        raise ConfigError(str(error)) from error
    return _spark_rows(source, spark())


def _delta_rows(source: TableSource, spark: Callable[[], SparkSession]) -> pa.RecordBatchReader:
    try:
        version = DeltaVersion.of(delta_table(source.path, source.version), source.path)
    except (CorruptFileError, MissingFileError):
        raise
    except StorageError:  # it has features that Arrow cannot read, such as deletion vectors
        return _spark_rows(source, spark())
    return pa.RecordBatchReader.from_batches(version.schema, version.batches())


def _spark_rows(source: TableSource, spark: SparkSession) -> pa.RecordBatchReader:
    from pyspark.sql.pandas.types import to_arrow_schema

    from snapshotter.spark.table_loader import load_table

    with spark_errors_as(ConfigError, f"table '{source.path}'"):
        frame = load_table(spark, source.path, source, ConfigError)
        schema = to_arrow_schema(frame.schema, timezone="UTC")
    return pa.RecordBatchReader.from_batches(schema, _partition_after_partition(frame, schema, source.path))


def _partition_after_partition(frame: DataFrame, schema: pa.Schema, name: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a frame, of which this process has one partition at a time."""

    def serialise(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield pa.RecordBatch.from_pydict({"batch": pa.array([sink.getvalue().to_pybytes()], pa.binary())})

    with spark_errors_as(ConfigError, f"table '{name}'"):
        for row in frame.mapInArrow(serialise, "batch binary").toLocalIterator():
            yield from pa.ipc.open_stream(bytes(row["batch"])).read_all().cast(schema).to_batches()

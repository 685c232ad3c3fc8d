"""A version of one of our Delta tables, read as any frame."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import pyarrow as pa

from delorean.feature_sets.stored_rows import StoredRows
from delorean.frames import Readable, lazy_frame, require_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from snapshotter.storage.delta_version import DeltaVersion


class StoredVersion(Readable):
    """The rows of one version of a Delta table. uri: of the table, as deltalake, Spark, Polars and DuckDB open it."""

    uri: str

    @abstractmethod
    def files(self) -> DeltaVersion:
        """List the files of this version."""

    def to_arrow(self) -> pa.Table:
        """Read all rows. Raises MissingFileError and CorruptFileError, naming the file."""
        return self.files().to_arrow()

    def to_spark(self, spark: SparkSession) -> DataFrame:
        """Return the rows as a Spark DataFrame whose tasks read this version's files; nothing is read before.

        The session needs no Delta. Its order of the rows is that of the files.
        """
        require_spark(spark)
        files = self.files()
        parts = [StoredRows(self.uri, file.path, files.schema) for file in files.files]
        return lazy_frame(spark, files.schema, parts, StoredRows.tables)

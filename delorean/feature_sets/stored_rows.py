"""Reads files of a feature set in Spark's tasks, whose executors have no Delta: the driver has listed them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_unrecorded


@dataclass(frozen=True)
class StoredRows:
    """A file of a version of a feature set. path: relative to the table at `table_uri`; schema: the version's."""

    table_uri: str
    path: str
    schema: pa.Schema

    def tables(self) -> Iterator[pa.Table]:
        """Read the rows, some at a time. Raises MissingFileError and CorruptFileError, naming the file."""
        for batch in read_unrecorded(open_storage(self.table_uri), self.path, self.schema.names):
            yield pa.Table.from_batches([batch]).cast(self.schema)

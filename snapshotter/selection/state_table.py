"""A table of what was selected or captured, whose rows Spark's tasks read in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa

from snapshotter.selection.captured_values import PLACE, CapturedValues
from snapshotter.spark.arrow_types import schema_in_spark
from snapshotter.spark.connect import require_workers
from snapshotter.storage import Storage, open_storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FIRST_DATE, LAST_DATE = date(1, 1, 1), date(9999, 12, 31)
_MOST_TASKS = 200  # years of days have many small files
FileOfTable: TypeAlias = dict[str, Any]  # of a task: the file, and the columns that are the same for all of its rows
ReadFile: TypeAlias = Callable[[Storage, FileOfTable], Iterator[pa.Table]]


class TableCall(NamedTuple):
    """A call in a query: of a table, with a name and the first and the last date."""

    table: str
    name: str
    first: date
    last: date

    def __str__(self) -> str:
        """The call as it is written."""
        dates = [] if self[2:] == (FIRST_DATE, LAST_DATE) else [self.first.isoformat(), self.last.isoformat()]
        return f"{self.table}({', '.join(map(repr, [self.name, *dates]))})"


@dataclass(frozen=True)
class StateTable:
    """A table that a query names.

    view: the name that replaces the call in the query
    schema: of what tasks read of each file at first
    files: a JSON object for each file
    sources: the ids of the context sets or runs that it reads, the earliest first
    values: of the column `value`, for rows with the columns of `PLACE`; None: there is no such column
    """

    view: str
    call: str
    schema: pa.Schema
    files: tuple[str, ...]
    sources: tuple[str, ...]
    read: ReadFile
    values: CapturedValues | None = None

    def to_spark(self, spark: SparkSession, storage_uri: str) -> DataFrame:
        """Return its rows, which tasks read in place; the JVM needs no access to the storage."""
        from pyspark.sql.pandas.types import from_arrow_schema

        schema, read = schema_in_spark(self.schema), self.read
        require_workers(spark)

        def read_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            storage = open_storage(storage_uri)
            for batch in batches:
                for text in batch.column("file").to_pylist():
                    for table in read(storage, json.loads(text)):
                        yield from table.cast(schema).to_batches(max_chunksize=65_536)

        if self.files:
            listed = spark.createDataFrame(pa.table({"file": pa.array(self.files, pa.string())}))
        else:  # Spark Connect makes no frame of a table without rows
            listed = spark.range(0).selectExpr("CAST(id AS STRING) AS file")
        tasks = max(1, min(len(self.files), _MOST_TASKS))
        frame = listed.repartition(tasks).mapInArrow(read_task, from_arrow_schema(schema))
        if self.values is None:
            return frame
        shown = [frame[name] for name in schema.names if name not in PLACE.names]
        return frame.select(*shown, self.values.column(storage_uri))

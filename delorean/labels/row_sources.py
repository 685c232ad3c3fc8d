"""Label rows of any source, and how their buckets are written."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import TIME_COLUMN
from delorean.labels.grouping import LabelGrouper
from schemas.errors import LabelError
from schemas.hashing import bucket_of
from snapshotter.storage import Storage
from snapshotter.storage.parquet import write_parquet

_ITEMS_IN_BUCKET = 400_000  # a bucket's labels, state and features then stay far below a worker's gigabyte
_MOST_BUCKETS = 4096


@dataclass(frozen=True)
class BucketWriter:
    """Writes label data bucket by bucket.

    columns: name at rest → name in the source
    variable: the context variable that rows are bucketed by
    """

    grouper: LabelGrouper
    columns: Mapping[str, str]
    variable: str
    folder: str

    def count_items(self, rows: pa.Table) -> int:
        """Count the items of rows that the grouper has cast."""
        if not self.grouper.grouped:
            return int(rows.num_rows)
        return int(pc.sum(pc.list_value_length(rows[self.grouper.items[0]])).as_py() or 0)

    def write(self, bucket: int, tables: Iterable[pa.Table], storage: Storage, attempt: int = 0) -> str | None:
        """Write the file of one bucket; None without rows.

        tables: grouped rows, sorted within and between the tables

        Returns a JSON object: file, items, earliest, latest.
        """
        items = 0
        times: list[int] = []

        def measured(table: pa.Table) -> list[pa.RecordBatch]:
            nonlocal items
            items += pc.sum(pc.list_value_length(table[self.grouper.items[0]])).as_py()
            bounds = pc.min_max(table[TIME_COLUMN].cast(pa.int64())).as_py()
            times.extend((bounds["min"], bounds["max"]))
            batches: list[pa.RecordBatch] = table.to_batches()
            return batches

        filled = map(measured, tables)
        first = next(filled, None)
        if first is None:
            return None
        path = f"{self.folder}/{bucket:05d}-{attempt}.parquet"
        batches = chain.from_iterable(chain([first], filled))
        file = write_parquet(storage, path, batches, self.grouper.schema, bucket)
        return json.dumps({"file": file.to_json(), "items": items, "earliest": min(times), "latest": max(times)})


@dataclass(frozen=True)
class WrittenBuckets:
    """The number of buckets, and what `BucketWriter.write` returned for each that has rows."""

    buckets: int
    results: list[str]


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
    def write(
        self, writer: BucketWriter, buckets: int | None, storage: Storage, report: Callable[[int, int], None]
    ) -> WrittenBuckets:
        """Read the rows once and write them in buckets. buckets: None: by the number of items."""


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

    def write(
        self, writer: BucketWriter, buckets: int | None, storage: Storage, report: Callable[[int, int], None]
    ) -> WrittenBuckets:
        """Write bucket after bucket."""
        rows = writer.grouper.cast(self.renamed(writer.columns))
        buckets = buckets or bucket_count(writer.count_items(rows))
        bucket_numbers = bucket_of(rows[writer.variable], buckets)
        rows = rows.take(np.argsort(bucket_numbers, kind="stable"))
        ends = np.cumsum(np.bincount(bucket_numbers, minlength=buckets))
        results = []
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            tables = [writer.grouper.group(rows.slice(start, end - start))] if end > start else []
            if (result := writer.write(bucket, tables, storage)) is not None:
                results.append(result)
            report(bucket + 1, buckets)
        return WrittenBuckets(buckets, results)

    def renamed(self, columns: Mapping[str, str]) -> pa.Table:
        """Return columns under other names. columns: new name → name in the source."""
        return self.table.select(list(columns.values())).rename_columns(list(columns))


def bucket_count(items: int) -> int:
    """Choose the number of buckets for a number of items."""
    buckets = 1
    while buckets < _MOST_BUCKETS and items > buckets * _ITEMS_IN_BUCKET:
        buckets *= 2
    return buckets

"""Label rows of any source, and how their buckets are written."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import TIME_COLUMN
from delorean.labels.bucket_rule import BucketRule
from delorean.labels.grouping import LabelGrouper
from delorean.labels.merge_report import StratumCounts
from delorean.labels.task_merge import TaskMerge
from schemas.errors import LabelError
from snapshotter.storage import Storage
from snapshotter.storage.parquet import write_parquet

_ITEMS_IN_BUCKET = 400_000  # a bucket's labels, state and features then stay far below a worker's gigabyte
_MOST_BUCKETS = 4096


@dataclass(frozen=True)
class BucketWriter:
    """Writes label data bucket by bucket.

    rule: how rows are bucketed
    merge: draws the samples of tasks and counts; None: label data of one use
    """

    grouper: LabelGrouper
    rule: BucketRule
    folder: str
    merge: TaskMerge | None = None

    @property
    def needs_survey(self) -> bool:
        """Whether all rows must be surveyed before the first bucket is written."""
        return self.merge is not None and self.merge.needs_survey

    def count_items(self, rows: pa.Table) -> int:
        """Count the items of rows that the grouper has cast."""
        if not self.grouper.grouped:
            return int(rows.num_rows)
        return int(pc.sum(pc.list_value_length(rows[self.grouper.items[0]])).as_py() or 0)

    def survey(self, tables: Iterable[pa.Table]) -> str:
        """Return what `with_draws` needs to know of the grouped rows of one bucket, as JSON."""
        assert self.merge is not None
        return json.dumps(self.merge.survey(tables))

    def with_draws(self, surveys: Iterable[str]) -> BucketWriter:
        """Return the writer that draws the samples. surveys: of all buckets."""
        assert self.merge is not None
        return replace(self, merge=self.merge.drawn(json.loads(survey) for survey in surveys))

    def write(self, bucket: int, tables: Iterable[pa.Table], storage: Storage, attempt: int = 0) -> str | None:
        """Write the file of one bucket; None without rows.

        tables: grouped rows, sorted within and between the tables

        Returns a JSON object: file, items, earliest, latest, of which file is null if no row was drawn; and the counts
        of a merge.
        """
        items, rows = 0, 0
        times: list[int] = []
        counts: list[StratumCounts] = []

        def taken(table: pa.Table) -> pa.Table:
            nonlocal rows
            rows += table.num_rows
            if self.merge is not None:
                table, more = self.merge.take(table)
                counts.extend(more)
            return table

        def measured(table: pa.Table) -> list[pa.RecordBatch]:
            nonlocal items
            items += pc.sum(pc.list_value_length(table[self.grouper.items[0]])).as_py()
            bounds = pc.min_max(table[TIME_COLUMN].cast(pa.int64())).as_py()
            times.extend((bounds["min"], bounds["max"]))
            batches: list[pa.RecordBatch] = table.to_batches()
            return batches

        filled = map(measured, (table for table in map(taken, tables) if table.num_rows))
        first = next(filled, None)
        file = None
        if first is not None:
            path = f"{self.folder}/{bucket:05d}-{attempt}.parquet"
            batches = chain.from_iterable(chain([first], filled))
            file = write_parquet(storage, path, batches, self.grouper.schema, bucket).to_json()
        if not rows:
            return None
        bounds = {"earliest": min(times, default=None), "latest": max(times, default=None)}
        return json.dumps({"file": file, "items": items, **bounds, "counts": [each.to_json() for each in counts]})


@dataclass(frozen=True)
class LabelSource:
    """Rows to be written, with others or alone.

    columns: name at rest → name in the source
    cast: casts its rows, under their names at rest, to those of the writer
    """

    rows: LabelRows
    columns: Mapping[str, str]
    cast: Callable[[pa.Table], pa.Table]


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

    @staticmethod
    @abstractmethod
    def write(
        sources: Sequence[LabelSource],
        writer: BucketWriter,
        buckets: int | None,
        storage: Storage,
        report: Callable[[int, int], None],
    ) -> WrittenBuckets:
        """Read the rows of sources of this kind once and write them in buckets.

        buckets: None: by the number of items
        """


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

    @staticmethod
    def write(
        sources: Sequence[LabelSource],
        writer: BucketWriter,
        buckets: int | None,
        storage: Storage,
        report: Callable[[int, int], None],
    ) -> WrittenBuckets:
        """Write bucket after bucket."""
        tables = [(source, source.rows) for source in sources]
        rows = pa.concat_tables(
            source.cast(own.renamed(source.columns)) for source, own in tables if isinstance(own, ArrowLabelRows)
        )
        buckets = buckets or bucket_count(writer.count_items(rows))
        numbers = writer.rule.buckets(rows, buckets)
        rows = rows.take(np.argsort(numbers, kind="stable"))
        ends = np.cumsum(np.bincount(numbers, minlength=buckets))

        def grouped(bucket: int) -> list[pa.Table]:
            start = int(ends[bucket - 1]) if bucket else 0
            part = rows.slice(start, int(ends[bucket]) - start)
            return [writer.grouper.group(part)] if part.num_rows else []

        drawing = writer.with_draws(map(writer.survey, map(grouped, range(buckets)))) if writer.needs_survey else writer
        results = []
        for bucket in range(buckets):
            if (result := drawing.write(bucket, grouped(bucket), storage)) is not None:
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

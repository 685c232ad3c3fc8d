"""Writes label data in buckets, once, so that generation never has to move it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import TIME_COLUMN, LabelColumns, Labels, check_new_id, new_folder, new_labels_id, save_labels
from delorean.labels.bucket_rule import BucketRule
from delorean.labels.layout import LabelLayout
from delorean.labels.merge_report import StratumCounts, added_counts
from delorean.labels.row_sources import ArrowLabelRows, BucketWriter, LabelRows, LabelSource
from delorean.labels.spark_rows import SparkLabelRows
from delorean.labels.task_layout import TaskLayout, TaskRows
from delorean.labels.task_merge import TaskMerge
from delorean.tasks.task_set import Sentinel
from schemas.errors import EmptyLabelsError
from schemas.hashing import check_bucket_count
from snapshotter.records import DataFile, from_micros
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage


def materialise_labels(
    rows: Any,
    columns: LabelColumns,
    storage: Storage,
    *,
    labels_id: str | None = None,
    named: bool = True,
    bucket_variable: str | None = None,
    buckets: int | None = None,
    source: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Labels:
    """Group label data by context and time and write it in buckets, sorted.

    rows: a Spark DataFrame, or anything Arrow reads (pyarrow, Polars, pandas, DuckDB); one row for each item, or
        already grouped: one row for each context and time with lists of items and labels. The items of ungrouped rows
        are sorted, so that the result does not depend on how the rows were distributed
    labels_id: None: a new id, of label data that a vacuum deletes once no recorded run and no feature set refers to it
    named: False: a vacuum treats the label data as if it had no id of its own, because no person chose it
    bucket_variable: the variable that snapshots are bucketed by too; None: the first suitable context variable
    buckets: a power of two; None: by size
    source: where the rows come from, recorded with the label data
    progress: called with (what is written, buckets done, all); None: a bar in a notebook or at a prompt

    Where another process publishes the same under the same id meanwhile, the result is what it published.

    Raises ConfigError for an id that cannot name a folder or is taken, before any work, unless it is taken meanwhile;
    ParadoxError for an outcome not later than its time, LabelError for nulls, repeated rows or missing columns,
    NaiveTimeError for times without a zone.
    """
    if labels_id is not None:
        check_new_id(labels_id, storage)
    if buckets is not None:
        check_bucket_count(buckets)
    layout = LabelLayout(_rows_of(rows), columns)
    variable = layout.bucket_variable(bucket_variable)
    named = named and labels_id is not None
    labels_id = labels_id or new_labels_id()
    sources = [LabelSource(layout.rows, layout.names, layout.grouper.cast)]
    writer = BucketWriter(layout.grouper, BucketRule(variable), new_folder(labels_id))
    written, _ = _write_buckets(sources, writer, labels_id, buckets, storage, progress)
    labels = layout.labels(
        labels_id=labels_id,
        bucket_variable=variable,
        source=dict(source or {}),
        named=named,
        **written,
    )
    return save_labels(labels, storage)


def materialise_tasks(
    tasks: Sequence[TaskRows],
    storage: Storage,
    *,
    sentinels: Mapping[str, Sentinel] | None = None,
    labels_id: str | None = None,
    named: bool = True,
    bucket_variable: str | None = None,
    buckets: int | None = None,
    source: Mapping[str, Any] | None = None,
    complete: bool = True,
    progress: Progress | None = None,
) -> Labels:
    """Merge the label data of several tasks: draw each task's sample, and write all in buckets as one.

    The rows get the variable `task_type`, and for each variable that their task lacks its sentinel. Labels that it
    lacks are unknown (NaN) there, weights 1 and columns that are carried along null. Where a task has a sample, rows
    carry `inclusion_probability`, multiplied by the task's own column of that name.

    tasks: all from Spark, or none
    sentinels: variable → what stands for it in tasks that lack it
    complete: whether each task must have rows, and still have some when its sample is drawn

    Other arguments and errors are those of `materialise_labels`. Also raises LabelError for types that do not fit each
    other, and sentinels that do not fit or are real values; EmptyLabelsError that names a task without rows.
    """
    if labels_id is not None:
        check_new_id(labels_id, storage)
    if buckets is not None:
        check_bucket_count(buckets)
    layout = TaskLayout([(task, _rows_of(task.rows)) for task in tasks], sentinels or {})
    rule = layout.bucket_rule(bucket_variable)
    named = named and labels_id is not None
    labels_id = labels_id or new_labels_id()
    sources = [LabelSource(own.rows, own.names, layout.caster(place)) for place, own in enumerate(layout.layouts)]
    samples = {task.task: task.sample for task in tasks if task.sample is not None}
    merge = TaskMerge(layout.tasks, layout.shape, samples)
    writer = BucketWriter(layout.grouper, rule, new_folder(labels_id), merge)
    written, counts = _write_buckets(sources, writer, labels_id, buckets, storage, progress)
    merged = added_counts(counts, layout.tasks.names)
    if complete:
        _require_rows(layout.tasks.names, merged)
    labels = layout.labels(
        labels_id=labels_id,
        bucket_variable=rule.variable,
        source=dict(source or {}),
        named=named,
        merged=merged,
        **written,
    )
    return save_labels(labels, storage)


def _require_rows(tasks: Sequence[str], counts: Sequence[StratumCounts]) -> None:
    for task in tasks:
        contexts = sum(each.contexts for each in counts if each.task == task)
        if not contexts:
            raise EmptyLabelsError.because(
                f"task '{task}' has no label rows", "widen its query, or leave the task out until it has some"
            )
        if not any(each.kept_contexts for each in counts if each.task == task):
            raise EmptyLabelsError.because(
                f"the sample of task '{task}' takes none of its {contexts:,} contexts", "raise its quota or fraction"
            )


def _write_buckets(
    sources: Sequence[LabelSource],
    writer: BucketWriter,
    labels_id: str,
    buckets: int | None,
    storage: Storage,
    progress: Progress | None,
) -> tuple[dict[str, Any], list[StratumCounts]]:
    """Write the rows. Returns the fields of `Labels` that they determine, and the counts of a merge.

    Raises EmptyLabelsError if no row is written.
    """
    kind = type(sources[0].rows)
    with shown_progress(progress) as shown:
        report = partial(shown, f"labels {labels_id}, buckets")
        written = kind.write(sources, writer, buckets, storage, report)
    results = [json.loads(result) for result in written.results]
    counts = [StratumCounts.from_json(each) for result in results for each in result["counts"]]
    results = [result for result in results if result["file"] is not None]
    if not results:
        if counts:
            _require_rows(sorted({each.task for each in counts}), counts)
        raise EmptyLabelsError.because("label data has no rows", "widen its query, or wait for them")
    files = (DataFile.from_json(result["file"]) for result in results)
    fields = {
        "buckets": written.buckets,
        "files": tuple(sorted(files, key=lambda file: file.bucket)),
        "item_count": sum(result["items"] for result in results),
        "earliest": from_micros(min(result["earliest"] for result in results)),
        "latest": from_micros(max(result["latest"] for result in results)),
    }
    return fields, counts


def group_labels(rows: Any, columns: LabelColumns) -> tuple[Labels, pa.Table]:
    """Group label data in memory as one bucket, writing nothing: to preview features, not for training sets.

    rows: as `materialise_labels` takes them, except that Spark's must be converted to Arrow first

    Raises what `materialise_labels` does.
    """
    source = ArrowLabelRows(rows)
    layout = LabelLayout(source, columns)
    if not source.table.num_rows:
        raise EmptyLabelsError.because("label data has no rows", "pass at least one")
    grouped = layout.grouper.cast_and_group(source.renamed(layout.names))
    times = pc.min_max(grouped[TIME_COLUMN].cast(pa.int64())).as_py()
    labels = layout.labels(
        labels_id="in memory",
        bucket_variable=layout.bucket_variable(None),
        buckets=1,
        files=(),
        item_count=len(grouped[layout.shape.items[0].name].combine_chunks().flatten()),
        earliest=from_micros(times["min"]),
        latest=from_micros(times["max"]),
    )
    return labels, grouped


def _rows_of(source: Any) -> LabelRows:
    """Read label rows from Spark, or from anything that Arrow reads. Raises LabelError."""
    return SparkLabelRows(source) if type(source).__module__.startswith("pyspark.") else ArrowLabelRows(source)

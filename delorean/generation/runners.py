"""Runs the bucket tasks of a generation in this process or on Spark's executors, which import only this module."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from delorean.feature_sets.bucket_result import BucketOutcome
from delorean.generation.copied_bucket import run_task
from delorean.generation.generation_plan import GenerationPlan
from delorean.state.shared_array import folder_of_executor, share_in
from schemas.errors import EncoderError
from snapshotter.records import DataFile
from snapshotter.spark.connect import require_workers
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, parallelism, reported_tasks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TASKS_PER_CORE = 4


def run_here(
    plan: GenerationPlan, files: Sequence[DataFile], folder: str, report: Callable[[int, int], None]
) -> list[BucketOutcome]:
    """Run the bucket tasks of label files one after the other in this process, without a JVM."""
    outcomes = []
    for file in files:
        outcomes.append(run_task(plan, file, folder, "0"))
        report(len(outcomes), len(files))
    return outcomes


def run_on_spark(
    spark: SparkSession,
    plan: GenerationPlan,
    files: Sequence[DataFile],
    folder: str,
    report: Callable[[int, int], None],
) -> list[BucketOutcome]:
    """Run the bucket tasks of label files on Spark, several in each Spark task.

    There are enough Spark tasks to keep every core busy to the end, and few enough for their cost not to matter. Each
    bucket's part of the plan is serialised by itself: a Spark task reads those of its own buckets only.
    """
    require_workers(spark)
    parts = [pickle.dumps((plan.of_bucket(file.bucket), file)) for file in files]
    tasks = min(len(parts), _TASKS_PER_CORE * parallelism(spark))
    with (
        reported_tasks(spark, tasks, len(parts), report),
        described(spark, f"generate features: {len(parts)} buckets"),
        spark_errors_as(EncoderError, "generating features"),
    ):

        def run_tasks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            from pyspark import TaskContext

            _keep_imports()
            share_in(folder_of_executor())
            context = TaskContext.get()
            assert context is not None
            attempt = str(context.taskAttemptId())
            positions = [position for batch in batches for position in batch.column(0).to_pylist()]
            for position in positions:
                part, file = pickle.loads(parts[position])  # noqa: S301  # from our driver
                outcome = run_task(part, file, folder, attempt)
                yield pa.RecordBatch.from_pydict({"outcome": [msgspec.json.encode(outcome).decode()]})

        rows = spark.range(0, len(parts), 1, tasks).mapInArrow(run_tasks, "outcome string").collect()
    return [msgspec.json.decode(row.outcome, type=BucketOutcome) for row in rows]


@cache
def _keep_imports() -> None:
    """Exempt imported objects from garbage collection, once for each process.

    Spark's workers collect after every task, and visiting every imported object takes longer than a small task.
    """
    gc.freeze()

"""Runs the bucket tasks of a generation in this process or on Spark's executors, which import only this module."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from delorean.feature_sets.bucket_result import BucketResult
from delorean.generation.copied_bucket import run_task
from delorean.generation.generation_plan import GenerationPlan
from delorean.state.shared_array import folder_of_executor, share_in
from schemas.errors import EncoderError
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, reported_tasks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TASKS_PER_CORE = 4


def run_here(plan: GenerationPlan, folder: str, report: Callable[[int, int], None]) -> list[BucketResult]:
    """Run the bucket tasks one after the other in this process, without a JVM."""
    results = []
    for file in plan.labels.files:
        results.append(run_task(plan, file, folder, "0"))
        report(len(results), len(plan.labels.files))
    return results


def run_on_spark(
    spark: SparkSession, plan: GenerationPlan, folder: str, report: Callable[[int, int], None]
) -> list[BucketResult]:
    """Run the bucket tasks on Spark, several in each Spark task.

    There are enough Spark tasks to keep every core busy to the end, and few enough for their cost not to matter.
    """
    buckets = len(plan.labels.files)
    tasks = min(buckets, _TASKS_PER_CORE * spark.sparkContext.defaultParallelism)
    with (
        reported_tasks(spark, tasks, buckets, report),
        described(spark, f"generate features: {buckets} buckets"),
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
                result = run_task(plan, plan.labels.files[position], folder, attempt)
                yield pa.RecordBatch.from_pydict({"result": [msgspec.json.encode(result).decode()]})

        rows = spark.range(0, buckets, 1, tasks).mapInArrow(run_tasks, "result string").collect()
    return [msgspec.json.decode(row.result, type=BucketResult) for row in rows]


@cache
def _keep_imports() -> None:
    """Exempt imported objects from garbage collection, once for each process.

    Spark's workers collect after every task, and visiting every imported object takes longer than a small task.
    """
    gc.freeze()

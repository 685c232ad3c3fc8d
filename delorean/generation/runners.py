"""Where the bucket tasks of a generation run: in this process, or on executors, which import no more than this."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from delorean.feature_sets.bucket_result import BucketResult
from delorean.generation.bucket_task import run_bucket
from delorean.generation.plan import GenerationPlan
from delorean.state.shared_array import folder_of_executor, share_in
from schemas.errors import EncoderError
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, reported_tasks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TASKS_PER_CORE = 4


def in_process(plan: GenerationPlan, folder: str, report: Callable[[int, int], None]) -> list[BucketResult]:
    """Run one bucket task after the other here, without a JVM."""
    results = []
    for file in plan.labels.files:
        results.append(run_bucket(plan, file, folder, "0"))
        report(len(results), len(plan.labels.files))
    return results


def over_spark(
    spark: SparkSession, plan: GenerationPlan, folder: str, report: Callable[[int, int], None]
) -> list[BucketResult]:
    """Spread the bucket tasks over Spark: a few to a task.

    There are enough tasks for every core to be busy to the end, and few enough to cost nothing.
    """
    buckets = len(plan.labels.files)
    tasks = min(buckets, _TASKS_PER_CORE * spark.sparkContext.defaultParallelism)
    with (
        reported_tasks(spark, tasks, buckets, report),
        described(spark, f"generate features: {buckets} buckets"),
        spark_errors_as(EncoderError, "generating features"),
    ):

        def run_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            from pyspark import TaskContext

            _keep_imports()
            share_in(folder_of_executor())
            context = TaskContext.get()
            assert context is not None
            attempt = str(context.taskAttemptId())
            positions = [position for batch in batches for position in batch.column(0).to_pylist()]
            for position in positions:
                result = run_bucket(plan, plan.labels.files[position], folder, attempt)
                yield pa.RecordBatch.from_pydict({"result": [json.dumps(result.to_json())]})

        rows = spark.range(0, buckets, 1, tasks).mapInArrow(run_task, "result string").collect()
    return [BucketResult.from_json(json.loads(row.result)) for row in rows]


@cache
def _keep_imports() -> None:
    """Exempt what is imported from the search for garbage, once for each process.

    Spark's workers search after every task, which takes longer than a small task itself
    while every imported object is looked at.
    """
    gc.freeze()

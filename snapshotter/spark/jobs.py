"""Descriptions of Spark jobs in Spark's user interface, and how many of their tasks are finished."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prana_proxy.supervised import SupervisedThread
from snapshotter.spark.connect import is_remote

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

_DESCRIPTION = "spark.job.description"
_POLL_SECONDS = 0.2
_MANY_ROWS = 1 << 16


def parallelism(spark: SparkSession) -> int:
    """Return the number of tasks that a session runs at the same time."""
    if not is_remote(spark):
        return int(spark.sparkContext.defaultParallelism)
    # What a server does not say shows in the number of tasks that it makes of rows.
    return spark.range(_MANY_ROWS).selectExpr("spark_partition_id() AS task").distinct().count()


@contextmanager
def described(spark: SparkSession, description: str) -> Iterator[None]:
    """Set the description of the jobs that this thread starts within the block; then restore the caller's.

    On a Spark Connect server, where sessions cannot set it, its name for the operation stays.
    """
    if is_remote(spark):
        yield
        return
    context = spark.sparkContext
    before = context.getLocalProperty(_DESCRIPTION)
    context.setLocalProperty(_DESCRIPTION, description)
    try:
        yield
    finally:
        context.setLocalProperty(_DESCRIPTION, before)  # type: ignore[arg-type]  # None removes it


@contextmanager
def reported_tasks(
    spark: SparkSession, tasks: int, total: int, report: Callable[[int, int], None], *, after_shuffle: bool = False
) -> Iterator[None]:
    """Report, while this thread waits for a job within the block, how much of the work its finished tasks have done.

    tasks: of the job's last stage, by which it is recognised
    total: the amount of work, which the tasks share evenly
    report: called with the amount done and the total, from another thread; at the end of the block with all done
    after_shuffle: whether that stage reads a shuffle: then a stage of as many tasks that writes it does not count

    Spark is asked by a job tag, not a job group: tags add to those of the caller, who may cancel by a group. A Spark
    Connect server reports by itself.
    """
    if is_remote(spark):
        with _remote_tasks(spark, tasks, total, report, after_shuffle):
            yield
        report(total, total)
        return
    context, tag, reported = spark.sparkContext, f"delorean-{uuid.uuid4().hex}", 0

    def poll() -> None:
        nonlocal reported
        finished = _finished_tasks(context, tag, tasks, after_shuffle)
        done = min(finished * total // max(tasks, 1), total - 1)  # the last is done when its result has arrived
        if done > reported:
            reported = done
            report(done, total)

    context.addJobTag(tag)
    try:
        with SupervisedThread.every(_POLL_SECONDS, "progress of Spark's tasks", poll):
            yield
    finally:
        context.removeJobTag(tag)
    report(total, total)


@contextmanager
def _remote_tasks(
    spark: SparkSession, tasks: int, total: int, report: Callable[[int, int], None], after_shuffle: bool
) -> Iterator[None]:
    reported = 0

    def handle(stages: Iterable[Any] | None, inflight_tasks: int, operation_id: str | None, done: bool) -> None:  # noqa: ARG001  # called by name
        nonlocal reported
        known = sorted(stages or (), key=lambda stage: stage.stage_id)
        if not known or known[-1].num_tasks != tasks or (after_shuffle and len(known) < 2):
            return
        now = min(known[-1].num_completed_tasks * total // max(tasks, 1), total - 1)
        if now > reported:
            reported = now
            report(now, total)

    remote: Any = spark
    remote.registerProgressHandler(handle)
    try:
        yield
    finally:
        remote.removeProgressHandler(handle)


def _finished_tasks(context: SparkContext, tag: str, tasks: int, after_shuffle: bool) -> int:
    """Count the finished tasks of the newest job's last stage."""
    jvm_context: Any = context._jsc
    tracker = context.statusTracker()
    for job in sorted(jvm_context.sc().statusTracker().getJobIdsForTag(tag), reverse=True):
        info = tracker.getJobInfo(job)
        if info is None or (after_shuffle and len(info.stageIds) < 2):
            continue
        stage = tracker.getStageInfo(max(info.stageIds))
        if stage is not None and stage.numTasks == tasks:
            return int(stage.numCompletedTasks)
    return 0

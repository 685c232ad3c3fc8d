from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from snapshotter.spark import jobs
from snapshotter.spark.jobs import described, reported_tasks

TASKS = 6
PATIENCE = 300.0


def held(frame: DataFrame, folder: Path) -> DataFrame:
    """Let each task that has rows wait until its number is in the folder; the first waits for none."""
    place = str(folder)

    def hold(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        number = context.partitionId() if context is not None else 0
        end = time.monotonic() + PATIENCE
        while number and not (Path(place) / str(number)).exists() and time.monotonic() < end:
            time.sleep(0.01)
        yield from batches

    return frame.mapInArrow(hold, frame.schema)


def release_in_turn(folder: Path, reported: list[int], wanted: list[int]) -> threading.Thread:
    """Release one task after another, each when its predecessors were reported."""

    def release() -> None:
        for number, done in enumerate(wanted, 1):
            end = time.monotonic() + PATIENCE
            while done not in reported and time.monotonic() < end:
                time.sleep(0.01)
            (folder / str(number)).touch()

    thread = threading.Thread(target=release)
    thread.start()
    return thread


def without_last_but_one(reported: list[int], total: int) -> list[int]:
    """Leave out what is reported when all tasks are finished, but their results may still be on their way."""
    return [done for done in reported if done != total - 1]


@pytest.mark.parametrize("shuffled", [False, True])
def test_finished_tasks_are_reported_while_the_job_runs(spark: SparkSession, tmp_path: Path, shuffled: bool) -> None:
    reported: list[int] = []
    frame = spark.range(0, 600, 1, TASKS)
    if shuffled:  # the stage that writes the shuffle has as many tasks, and is no progress
        frame = frame.repartition(TASKS, "id")
    releasing = release_in_turn(tmp_path, reported, [20 * n for n in range(1, TASKS)])
    with reported_tasks(spark, TASKS, 120, lambda done, total: reported.append(done), after_shuffle=shuffled):
        held(frame, tmp_path).collect()
    releasing.join()
    assert without_last_but_one(reported, 120) == [20, 40, 60, 80, 100, 120]


def test_jobs_of_others_are_not_counted(spark: SparkSession) -> None:
    reported: list[tuple[int, int]] = []
    spark.range(0, 10, 1, TASKS).collect()
    with reported_tasks(spark, TASKS, TASKS, lambda *progress: reported.append(progress)):
        time.sleep(3 * jobs._POLL_SECONDS)
    assert reported == [(TASKS, TASKS)]


def test_reports_go_on_after_one_that_failed(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.01)
    reported: list[int] = []

    def report(done: int, _: int) -> None:
        reported.append(done)
        if len(reported) == 1:
            raise BrokenPipeError  # such as a terminal that is gone

    releasing = release_in_turn(tmp_path, reported, [10, 20])
    with reported_tasks(spark, 3, 30, report):
        held(spark.range(0, 30, 1, 3), tmp_path).collect()
    releasing.join()
    assert without_last_but_one(reported, 30) == [10, 20, 30]


def test_a_job_that_fails_is_not_reported_as_done(spark: SparkSession) -> None:
    reported: list[int] = []
    with pytest.raises(ZeroDivisionError), reported_tasks(spark, 2, 2, lambda done, _: reported.append(done)):
        raise ZeroDivisionError
    assert reported == []


def test_descriptions_are_those_of_the_block_and_then_the_callers(spark: SparkSession) -> None:
    context = spark.sparkContext
    context.setJobDescription("the caller's")
    try:
        with described(spark, "ours"):
            assert context.getLocalProperty("spark.job.description") == "ours"
        assert context.getLocalProperty("spark.job.description") == "the caller's"
    finally:
        context.setLocalProperty("spark.job.description", None)  # type: ignore[arg-type]  # None removes it

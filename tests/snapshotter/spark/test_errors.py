from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from schemas.errors import CorruptFileError, DeloreanError, SelectionError, ServiceError, StorageError
from snapshotter.spark.errors import spark_errors_as


def fail_in_a_worker(spark: SparkSession, error: Exception, cause: Exception | None = None) -> None:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from ()
        raise error from cause

    spark.range(1).mapInArrow(work, "id BIGINT").collect()


def test_a_workers_own_error_reaches_the_driver_as_it_was(spark: SparkSession) -> None:
    cause = StorageError.because("the cause")
    with (
        pytest.raises(CorruptFileError) as raised,
        spark_errors_as(ServiceError, "run 'r1'"),
    ):
        fail_in_a_worker(spark, CorruptFileError.because("'a: b.parquet' is broken", "restore it"), cause)
    assert type(raised.value) is CorruptFileError
    assert str(raised.value) == "'a: b.parquet' is broken → restore it"


def test_any_other_error_of_a_worker_is_given_in_short(spark: SparkSession) -> None:
    with pytest.raises(ServiceError) as raised, spark_errors_as(ServiceError, "run 'r1'"):
        fail_in_a_worker(spark, ZeroDivisionError("by nought"))
    assert str(raised.value) == "run 'r1': ZeroDivisionError: by nought"


def test_errors_that_are_not_sparks_pass(spark: SparkSession) -> None:
    with pytest.raises(KeyError), spark_errors_as(DeloreanError, "run"):
        raise KeyError


def test_an_error_in_a_query_is_raised_without_its_stack_on_stderr_and_others_are_logged_as_before(
    spark: SparkSession, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SelectionError, match=r"\[UNRESOLVED_COLUMN") as raised, spark_errors_as(SelectionError, "q"):
        spark.sql("SELECT nope FROM range(3)")
    assert "\n" not in str(raised.value)
    assert "SQLQueryContextLogger" not in capfd.readouterr().err
    with pytest.raises(AnalysisException, match=r"\[UNRESOLVED_COLUMN"):
        spark.sql("SELECT nope FROM range(3)")
    assert logging.getLogger("SQLQueryContextLogger").isEnabledFor(logging.ERROR)

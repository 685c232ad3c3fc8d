"""Fits XGBoost's trees in Spark tasks, each on a share of a feature set that need not fit into one machine's memory.

Each task reads its own files of the Delta table in Arrow, so that no feature crosses the JVM; the tasks add their
histograms by XGBoost's communicator (Chen and Guestrin 2016, section 5). With the same version of the feature set
and the same number of workers, the trees have the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from delorean.ranking_data.feature_set_reader import FeatureSetSource
from delorean.ranking_data.split import Split
from delorean.step_timer import StepTimer
from delorean.training.fitting import Measuring, TrainedModel, measured
from delorean.training.learners.boosting import imported
from delorean.training.learners.xgboost import XGBoost, XGBoostModel
from delorean.training.shared_fit import fit_share
from schemas.errors import TrainingError
from snapshotter.spark.connect import require_workers
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, parallelism
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def train_on_spark(
    spark: SparkSession,
    source: FeatureSetSource,
    split: Split,
    learner: XGBoost,
    workers: int,
    measuring: Measuring | None = None,
) -> TrainedModel:
    """Fit trees in `workers` Spark tasks that run at the same time, and measure them in this process.

    source: its `max_items` bound only what this process reads, to measure the model and fit the baselines
    measuring: how the model is measured

    Raises TrainingError: more workers than the session runs tasks at a time, or than the feature set has files, or
    what `train` raises.
    """
    timer, measuring = StepTimer(), measuring or Measuring()
    _require_slots(spark, source, workers)
    learner.check()
    fixed = source.at_fixed_times(split)
    with timer.step("fit"):
        model, sizes = _fit(spark, source, fixed, learner, workers)
    with timer.step("read"):
        parts = source.parts(fixed)
    trained = measured(learner, model, parts, split, measuring, timer)
    report = msgspec.structs.replace(trained.report, sizes={**trained.report.sizes, "fitted": sizes})
    return replace(trained, report=report)


def _require_slots(spark: SparkSession, source: FeatureSetSource, workers: int) -> None:
    """Reject workers that would never all run, or have no files: Spark would wait for them for minutes."""
    slots = parallelism(spark)
    if workers > slots:
        raise TrainingError.because(
            f"{workers} workers fit together, and the Spark session runs {slots} tasks at the same time",
            f"write workers = {slots} in [model], or give the session more cores",
        )
    files = len(DeltaVersion.of(delta_table(source.uri, source.version), source.uri).files)
    if workers > files:
        raise TrainingError.because(
            f"{workers} workers fit together, and the feature set has {files} files, of which each needs one",
            f"write workers = {files} in [model], or label data in more buckets",
        )


def _fit(
    spark: SparkSession, source: FeatureSetSource, split: Split, learner: XGBoost, workers: int
) -> tuple[XGBoostModel, dict[str, int]]:
    """Return the model, and how many contexts and items it was fitted on."""
    require_workers(spark)

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        yield fit_share(source, split, learner, workers)

    with (
        described(spark, f"fit {learner.name} in {workers} tasks"),
        spark_errors_as(TrainingError, "fitting on Spark"),
    ):
        tasks = spark.range(0, workers, 1, workers)
        schema = "model binary, contexts long, items long"
        rows = tasks.mapInArrow(run, schema, barrier=True).collect()
    booster = imported("xgboost", "xgboost").Booster(model_file=bytearray(rows[0].model))
    sizes = {name: sum(row[name] for row in rows) for name in ("contexts", "items")}
    return XGBoostModel(booster), {**sizes, "workers": workers}

"""Fits XGBoost's trees in Spark tasks, each on a share of a feature set that need not fit into one machine's memory.

Each task reads its own files of the Delta table in Arrow, so that no feature crosses the JVM; the tasks add their
histograms by XGBoost's communicator (Chen and Guestrin 2016, section 5). With the same version of the feature set
and the same number of workers, the trees have the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.evaluation.measure import measure
from delorean.ranking_data.feature_set_reader import FeatureSetSource
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split
from delorean.step_timer import StepTimer
from delorean.training.fitting import Measuring, TrainedModel, measured
from delorean.training.learners.boosting import imported, learnable
from delorean.training.learners.xgboost import XGBoost, XGBoostModel
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

    def fit_share(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        yield _fit_share(source, split, learner, workers)

    with (
        described(spark, f"fit {learner.name} in {workers} tasks"),
        spark_errors_as(TrainingError, "fitting on Spark"),
    ):
        tasks = spark.range(0, workers, 1, workers)
        schema = "model binary, contexts long, items long"
        rows = tasks.mapInArrow(fit_share, schema, barrier=True).collect()
    booster = imported("xgboost", "xgboost").Booster(model_file=bytearray(rows[0].model))
    sizes = {name: sum(row[name] for row in rows) for name in ("contexts", "items")}
    return XGBoostModel(booster), {**sizes, "workers": workers}


def _fit_share(source: FeatureSetSource, split: Split, learner: XGBoost, workers: int) -> pa.RecordBatch:
    """Fit with the other tasks of the stage, and return the model, which is the same in each."""
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    number = context.partitionId()
    parts = source.share(split, number, workers)
    train = learnable(parts.train)
    learner = replace(learner, threads=learner.threads or context.cpus())
    targets = train.positive.astype(np.float32) if learner.target == "classes" else train.labels
    with _communicator(context, workers):
        metric = _common_metric(parts.validation)
        model = learner.fit_share(train, targets, parts.validation, metric, source.seed)
    content = bytes(model.fitted.save_raw("ubj"))
    return pa.RecordBatch.from_pydict(
        {"model": [content], "contexts": [len(train)], "items": [len(train.labels)]},
        schema=pa.schema([("model", pa.binary()), ("contexts", pa.int64()), ("items", pa.int64())]),
    )


@contextmanager
def _communicator(context: Any, workers: int) -> Iterator[None]:
    """Connect the tasks of a barrier stage; the first one's host is where they find each other."""
    from xgboost import config_context
    from xgboost.collective import CommunicatorContext
    from xgboost.core import XGBoostError
    from xgboost.tracker import RabitTracker

    number, tracker = context.partitionId(), None
    if number == 0:
        host = context.getTaskInfos()[0].address.rpartition(":")[0]
        tracker = RabitTracker(workers, host, sortby="task")
        tracker.start()
    message = json.dumps(tracker.worker_args()) if tracker is not None else ""
    arguments = json.loads(context.allGather(message)[0])
    try:
        with config_context(verbosity=0), CommunicatorContext(**arguments, dmlc_task_id=f"{number:06d}"):
            yield
        if tracker is not None:
            tracker.wait_for()  # until the others have left
    finally:
        if tracker is not None:
            with suppress(XGBoostError):  # of a worker that died: what it raised matters
                tracker.free()


def _common_metric(validation: RankingData) -> Callable[[NDArray[Any]], float]:
    """Return NDCG@10 over the validation parts of all workers: the mean weighs each by its contexts."""
    from xgboost.collective import Op, allreduce

    weight = _weight_of_measured(validation)

    def ndcg(scores: NDArray[Any]) -> float:
        own = measure(scores.astype(np.float32), validation).ndcg_at_10 if weight > 0 else 0.0
        total, weights = allreduce(np.array([own * weight, weight]), Op.SUM)
        return float(total / weights)

    return ndcg


def _weight_of_measured(validation: RankingData) -> float:
    """Return the weight of the contexts that NDCG is averaged over: those with a positive that counts."""
    counted = validation.positive
    if validation.own_item_weights is not None:
        counted = counted & (validation.own_item_weights > 0)
    contexts = np.unique(np.repeat(np.arange(len(validation)), np.diff(validation.offsets))[counted])
    return float(len(contexts) if validation.weights is None else validation.weights[contexts].sum())

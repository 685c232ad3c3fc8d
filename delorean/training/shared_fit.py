"""What each Spark task of a training does: fit its share together with the other tasks.

Executors import this, and neither scikit-learn nor what measures and converts models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.evaluation.measure import measure
from delorean.ranking_data.feature_set_reader import FeatureSetSource
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split
from delorean.training.learners.boosting import learnable
from delorean.training.learners.xgboost import XGBoost


def fit_share(source: FeatureSetSource, split: Split, learner: XGBoost, workers: int) -> pa.RecordBatch:
    """Fit with the other tasks of the stage, and return the model, which is the same in each."""
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    number = context.partitionId()
    parts = source.share(split, number, workers)
    train = learnable(parts.train)
    learner = replace(learner, threads=learner.threads or context.cpus())
    targets = train.positive.astype(np.float32) if learner.target == "classes" else train.labels
    with _communicator(context, workers), learner.translated_errors():
        metric = common_metric(parts.validation)
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


def common_metric(validation: RankingData) -> Callable[[NDArray[Any]], float]:
    """Return NDCG@10 of scores over the validation parts of all workers: the mean weighs each by its contexts.

    validation: this worker's part
    """
    from xgboost.collective import Op, allreduce

    weight = weight_of_measured(validation)

    def ndcg(scores: NDArray[Any]) -> float:
        own = measure(scores.astype(np.float32), validation).ndcg_at_10 if weight > 0 else 0.0
        total, weights = allreduce(np.array([own * weight, weight]), Op.SUM)
        return float(total / weights)

    return ndcg


def weight_of_measured(validation: RankingData) -> float:
    """Return the weight of the contexts that NDCG is averaged over: those with a positive that counts."""
    counted = validation.positive
    if validation.own_item_weights is not None:
        counted = counted & (validation.own_item_weights > 0)
    contexts = np.unique(np.repeat(np.arange(len(validation)), np.diff(validation.offsets))[counted])
    return float(len(contexts) if validation.weights is None else validation.weights[contexts].sum())

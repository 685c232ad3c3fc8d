"""Runs an experiment whole and records everything that was resolved on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from delorean.experiment.record import FeaturesRecord, LabelsRecord, RunRecord, library_versions, next_run_id, save_run
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.steps import features_of, labels_of, trained_of
from delorean.generation import FeatureSet
from delorean.generation.generate import Progress
from delorean.labels import Labels
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def run_experiment(
    experiment: ExperimentSpec,
    index: SnapshotIndex,
    storage: Storage,
    spark: SparkSession,
    *,
    training: bool = True,
    progress: Progress | None = None,
) -> RunRecord:
    """Put labels into buckets, generate features, train and measure the model, and record the run.

    training: False stops after the features
    progress: called with (buckets generated, all)

    Raises what the steps raise. A run that fails in training is recorded without metrics, since its features are there.
    """
    seconds: dict[str, float] = {}
    started_at = datetime.now(UTC)
    model = experiment.feature_model
    with _timed("labels", seconds):
        labels = labels_of(experiment, spark, storage)
    with _timed("features", seconds):
        features = features_of(experiment, labels, index, storage, spark, progress)
    metrics: dict[str, Any] | None = None
    try:
        if training:
            with _timed("training", seconds):
                report = trained_of(experiment, labels, features.uri, features.version).report
            metrics = report.to_json()["metrics"]
    finally:
        record = RunRecord(
            run_id=next_run_id(experiment.id, storage),
            experiment_id=experiment.id,
            name=experiment.name,
            started_at=started_at,
            spec=experiment.to_json(),
            seed=experiment.model.seed,
            labels=labels_record(labels),
            feature_model=json.loads(model.to_json()),
            snapshots={name: tuple(runs) for name, runs in features.lineage["snapshots"].items()},
            confidence=features.lineage["confidence"],
            globals={name: tuple(versions) for name, versions in features.lineage["globals"].items()},
            features=features_record(experiment.name, features),
            versions=library_versions(),
            seconds=seconds,
            notes=features.notes,
            metrics=metrics,
        )
        save_run(record, storage)
    return record


def labels_record(labels: Labels) -> LabelsRecord:
    """Say which label data it was."""
    tables = msgspec.to_builtins(labels.source).get("tables", {})
    return LabelsRecord(labels.labels_id, labels.contexts, labels.item_count, labels.files, tables)


def features_record(name: str, features: FeatureSet) -> FeaturesRecord:
    """Say which features came of it."""
    return FeaturesRecord(
        feature_set=name,
        version=features.version,
        rows=features.rows,
        items=features.item_count,
        dropped=features.dropped,
        absent=dict(features.absent),
        spread=tuple(features.spread.rows()),
        digest=features.digest,
    )


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)

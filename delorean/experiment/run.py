"""Runs an experiment whole and records everything that was resolved on the way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import msgspec

from delorean.experiment.libraries import library_versions
from delorean.experiment.record import (
    FeaturesRecord,
    LabelsRecord,
    RunRecord,
    named_run,
    named_run_id,
    save_run,
)
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.steps import features_of, labels_id_of, labels_of, trained_of
from delorean.generation import FeatureSet
from delorean.generation.named_run import NamedRun
from delorean.labels import Labels
from delorean.training import TrainingReport
from schemas.errors import ConfigError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)


def run_experiment(
    experiment: ExperimentSpec,
    index: SnapshotIndex,
    storage: Storage,
    spark: SparkSession | None = None,
    *,
    training: bool = True,
    run_id: str | None = None,
    day: date | None = None,
    progress: Progress | None = None,
) -> RunRecord:
    """Put labels into buckets, generate features, train and measure the model, and record the run.

    spark: None: in this process, without a JVM; then the label data must be at rest already, under the spec's id
    training: False stops after the features
    run_id: run again under the same id, a run that died goes on with what it read when it began, and one that has
        ended is given as it is. None: each is one of its own, with the next number
    day: what was known when it began, see `labels_of`; None: all that there is
    progress: called with (what is done, buckets generated, all); None: bars in a notebook or at a prompt

    Raises what the steps raise. A run that fails in training is recorded without metrics, since its features are there;
    one with an id is not, so that it can be run again.
    """
    if run_id is not None and (ended := _ended(experiment, run_id, storage, training, day)) is not None:
        return ended
    if run_id is not None:
        NamedRun(storage, experiment.name, run_id, {}).check()  # before the labels are put into buckets
    seconds: dict[str, float] = {}
    started_at = datetime.now(UTC)
    with _timed("labels", seconds):
        labels = labels_of(experiment, spark, storage, run_id, day)
    with _timed("features", seconds):
        features = features_of(experiment, labels, index, storage, spark, progress, run_id)
    report, failed = None, training
    try:
        if training:
            with _timed("training", seconds):
                report = trained_of(experiment, labels, features.uri, features.version).report
            failed = False
    finally:
        if run_id is None or not failed:
            record = record_run(experiment, labels, features, report, started_at, seconds, storage, run_id)
    return record


def _ended(
    experiment: ExperimentSpec, run_id: str, storage: Storage, training: bool, day: date | None
) -> RunRecord | None:
    """Give the record of the run with an id, if it has ended. Raises ConfigError if it was another run."""
    found = named_run(experiment, run_id, storage)
    if found is not None and found.labels.id != labels_id_of(experiment, run_id, day):
        raise ConfigError.because(
            f"run id '{run_id}' is taken: that run learnt from label data '{found.labels.id}', of another day",
            "give this one another run id",
        )
    if found is not None and training and found.metrics is None:
        raise ConfigError.because(
            f"run '{found.run_id}' has ended with its features, without training", "give this one another run id"
        )
    if found is not None:
        _log.warning("run '%s' has ended already: nothing is done", found.run_id)
    return found


def record_run(
    experiment: ExperimentSpec,
    labels: Labels,
    features: FeatureSet,
    report: TrainingReport | None,
    started_at: datetime,
    seconds: Mapping[str, float],
    storage: Storage,
    run_id: str | None = None,
) -> RunRecord:
    """Record what a run resolved and what came of it.

    report: None where nothing was trained; run_id: None: the next number
    """
    lineage = features.lineage
    record = RunRecord(
        run_id="",  # given when it is saved
        experiment_id=experiment.id,
        name=experiment.name,
        started_at=started_at,
        spec=experiment.to_json(),
        seed=experiment.model.seed,
        labels=labels_record(labels),
        feature_model=json.loads(experiment.feature_model.to_json()),
        snapshots={name: tuple(runs) for name, runs in lineage["snapshots"].items()},
        confidence=lineage["confidence"],
        globals={name: tuple(versions) for name, versions in lineage["globals"].items()},
        features=features_record(experiment.name, features),
        versions=library_versions(),
        seconds=dict(seconds),
        notes=features.notes,
        leaks=None if features.leaks is None else features.leaks.to_json(),
        metrics=None if report is None else report.to_json()["metrics"],
    )
    return save_run(record, storage, None if run_id is None else named_run_id(experiment, run_id))


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

"""Runs a whole experiment and records everything that the run resolved."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from delorean.experiment.day_features import features_of_day, is_incremental
from delorean.experiment.label_data import labels_id_of, labels_of
from delorean.experiment.label_quality import require_label_quality
from delorean.experiment.record import (
    FeaturesRecord,
    LabelsRecord,
    RunRecord,
    TrainingRecord,
    named_run,
    named_run_id,
    save_run,
)
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.steps import features_of, train_on
from delorean.feature_sets.parts import Part, parts_of
from delorean.feature_sets.table import FeatureSet
from delorean.generation.named_run import NamedRun
from delorean.labels import Labels, load_labels
from delorean.packaging.files import digest_of, read_files
from delorean.step_timer import StepTimer
from delorean.training.report import TrainingReport
from delorean.users import current_user
from schemas.errors import ConfigError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
# Results depend on these libraries.
_DISTRIBUTIONS = ("delorean-features", "numpy", "numba", "pyarrow", "polars", "pyspark", "deltalake", "scikit-learn")
_LEARNERS = ("lightgbm", "xgboost-cpu")


def run_experiment(
    experiment: ExperimentSpec,
    index: SnapshotIndex,
    storage: Storage,
    spark: SparkSession | None = None,
    *,
    training: bool = True,
    run_id: str | None = None,
    day: date | None = None,
    recompute: bool = False,
    progress: Progress | None = None,
) -> RunRecord:
    """Put labels into buckets, generate features, train and measure the model, and record the run.

    spark: None: in this process, without a JVM; the label data must then be at rest already, under the spec's id
    training: False stops after the features
    run_id: started again under the same id, a run that died continues with the inputs that it resolved when it began,
        and the record of one that has ended is returned. None: each call is a new run, with the next number
    day: only what was known when it began, see `labels_of`; None: everything
    recompute: copy no features from earlier versions of the feature set, see `delorean.generate`
    progress: called with (what is done, buckets generated, all); None: bars in a notebook or at a prompt

    Raises what the steps raise. A run that fails in training is recorded without metrics, because its features exist; a
    run with an id is not, so that it can be started again.
    """
    if run_id is not None:
        if (ended := _ended(experiment, run_id, storage, training, day)) is not None:
            return ended
        NamedRun(storage, experiment.name, run_id, {}).check()  # before the labels are put into buckets
    timer, started_at = StepTimer(), datetime.now(UTC)
    if day is not None and is_incremental(experiment, day):
        with timer.step("features"):
            features = features_of_day(experiment, day, index, storage, spark, progress, run_id, recompute=recompute)
        labels = load_labels(features.lineage["labels"], storage)
    else:
        with timer.step("labels"):
            labels = labels_of(experiment, spark, storage, run_id, day, index)
        with timer.step("features"):
            features = features_of(experiment, labels, index, storage, spark, progress, run_id, recompute)
    report = None
    try:
        if training:
            require_label_quality(experiment, labels, storage)
            with timer.step("training"):
                report = train_on(experiment, labels, features.uri, features.version, spark).report
    finally:
        if run_id is None or report is not None or not training:
            record = record_run(experiment, labels, features, report, started_at, timer.rounded(), storage, run_id, day)
    return record


def _ended(
    experiment: ExperimentSpec, run_id: str, storage: Storage, training: bool, day: date | None
) -> RunRecord | None:
    """Return the record of the run with an id, if it has ended. Raises ConfigError if the id is another run's."""
    record = named_run(experiment, run_id, storage)
    if record is None:
        return None
    if is_incremental(experiment, day) or record.labels.parts:
        same = record.labels.day == (None if day is None else day.isoformat())
    else:
        same = record.labels.id == labels_id_of(experiment, run_id, day)
    if not same:
        raise ConfigError.because(
            f"run id '{run_id}' is taken: that run learned from label data '{record.labels.id}', of another day",
            "choose another run id",
        )
    if training and record.metrics is None:
        raise ConfigError.because(
            f"run '{record.run_id}' has ended with its features, without training", "choose another run id"
        )
    _log.warning("run '%s' has already ended: nothing to do", record.run_id)
    return record


def record_run(
    experiment: ExperimentSpec,
    labels: Labels,
    features: FeatureSet,
    report: TrainingReport | None,
    started_at: datetime,
    seconds: Mapping[str, float],
    storage: Storage,
    run_id: str | None = None,
    day: date | None = None,
    training: TrainingRecord | None = None,
) -> RunRecord:
    """Record what a run resolved and its results.

    report: None where nothing was trained
    run_id: None: the next number
    day: that it was for
    training: the model; None: built from the report
    """
    if training is None and report is not None:
        training = training_record(report)
    lineage = features.lineage
    record = RunRecord(
        run_id="",  # set when it is saved
        experiment_id=experiment.id,
        name=experiment.name,
        started_at=started_at,
        spec=experiment.to_json(),
        seed=experiment.model.seed,
        labels=labels_record(labels, parts_of(lineage), day),
        feature_model=json.loads(experiment.feature_model.to_json()),
        snapshots={name: tuple(runs) for name, runs in lineage["snapshots"].items()},
        confidence=lineage["confidence"],
        globals={name: tuple(versions) for name, versions in lineage["globals"].items()},
        features=features_record(experiment.name, features),
        versions=_library_versions(),
        seconds=dict(seconds),
        notes=features.notes,
        leaks=None if features.leaks is None else features.leaks.to_json(),
        metrics=None if report is None else msgspec.to_builtins(report.metrics),
        owner=experiment.owner,
        training=training,
    )
    return save_run(record, storage, None if run_id is None else named_run_id(experiment, run_id))


def training_record(report: TrainingReport, package: Path | None = None, by: str | None = None) -> TrainingRecord:
    """Build the record of a trained model. package: its folder; by: who trained it, None: the current user."""
    digest = None if package is None else digest_of(read_files(package))
    folder = None if package is None else str(package)
    return TrainingRecord(report.model, by or current_user(), report.sizes, report.rounds, folder, digest)


def labels_record(labels: Labels, parts: Sequence[Part] = (), day: date | None = None) -> LabelsRecord:
    """Build the record of label data. parts: of a run for a day, the last of which has this label data."""
    tables = msgspec.to_builtins(labels.source).get("tables", {})
    contexts, items = sum(part.contexts for part in parts), sum(part.items for part in parts)
    if not parts:
        return LabelsRecord(labels.labels_id, labels.contexts, labels.item_count, labels.files, tables)
    of_day = None if day is None else day.isoformat()
    return LabelsRecord(labels.labels_id, contexts, items, labels.files, tables, len(parts), of_day)


def features_record(name: str, features: FeatureSet) -> FeaturesRecord:
    """Build the record of generated features."""
    return FeaturesRecord(
        feature_set=name,
        version=features.version,
        rows=features.rows,
        items=features.item_count,
        dropped=features.dropped,
        absent=dict(features.absent),
        spread=tuple(features.spread.rows()),
        digest=features.digest,
        copied=features.copied,
        impossible=tuple(features.impossible),
    )


def _library_versions() -> dict[str, str]:
    """Return the version of Python, and of each library that is installed."""
    versions = {"python": platform.python_version()}
    for name in (*_DISTRIBUTIONS, *_LEARNERS):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions

"""The quality of an experiment's label data, against that of its last recorded run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from delorean.experiment.label_data import labels_of
from delorean.experiment.record import newest_runs
from delorean.experiment.spec import ExperimentSpec
from delorean.label_quality.measure import measure_label_quality, require_quality
from delorean.label_quality.report import LabelQuality
from delorean.labels import Labels, find_labels, load_labels
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MOST_RUNS = 20  # records that are read to find earlier label data


def quality_of(
    experiment: ExperimentSpec,
    storage: Storage,
    *,
    spark: SparkSession | None = None,
    index: SnapshotIndex | None = None,
    against: str | None = None,
) -> LabelQuality:
    """Measure an experiment's label data by the limits of its spec.

    spark: makes the label data if it is not at rest; None: it must be at rest
    index: where `contexts('…')` and `captures('…')` in its query are looked up
    against: the id of earlier label data; None: that of the latest recorded run that learned from other label data, if
        it is still at rest

    Raises LabelError, also for an id that does not exist.
    """
    labels = labels_of(experiment, spark, storage, index=index)
    earlier = _last_of_runs(experiment, labels, storage) if against is None else load_labels(against, storage)
    return measure_label_quality(labels, storage, experiment.label_quality, earlier)


def require_label_quality(experiment: ExperimentSpec, labels: Labels, storage: Storage) -> None:
    """Raise QualityError if the spec has limits that must hold, and the label data breaks one."""
    limits = experiment.label_quality
    if limits.policy == "fail" and limits.limits:
        earlier = None if limits.max_change is None else _last_of_runs(experiment, labels, storage)
        require_quality(measure_label_quality(labels, storage, limits, earlier))


def _last_of_runs(experiment: ExperimentSpec, labels: Labels, storage: Storage) -> Labels | None:
    """Return the label data of the latest run that learned from other label data, None if it is not at rest."""
    for run in newest_runs(storage, _MOST_RUNS, experiment.name):
        if run.labels.id != labels.labels_id:
            earlier = find_labels(run.labels.id, storage)
            if earlier is not None:
                return earlier
    return None

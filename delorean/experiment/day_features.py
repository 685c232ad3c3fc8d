"""Features of a scheduled experiment for a day: label data of what is new, and the parts that earlier days computed."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from delorean.experiment.checks import check_spec
from delorean.experiment.label_data import materialise_queries, needs_spark
from delorean.experiment.spec import ExperimentSpec
from delorean.feature_sets.table import FeatureSet
from delorean.generation.day import generate_day
from delorean.generation.parts import PartSettings
from delorean.labels import Labels, made_once
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DATE = re.compile(r":date\b")
_LAYOUT = ("id", "bucket_variable", "buckets", "incremental")  # fields that do not change which rows there are


def is_incremental(experiment: ExperimentSpec, day: date | None) -> bool:
    """Whether features for a day are generated from what is new only.

    Not if the query names the day, because its old rows may differ, nor with a sample of a fixed size, which depends on
    all rows, nor without labels: then no outcome says when a row became known. What the query reads of the state only
    adds to what earlier days saw.
    """
    labels = experiment.label_spec
    return day is not None and labels.incremental and bool(labels.label_names) and not _DATE.search(labels.sql)


def features_of_day(
    experiment: ExperimentSpec,
    day: date,
    index: SnapshotIndex,
    storage: Storage,
    spark: SparkSession | None = None,
    progress: Progress | None = None,
    run_id: str | None = None,
    *,
    recompute: bool = False,
) -> FeatureSet:
    """Generate the experiment's features of everything that was known when a day began, UTC; see `generate_day`."""
    check_spec(experiment, run_id=run_id)
    settings = PartSettings(
        model=experiment.feature_model,
        index=index,
        storage=storage,
        name=experiment.name,
        rules=experiment.as_of,
        confidence=experiment.confidence,
        spread=experiment.spread,
        leaks=experiment.leaks,
        experiment=experiment.id,
        spec=experiment.to_json(),
        tasks=experiment.task_set,
        spark=spark,
        progress=progress,
    )
    fields = experiment.to_json()
    labels = {name: value for name, value in experiment.label_content.items() if name not in _LAYOUT}
    content = {"name": experiment.name, "labels": labels, "tables": fields.get("tables", {})}

    def labels_between(since: datetime | None, until: datetime) -> Labels:
        return _labels_between(experiment, content, spark, storage, index, since, until)

    return generate_day(settings, _begins(day), content, labels_between, run_id, recompute=recompute)


def _begins(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _labels_between(
    experiment: ExperimentSpec,
    content: dict[str, Any],
    spark: SparkSession | None,
    storage: Storage,
    index: SnapshotIndex,
    since: datetime | None,
    until: datetime,
) -> Labels:
    """Return label data of what became known between two moments, made once, under an id that they determine.

    until: the beginning of a day: what the query reads of the state, `contexts('…')` and `captures('…')`, is that of
        this day
    """
    key = json.dumps([content, None if since is None else since.isoformat(), until.isoformat()], sort_keys=True)
    labels_id = hashlib.sha256(key.encode()).hexdigest()[:12]

    def make() -> Labels:
        if spark is None:
            raise needs_spark(experiment)
        between = {"since": None if since is None else since.isoformat(), "until": until.isoformat()}
        queried = (spark, storage, index, until.date())
        return materialise_queries(
            experiment, queried, since=since, until=until, labels_id=labels_id, named=False, source=between
        )

    return made_once(labels_id, storage, make)

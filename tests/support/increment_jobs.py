"""Jobs of drivers that tests kill: a day of a feature set, a revision of a date's contexts, and looks at both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from driver_jobs import minutes_watched, pausing_at, spark_of_driver
from project_at_rest import START, Project, minutes

from delorean.experiment import load_experiment
from delorean.experiment.run import run_experiment
from delorean.feature_sets.digest import digest_rows
from delorean.feature_sets.parts import parts_of
from delorean.feature_sets.table import load_feature_set
from delorean.feature_sets.versions import feature_sets
from delorean.generation import generate
from delorean.generation.day import generate_day
from delorean.generation.parts import PartSettings
from delorean.labels import LabelColumns, Labels, made_once
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel
from schemas.tables import TIME
from snapshotter.capture import unpublished_files
from snapshotter.index import open_index
from snapshotter.records import ContextSet
from snapshotter.selection import NamedSelection, read_contexts, select_contexts
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.delta import delta_table
from snapshotter.storage.table_source import TableSource

DAY = 1440  # minutes
SHOWN, KNOWN = 60, 90  # minutes after the beginning of a day: of its label rows and of their outcomes


def shown(days: Sequence[int], profiles: int, videos: int) -> pa.Table:
    """Label rows: on each day, each profile was shown every video."""
    keys = [(day, profile, video) for day in days for profile in range(profiles) for video in range(videos)]
    day, profile, video = zip(*keys, strict=True)
    times = [START + timedelta(days=each) for each in day]
    return pa.table(
        {
            "profile_id": pa.array(profile, pa.int64()),
            "time": pa.array([at + timedelta(minutes=SHOWN) for at in times], TIME),
            "video_id": pa.array(video, pa.int64()),
            "label": pa.array([float(p * v % 7 % 2) for p, v in zip(profile, video, strict=True)], pa.float32()),
            "outcome_at": pa.array([at + timedelta(minutes=KNOWN) for at in times], TIME),
        }
    )


def lay_out_days(index: str, storage: str, days: int, profiles: int) -> None:
    """Publish a snapshot of each day: of the first videos a profile has watched so many minutes, and a day's number."""
    with open_index(index) as opened:
        project = Project(open_storage(storage), opened)
        for day in range(days):
            watched = [{"video_id": video, "minutes": float(video + day)} for video in range(4)]
            rows = [((p,), DAY * day + 5 + p, watched[: p % 5]) for p in range(profiles)]
            project.history(rows, f"day-{day}", 2)


def generate_a_day(
    index: str,
    storage: str,
    name: str,
    run_id: str,
    day: int,
    profiles: int,
    videos: int,
    hold: int = 0,
    pause: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Generate features of what was known when a day began. hold: pause with so many of the two buckets written."""
    place = open_storage(storage)

    def labels_between(since: datetime | None, until: datetime) -> Labels:
        first, end = (0 if since is None else _day(since)), _day(until)
        labels_id = f"days-{first}-to-{end}"
        return made_once(labels_id, place, lambda: _materialised(place, labels_id, range(first, end), profiles, videos))

    with open_index(index) as opened:
        model = FeatureModel([minutes_watched])
        settings = PartSettings(model, opened, place, name, rules={}, confidence={}, progress=pausing_at(hold, pause))
        made = generate_day(settings, minutes(DAY * day), {"table": "shown"}, labels_between, run_id)
    return {"version": made.version, "digest": asdict(made.digest)}


def _day(at: datetime) -> int:
    return (at - START).days


def _materialised(place: Storage, labels_id: str, days: Sequence[int], profiles: int, videos: int) -> Labels:
    columns, rows = LabelColumns(("video_id",)), shown(days, profiles, videos)
    return materialise_labels(rows, columns, place, labels_id=labels_id, named=False, buckets=2)


def generate_all_days(index: str, storage: str, name: str, days: int, profiles: int, videos: int) -> dict[str, Any]:
    """Generate features of all days at once, without parts, and give their digest."""
    place = open_storage(storage)
    labels = _materialised(place, name, range(days), profiles, videos)
    with open_index(index) as opened:
        made = generate(labels, FeatureModel([minutes_watched]), opened, place, name, recompute=True)
    return asdict(made.digest)


def run_a_day(index: str, storage: str, name: str, run_id: str, day: int, spec: str, connect: str) -> dict[str, Any]:
    """Run the experiment of a name for a day, on a Spark Connect server, without training."""
    place = open_storage(storage)
    with open_index(index) as opened:
        experiment = load_experiment(Path(spec), opened)
        assert experiment.name == name
        of_day = (START + timedelta(days=day)).date()
        spark = spark_of_driver(connect)
        record = run_experiment(experiment, opened, place, spark, training=False, run_id=run_id, day=of_day)
    return {"version": record.features.version, "digest": asdict(record.features.digest)}


def look_at_days(index: str, storage: str, name: str) -> dict[str, Any]:
    """Look at the newest version of a feature set: its parts, as days, its rows, and the digest that it records."""
    place = open_storage(storage)
    if name not in feature_sets(place):
        return {"version": None}
    features = load_feature_set(place, name)
    rows = features.to_arrow().sort_by([("time", "ascending"), ("profile_id", "ascending")])
    found = digest_rows(rows, features.context, features.items, features.features)
    assert found == features.digest
    return {
        "version": features.version,
        "parts": [
            [None if part.since is None else _day(part.since), _day(part.until)] for part in parts_of(features.lineage)
        ],
        "rows": rows.select(["profile_id", "time", "video_id", "minutes_watched"]),
        "digest": asdict(features.digest),
    }


def select_revision(
    index: str,
    storage: str,
    day: date,
    table: str,
    experiments: Sequence[str],
    connect: str,
    hold: bool = False,
    pause: Callable[[], None] | None = None,
) -> str:
    """Select what a date lacks of experiments, all of the same contexts, and give the id of its last revision.

    hold: pause when the revision's tables are written
    """
    chosen = [
        NamedSelection(
            id=name,
            query="SELECT profile_id, country FROM shown",
            key=("profile_id", "country"),
            strata=("country",),
            quota=7,
            tables={"shown": TableSource(table)},
        )
        for name in experiments
    ]
    with open_index(index) as opened:
        publish = opened.publish_context_set

        def publish_later(selected: ContextSet) -> bool:
            if hold and pause is not None:
                pause()
            return publish(selected)

        opened.publish_context_set = publish_later  # type: ignore[method-assign]  # the moment before it
        return select_contexts(spark_of_driver(connect), chosen, day, open_storage(storage), opened).context_set_id


def look_at_revisions(index: str, storage: str, day: date) -> list[dict[str, Any]]:
    """Look at what is selected for a date, to its last row, in its files and as the Delta tables that others read.

    What a vacuum would delete, however young, is none of it.
    """
    place, found = open_storage(storage), []
    with open_index(index) as opened:
        orphans = [file.path for file in unpublished_files(place, opened, datetime.now(UTC) + timedelta(hours=1))]
        for revision in opened.context_sets_of(day):
            [group] = revision.groups
            rows = read_contexts(group, place).to_pylist()
            assert len(delta_table(place.uri_of(group.table)).file_uris()) == len(group.files)
            assert not any(path.startswith(f"{group.table}/") for path in orphans)
            by = {name: [row["profile_id"] for row in rows if _chose(row, name)] for name in revision.experiments}
            found.append(
                {"id": revision.context_set_id, "number": revision.revision, "after": revision.after, "contexts": by}
            )
    return found


def _chose(row: dict[str, Any], experiment: str) -> bool:
    return any(each["experiment"] == experiment for each in row["experiments"])


JOBS: dict[str, Callable[..., Any]] = {
    "lay out days": lay_out_days,
    "generate a day": generate_a_day,
    "generate all days": generate_all_days,
    "run a day": run_a_day,
    "look at days": look_at_days,
    "select": select_revision,
    "look at revisions": look_at_revisions,
}

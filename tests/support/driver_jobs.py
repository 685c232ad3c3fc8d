"""The jobs of drivers that tests kill: they take snapshots, generate features, and look at what is visible.

Each runs in the driver's own process, see `driver_process`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from driver_process import MASTER, SETTINGS
from project_at_rest import HISTORY, Project, long_labels
from pyspark.sql import SparkSession

from delorean.feature_sets.table import open_table, table_uri
from delorean.feature_sets.versions import feature_sets
from delorean.generation import generate
from delorean.labels import LabelColumns, load_labels
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel, feature_encoder
from schemas.data_keys import context_variable
from snapshotter.capture import SnapshotOptions, take_snapshot
from snapshotter.index import open_index
from snapshotter.records import ContextSet
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.spark.session import spark_session
from snapshotter.storage import open_storage
from snapshotter.storage.delta_version import DeltaVersion
from snapshotter.storage.parquet import read_parquet, write_parquet


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context: Any, items: Any, data: Any, out: Any) -> None:
    """Minutes that the profile watched of each candidate."""
    for i in range(len(items.video_id)):
        out.minutes_watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes_watched[i] += data.history.minutes[j]


@cache
def spark_of_driver(connect: str | None = None) -> SparkSession:
    """Spark of this process, of the cluster that its environment names, or of a Spark Connect server at a URL."""
    if connect is not None:
        return spark_session("to be killed", connect)
    given: dict[str, str] = json.loads(os.environ.get(SETTINGS, "{}"))
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        **given,
    }
    named = {name.replace(".", "__"): value for name, value in settings.items()}
    return spark_session("to be killed", os.environ.get(MASTER, "local[2,2]"), **named)


def lay_out(index: str, storage: str, profiles: int, videos: int) -> None:
    """Publish a context set of so many profiles, and lay a snapshot and label data of theirs at rest.

    videos: of each label row
    """
    with open_index(index) as opened:
        project = Project(open_storage(storage), opened)
        key = (context_variable("profile_id", "int64"), context_variable("country", "string"))
        schema = context_set_schema(key)
        columns = {"profile_id": range(profiles), "country": ["US"] * profiles, "experiments": [[]] * profiles}
        table = pa.table(columns).cast(schema)
        file = write_parquet(project.storage, "context_sets/2026-01-05/0.parquet", table, schema)
        opened.publish_context_set(
            ContextSet.of_one_key("2026-01-05-test", date(2026, 1, 5), ("all",), key, (file,), ())
        )
        watched = [{"video_id": video, "minutes": float(video)} for video in range(4)]
        project.history([((p,), 10, watched[: p % 5]) for p in range(profiles)], "at-rest", 2)
        rows = long_labels([(p, 20, v, (p * v) % 7 % 2) for p in range(profiles) for v in range(videos)])
        materialise_labels(rows, LabelColumns(("video_id",)), project.storage, labels_id="labels", buckets=2)


def snapshot(
    index: str,
    storage: str,
    proxies: list[str],
    run_id: str,
    spark: bool = False,
    hold: bool = False,
    pause: Callable[[], None] | None = None,
) -> str:
    """Take a snapshot; every page of answers is on disk at once. hold: pause when the files are written."""
    with open_index(index) as opened:
        publish = opened.publish_run

        def publish_later(run: Any) -> bool:
            if hold and pause is not None:
                pause()
            return publish(run)

        opened.publish_run = publish_later  # type: ignore[method-assign]  # the moment before it
        contexts = opened.context_set(date(2026, 1, 5))
        session = spark_of_driver() if spark else None
        options = SnapshotOptions(buckets=2, page=4, keep_every=timedelta())
        taken = take_snapshot(session, contexts, ["history"], proxies, storage, opened, run_id, options)
        return taken.run_id


def pausing_at(hold: int, pause: Callable[[], None] | None) -> Callable[[str, int, int], None]:
    """Return a callback for progress that pauses once so many are done."""

    def progress(_: str, done: int, __: int) -> None:
        if done == hold and pause is not None:
            pause()

    return progress


def generate_features(
    index: str,
    storage: str,
    name: str,
    run_id: str,
    spark: bool = False,
    hold: int = 0,
    pause: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Generate features of the labels at rest. hold: pause with so many of the two buckets written."""
    place = open_storage(storage)
    with open_index(index) as opened:
        made = generate(
            *(load_labels("labels", place), FeatureModel([minutes_watched]), opened, place, name),
            run_id=run_id,
            spark=spark_of_driver() if spark else None,
            progress=pausing_at(hold, pause),
        )
    return {"version": made.version, "digest": asdict(made.digest)}


def look(index: str, storage: str, run_id: str) -> dict[str, Any]:
    """Look at all snapshots that are visible, as a stranger would, and at what one run has left."""
    return {"runs": _published(index, storage), "left": left(storage, run_id)}


def _published(index: str, storage: str) -> dict[str, Any]:
    """Every published run, read to its last row, checksums and all."""
    place, found = open_storage(storage), {}
    with open_index(index) as opened:
        for run in opened.runs():
            [taken] = run.services
            rows = [row for file in taken.files for row in read_parquet(place, file).to_pylist()]
            counts = {status.value: count for status, count in taken.counts.items() if count}
            found[run.run_id] = {"rows": _by_profile(rows), "counts": counts, "confidence": taken.confidence}
            assert opened.snapshots("history", datetime(2000, 1, 1, tzinfo=UTC), datetime.now(UTC))
    return found


def left(storage: str, run_id: str) -> dict[str, Any]:
    """The rows in whole files that a run has left, published or not."""
    place, found = open_storage(storage), []
    for file in place.list(f"snapshots/history/{run_id}"):
        if file.path.endswith(".parquet"):
            with place.open_input(file.path) as opened:
                found += pq.read_table(opened).to_pylist()
    return _by_profile(found)


def look_at_features(index: str, storage: str, name: str) -> dict[str, Any]:  # all jobs get both
    """Look at the newest version of a feature set, by deltalake, as any reader does."""
    place = open_storage(storage)
    if name not in feature_sets(place):
        return {"version": None}
    table = open_table(table_uri(place, name))
    rows = DeltaVersion.of(table, table_uri(place, name)).to_arrow().sort_by("profile_id")
    return {
        "version": table.version(),
        "features": dict(zip(rows["profile_id"].to_pylist(), rows["minutes_watched"].to_pylist(), strict=True)),
    }


def _by_profile(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(row["profile_id"]): [str(row["captured_at"]), row["value"]] for row in rows}


JOBS: dict[str, Callable[..., Any]] = {
    "lay out": lay_out,
    "snapshot": snapshot,
    "look": look,
    "generate": generate_features,
    "look at features": look_at_features,
}

"""Generation gives encoders the fallbacks that a snapshot kept, as serving does, and counts them as no successes."""

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest
from project_at_rest import HISTORY, PROFILE, START, Project, long_labels, minutes

from delorean import TimeMachine
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel, feature_encoder
from schemas.services import OnFallback, Service, Status
from schemas.tables import IS_FALLBACK, snapshot_schema
from snapshotter.index import open_index
from snapshotter.records import ServiceSnapshot, SnapshotRun
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

SERVICE = Service("history", HISTORY, (PROFILE,), OnFallback.VALUE)


@feature_encoder(data=[HISTORY], features=["entries"])
def entries(context, items, data, out):
    for i in range(len(items.video_id)):
        out.entries[i] = len(data.history.video_id) if data.history.present else -1.0


@pytest.fixture
def project(tmp_path):
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield Project(open_storage(f"file://{tmp_path}/data"), index)


def publish(project):
    """One profile answered, one with a fallback, one with nothing."""
    rows = [
        {
            "profile_id": 1,
            "captured_at": minutes(1),
            "value": [{"video_id": 1, "minutes": 1.0}] * 2,
            IS_FALLBACK: False,
        },
        {"profile_id": 2, "captured_at": minutes(2), "value": [{"video_id": 9, "minutes": 9.0}], IS_FALLBACK: True},
    ]
    schema = snapshot_schema(SERVICE)
    file = write_parquet(project.storage, "snapshots/history/r/0.parquet", pa.Table.from_pylist(rows, schema), schema)
    counts = {Status.OK: 1, Status.FALLBACK: 1, Status.TIMEOUT: 1}
    taken = ServiceSnapshot("r", SERVICE, "profile_id", 1, counts, minutes(1), minutes(2), (file,), {})
    assert project.index.publish_run(SnapshotRun("r", "set", START, (taken,)))
    return taken


def test_encoders_get_a_fallback_that_was_kept_and_confidence_does_not_count_it(project):
    publish(project)
    labels = materialise_labels(
        long_labels([(profile, 5, 7, 1) for profile in (1, 2, 3)]), LabelColumns(items=("video_id",)), project.storage
    )
    result = generate(labels, FeatureModel([entries]), project.index, project.storage, "f")
    rows = result.to_arrow().sort_by("profile_id").to_pylist()
    assert [row["entries"] for row in rows] == [[2.0], [1.0], [-1.0]]
    [run] = project.index.runs()
    assert run.services[0].confidence == pytest.approx(1 / 3)
    assert run.services[0].service.on_fallback is OnFallback.VALUE


def test_a_journey_shows_a_fallback_that_was_kept(project):
    publish(project)
    found = TimeMachine(project.index, project.storage).at(START + timedelta(minutes=5))["history"].to_arrow()
    assert found["profile_id"].to_pylist() == [1, 2]
    assert [len(value) for value in found["history" if "history" in found.column_names else "value"].to_pylist()] == [
        2,
        1,
    ]


def test_captures_by_either_setting_are_of_the_same_service():
    assert replace(SERVICE, on_fallback=OnFallback.ABSENT) == SERVICE
    assert Service.from_json(SERVICE.to_json()).on_fallback is OnFallback.VALUE
    old = {name: value for name, value in SERVICE.to_json().items() if name != "on_fallback"}
    assert Service.from_json(old).on_fallback is OnFallback.ABSENT

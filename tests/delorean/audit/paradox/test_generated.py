"""Feature sets that were really generated are clean, under any rules; what the index knows better is found."""

import json
from datetime import timedelta

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, MOOD, Project, long_labels, minutes

from delorean.audit.paradox import check_feature_set, source_checks
from delorean.feature_sets.table import lineage_of
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.state.rules import AsOf, SpreadLimit
from encoders import FeatureModel, feature_encoder, lookup
from schemas.data_keys import global_element
from schemas.errors import QualityError
from snapshotter.capture.global_elements import publish_global
from snapshotter.index import open_index
from snapshotter.records import END_OF_TIME, to_micros
from snapshotter.storage import open_storage

VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>")


@feature_encoder(data=[HISTORY, MOOD], features=["entries"])
def entries(context, items, data, out):
    for i in range(len(items.video_id)):
        if data.history.present and data.mood.present:
            out.entries[i] = len(data.history.video_id)


@feature_encoder(data=[VIDEOS], features=["year"])
def year(context, items, data, out):
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.year[i] = data.videos.year[row]


def publish_versions(project):
    for version, at in (("v1", 0), ("v2", 6)):
        table = pa.table({"video_id": [0, 1], "year": pa.array([2000 + at, 2001 + at], pa.int32())})
        publish_global(table, VIDEOS, minutes(at), project.storage, project.index, version)


def generated(project, labels, **options):
    materialised = materialise_labels(
        long_labels(labels), LabelColumns(items=("video_id",)), project.storage, buckets=4
    )
    model = FeatureModel([entries, year])
    return generate(materialised, model, project.index, project.storage, "f", **options)


captures = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=6, unique=True)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.tuples(st.sampled_from(["history", "mood"]), captures, st.integers(0, 3)), max_size=5),
    labels=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 1), st.integers(0, 1)),
        min_size=1,
        max_size=10,
        unique_by=lambda row: row[:3],
    ),
    age=st.one_of(st.none(), st.integers(3, 9)),
    lag=st.integers(0, 3),
    exact=st.booleans(),
    published=st.booleans(),
    spread=st.one_of(st.none(), st.tuples(st.integers(0, 5), st.sampled_from(["drop", "null"]))),
)
def test_what_is_generated_is_clean(runs, labels, age, lag, exact, published, spread, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    with open_index(f"sqlite://{folder}/index.db") as index:
        project = Project(open_storage(f"file://{folder}/store"), index)
        publish_versions(project)
        for order, (service, found, failed) in enumerate([("history", [(9, 0)], 0), ("mood", [(9, 0)], 0), *runs]):
            rows = [((profile,), at, "m" if service == "mood" else []) for profile, at in found]
            getattr(project, service)(rows, f"run-{order}", 1 + order % 2, failed)
        rule = AsOf(None if age is None else timedelta(minutes=age), timedelta(minutes=lag), exact)
        options = {
            "rules": {"history": rule, "videos": AsOf(lag=timedelta(minutes=lag), as_published=published)},
            "spread": SpreadLimit(timedelta(minutes=spread[0]), spread[1]) if spread else None,
        }
        try:
            made = generated(project, labels, **options)
        except QualityError:  # nothing is left of it
            return
        report = check_feature_set(made.uri, index=index)
    assert report.clean, report.findings
    assert (report.rows, report.items) == (made.rows, made.item_count)
    assert source_checks.INDEXED in report.checks
    assert all("published only after the row's time" in note for note in report.notes)


@pytest.fixture
def made(project):
    publish_versions(project)
    project.history([((p,), p, []) for p in range(4)], "h1")
    project.mood([((p,), 2, "m") for p in range(3)], "m1", failed=1)
    return generated(project, [(p, 9, v, v) for p in range(4) for v in range(2)])


def rewritten(made, change, lineage=None):
    """Write the rows again as the next version, changed."""
    rows = made.to_arrow().sort_by("profile_id").to_pylist()
    change(rows)
    found = {**lineage_of(made.uri), **(lineage or {})}
    table = pa.Table.from_pylist(rows, schema=made.to_arrow().schema)
    properties = CommitProperties(custom_metadata={"delorean": json.dumps(found)})
    write_deltalake(made.uri, table, mode="overwrite", commit_properties=properties)
    return made.uri


def test_a_backfilled_version_is_noted_and_no_failure(made, project):
    """It is valid from May and published when this test runs."""
    report = check_feature_set(made.uri, index=project.index)
    assert report.clean
    [note] = report.notes
    assert note.startswith("4 rows: videos was published only after the row's time, though valid from before it")
    assert "profile_id 0 at 2026-05-01 00:09:00Z: version v2, published" in note


def test_a_version_that_counts_from_when_it_was_published_is_captured_then(project):
    publish_versions(project)
    project.history([((0,), 0, [])], "h1")
    project.mood([((0,), 0, "m")], "m1")
    published = max(version.published_at for version in project.index.global_versions("videos", END_OF_TIME))
    after = (to_micros(published) - to_micros(minutes(0))) // 60_000_000 + 1
    rules = {"videos": AsOf(as_published=True)}
    made = generated(project, [(0, 9, 0, 1), (0, after, 0, 1)], rules=rules)
    assert sorted(made.to_arrow()["videos_version_id"].to_pylist(), key=str) == [None, "v2"]
    report = check_feature_set(made.uri, index=project.index)
    assert report.clean, report.findings
    assert report.notes == ()


PLANTED = {
    "a run that nobody published": (
        lambda rows: rows[1].update(history_run_id="h9"),
        {"snapshots": {"history": ["h1", "h9"], "mood": ["m1"]}, "confidence": {"history": {"h1": 1, "h9": 1}}},
        "the index has no run that captured history under the id it names",
        "profile_id 1 at 2026-05-01 00:09:00Z: history of run h9, captured 2026-05-01 00:01:00Z",
    ),
    "a run of another service": (
        lambda rows: rows[1].update(history_run_id="m1"),
        {"snapshots": {"history": ["h1", "m1"], "mood": ["m1"]}, "confidence": {"history": {"h1": 1, "m1": 1}}},
        "the index has no run that captured history under the id it names",
        "history of run m1",
    ),
    "a capture after the run's last": (
        lambda rows: rows[1].update(
            history_captured_at=minutes(4), spread_seconds=120.0, latest_input_at=minutes(6), confidence=0.75
        ),
        {},
        "history was captured before or after the run that served it",
        "history of run h1, captured 2026-05-01 00:04:00Z",
    ),
    "another confidence": (
        lambda rows: [row.update(confidence=0.9) for row in rows if row["mood_run_id"]],
        {"confidence": {"history": {"h1": 1.0}, "mood": {"m1": 0.9}}},
        "the lineage has another confidence of mood than the index",
        "run m1: the lineage says 0.9, the index 0.75",
    ),
    "a version that nobody published": (
        lambda rows: rows[1].update(videos_version_id="v9"),
        {"globals": {"videos": ["v1", "v2", "v9"]}},
        "videos is of a version that the index does not have",
        "version v9 of videos, captured 2026-05-01 00:06:00Z",
    ),
    "a version valid from another time": (
        lambda rows: rows[1].update(videos_version_id="v1"),
        {"globals": {"videos": ["v1", "v2"]}},
        "videos was captured at another time than its version is valid from",
        "version v1 of videos, captured 2026-05-01 00:06:00Z",
    ),
}


@pytest.mark.parametrize("flaw", PLANTED)
def test_what_the_index_does_not_confirm_is_found(flaw, made, project):
    change, lineage, what, example = PLANTED[flaw]
    confidence = lineage_of(made.uri)["confidence"]
    lineage = {**lineage, "confidence": {**confidence, **lineage.get("confidence", {})}}
    uri = rewritten(made, change, lineage)
    found = {finding.what: finding for finding in check_feature_set(uri, index=project.index).findings}
    assert list(found) == [what]
    assert example in found[what].example
    assert check_feature_set(uri).clean  # by itself it looks right


def test_the_check_reads_the_version_that_it_names(made, project):
    uri = rewritten(made, lambda rows: rows[0].update(outcome_at=rows[0]["time"]))
    assert DeltaTable(uri).version() == 1
    assert check_feature_set(uri, version=0, index=project.index).clean
    assert not check_feature_set(uri, index=project.index).clean

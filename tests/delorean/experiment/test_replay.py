"""A replay gives the same bits, whatever was published since and however the work is spread; or says what is gone."""

import sqlite3
from dataclasses import asdict

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import minutes

from delorean.audit.comparison import compare_feature_sets
from delorean.experiment.record import find_run
from delorean.experiment.replay import replay
from delorean.feature_sets.table import table_uri
from schemas.data_keys import global_element
from schemas.errors import ReplayError
from snapshotter.global_elements import publish_global
from snapshotter.index import open_index

NEWER = """
from encoders import feature_encoder, lookup
from schemas.data_keys import global_element

VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>")


@feature_encoder(data=[VIDEOS], features=["year"])
def year(context, items, data, out):
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.year[i] = data.videos.year[row]
"""


@pytest.fixture
def repeat(lab):
    def repeat(record, **options):
        return replay(record, lab.index, lab.storage, modules=(lab.module,), **options)

    return repeat


def with_videos(lab):
    """Let the experiment read a global element with two versions too."""
    publish_videos(lab, "v1", 0)
    publish_videos(lab, "v2", 15)
    path = lab.folder / f"{lab.module}.py"
    path.write_text(path.read_text() + NEWER)
    lab.write_spec(
        ('"MODULE:mood_known"'.replace("MODULE", lab.module), f'"{lab.module}:mood_known", "{lab.module}:year"')
    )


def publish_videos(lab, version, at):
    videos = global_element("videos", "struct<video_id: int64, year: int32>")
    rows = pa.table({"video_id": [0, 1, 2], "year": pa.array([2000 + at, 2001 + at, 2002 + at], pa.int32())})
    publish_global(rows, videos, minutes(at), lab.storage, lab.index, version)


def publish_more(lab):
    """Publish what would change nearly every row: newer runs, late ones, a version valid from the middle."""
    lab.project.history([((p,), 39, []) for p in range(40)], "newer")
    lab.project.history([((p,), 6, [{"video_id": 0, "minutes": 99.0}]) for p in range(40)], "late", 8)
    lab.project.mood([((p,), 38, "bad") for p in range(40)], "newer-mood")
    publish_videos(lab, "filled-in", 5)


def bits_of(lab, name, version):
    """The features' bits, read without anything of ours."""
    from deltalake import DeltaTable

    rows = DeltaTable(table_uri(lab.storage, name), version=version).to_pyarrow_table()
    rows = rows.sort_by([("profile_id", "ascending"), ("time", "ascending")])
    bits = {}
    for column in ("minutes_watched", "mood_known", "year"):
        if column in rows.column_names:
            bits[column] = rows[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).tobytes()
    return bits, rows.select(["history_run_id", "history_captured_at"]).to_pylist()


@pytest.mark.parametrize("how", ["spark", "process"])
def test_a_replay_gives_the_same_bits_after_more_was_published_under_any_partitioning(lab, spark, repeat, how):
    with_videos(lab)
    record = lab.run(spark)
    before = bits_of(lab, "lab", 0)
    publish_more(lab)
    for buckets in (None, 1, 8):
        found = repeat(record, spark=spark if how == "spark" else None, buckets=buckets)
        assert found.identical
        assert bits_of(lab, "lab-replay", found.features.version) == before
    again = lab.run(spark)
    assert bits_of(lab, "lab", again.features.version) != before
    assert set(again.snapshots["history"]) - set(record.snapshots["history"]) == {"newer", "late"}
    assert repeat(again).identical
    assert repeat(record).identical


def test_what_differs_is_named(lab, spark, repeat):
    import msgspec

    record = lab.run(spark)
    digest = record.features.digest
    forged = {**digest.features, "mood_known": "0" * 32}
    other = msgspec.convert(
        {
            **record.to_json(),
            "features": {**record.to_json()["features"], "digest": {**asdict(digest), "features": forged}},
        },
        type(record),
    )
    found = repeat(other)
    assert not found.identical
    assert found.differing == ("mood_known",)


def test_a_replay_keeps_policies(lab, spark, repeat):
    lab.write_spec(
        (
            "[as_of.history]",
            '[spread]\nlimit = "PT9M"\n\n[confidence.mood]\nfloor = 0.5\nbelow = "skip"\n\n[as_of.history]',
        )
    )
    lab.project.mood([((p,), 38, "poor") for p in range(40)], "poor", failed=160)
    record = lab.run(spark)
    assert record.features.absent["mood"] > 0
    publish_more(lab)
    found = repeat(record)
    assert found.identical
    assert found.features.absent == record.features.absent
    assert (found.features.dropped, found.features.spread.rows()) == (
        record.features.dropped,
        list(record.features.spread),
    )


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    newer=st.lists(
        st.tuples(st.integers(0, 45), st.sets(st.integers(0, 39), min_size=1), st.sampled_from([1, 4])), max_size=3
    ),
    buckets=st.sampled_from([1, 2, 16]),
)
def test_whatever_is_published_later_changes_no_replay(lab, spark, repeat, newer, buckets):
    try:
        record = find_run("lab", lab.storage)
    except ReplayError:
        record = lab.run(spark)
    for at, profiles, run_buckets in newer:
        run_id = f"newer-{len(lab.index.runs())}"
        lab.project.history(
            [((p,), at, [{"video_id": 1, "minutes": 7.0}]) for p in sorted(profiles)], run_id, run_buckets
        )
    assert repeat(record, buckets=buckets).identical


def test_encoders_that_changed_are_named(lab, spark, repeat):
    record = lab.run(spark)
    import importlib
    import sys

    path = lab.folder / f"{lab.module}.py"
    path.write_text(path.read_text().replace("+= history.minutes[j]", "+= 2 * history.minutes[j]"))
    importlib.invalidate_caches()
    del sys.modules[lab.module]
    with pytest.raises(ReplayError, match=f"encoder '{lab.module}:minutes_watched' is not the one"):
        repeat(record)


def test_encoders_from_modules_that_are_not_allowed_are_not_imported(lab, spark):
    record = lab.run(spark)
    with pytest.raises(ReplayError, match="lies outside the modules it may be imported from"):
        replay(record, lab.index, lab.storage)


def test_every_input_that_is_gone_is_named_in_one_error(lab, spark, repeat):
    with_videos(lab)
    record = lab.run(spark)
    (lab.folder / "store/snapshots/history/history-1/00002-0.parquet").unlink()
    for file in record.labels.files:
        (lab.folder / "store" / file.path).unlink()
    with sqlite3.connect(lab.folder / "index.db") as connection:
        connection.execute("DELETE FROM snapshots WHERE run_id = 'mood-2'")
        connection.execute("DELETE FROM runs WHERE run_id = 'mood-2'")
        connection.execute("DELETE FROM global_versions WHERE version_id = 'v1'")
    connection.close()
    with open_index(f"sqlite://{lab.folder}/index.db") as index, pytest.raises(ReplayError) as error:
        replay(record, index, lab.storage, modules=(lab.module,))
    reported = str(error.value)
    assert f"label data '{record.labels.id}' lacks 1 of 1 files" in reported
    assert "snapshot run 'history-1' of 'history' lacks 1 of 4 files, such as snapshots/history/history-1" in reported
    assert "snapshot run 'mood-2' of 'mood' is not in the index" in reported
    assert "version 'v1' of 'videos' is not in the index" in reported
    lab.index.withdraw_run("history-0", "asked the staging service", "ann")
    with pytest.raises(ReplayError, match="'history-0' of 'history' was withdrawn by ann: asked the staging service"):
        repeat(record)
    (lab.folder / f"store/labels/{record.labels.id}/manifest.json").unlink()
    with pytest.raises(ReplayError, match=f"label data '{record.labels.id}' is gone"):
        repeat(record)


def test_a_replay_into_a_feature_set_of_its_own_compares_equal_with_the_run(lab, spark, repeat):
    record = lab.run(spark)
    found = repeat(record, into="again", buckets=2)
    compared = compare_feature_sets((table_uri(lab.storage, "lab"), record.features.version), found.features)
    assert compared.equal

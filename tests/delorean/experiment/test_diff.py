"""A diff names what changed between two runs, and nothing that did not."""

import shutil

import pytest

from delorean.display.description import describe
from delorean.display.html import to_html
from delorean.experiment.diff import diff as diff_runs


@pytest.fixture
def diff(lab):
    def diff(before, after):
        return diff_runs(before, after, lab.storage)

    return diff


def test_two_runs_of_the_same_are_the_same(lab, spark, diff):
    found = diff(lab.run(spark), lab.run(spark))
    assert found.same
    reported = describe(found).document()
    assert reported["features"] == reported["notes"] == []
    assert not {"settings", "encoders", "snapshots", "globals", "labels", "libraries", "metrics"} & set(reported)
    assert reported["compared"]["compared_items"] == 480


def test_newer_snapshots_and_what_they_moved_are_named(lab, spark, diff):
    before = lab.run(spark)
    lab.project.history([((p,), 39, [{"video_id": p % 4, "minutes": 50.0}]) for p in range(40)], "newer")
    found = diff(before, lab.run(spark))
    assert found.snapshots == ({"element": "history", "run": "newer", "seen": "after only"},)
    assert found.settings == found.encoders == found.labels == found.globals == ()
    moved = found.features["minutes_watched"]
    # The newest history of each profile's last homepage is another one; one item of it has a value.
    assert (moved.status, moved.rows, moved.items) == ("changed", 40, 40)
    assert moved.max_difference == 48.0
    assert [row["feature"] for row in describe(found).document()["features"]] == ["minutes_watched"]


def test_settings_encoders_and_features_that_came_and_went_are_named(lab, spark, diff):
    before = lab.run(spark)
    lab.write_spec(
        ('"PT1H"', '"PT2H"'),
        (
            f'"{lab.module}:minutes_watched", "{lab.module}:mood_known"',
            f'{{ encoder = "{lab.module}:minutes_watched", parameters = {{ at_least = 20 }} }},'
            f'{{ encoder = "{lab.module}:minutes_watched", rename = {{ minutes_watched = "minutes" }} }}',
        ),
    )
    found = diff(before, lab.run(spark))
    settings = {row["field"]: (row["before"], row["after"]) for row in found.settings}
    assert settings["as_of.history.max_age"] == ("PT3600S", "PT7200S")
    assert settings["encoders[0].parameters.at_least"] == (None, 20)
    assert {(row["encoder"].partition(":")[2], row["change"]) for row in found.encoders} == {
        ("minutes_watched → minutes_watched", "changed"),
        ("minutes_watched → minutes", "new"),
        ("mood_known → mood_known", "gone"),
    }
    assert {change.feature: str(change.status) for change in found.features.features} == {
        "minutes_watched": "changed",
        "minutes": "new",
        "mood_known": "gone",
    }
    assert not found.labels


def test_runs_and_diffs_show_themselves_in_notebooks(lab, spark, diff):
    record = lab.run(spark)
    lab.project.history([((p,), 39, []) for p in range(40)], "newer-b")
    shown = to_html(diff(record, lab.run(spark)))
    assert "not the same" in shown
    assert "<td>newer-b</td>" in shown
    assert "minutes_watched" in shown
    shown = to_html(record)
    assert f"{record.run_id}, {record.started_at:%Y-%m-%d}" in shown
    assert "<td>history-2</td>" in shown


def test_other_labels_are_named(lab, spark, diff):
    before = lab.run(spark)
    lab.write_spec(('table = "shown"', 'query = "SELECT * FROM shown WHERE profile_id < 30"'))
    found = diff(before, lab.run(spark))
    assert {row["what"] for row in found.labels} == {"contexts", "items", "contexts, times, items and labels"}
    assert found.features.rows_only_before == 30
    assert not found.same


def test_without_a_feature_set_the_rest_is_still_compared(lab, spark, diff):
    before = lab.run(spark)
    lab.write_spec(('"PT1H"', '"PT2H"'))
    after = lab.run(spark)
    shutil.rmtree(lab.folder / "store/feature_sets/lab")
    found = diff(before, after)
    assert [row["field"] for row in found.settings] == ["as_of.history.max_age"]
    assert found.features is None
    assert "features could not be compared: there is no feature set at" in found.notes[0]
    assert not found.same

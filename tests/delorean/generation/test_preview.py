"""Trying encoders on old state, in one call."""

from datetime import timedelta

import polars as pl
import pyarrow as pa
import pytest
from project_at_rest import HISTORY, long_labels, minutes

from delorean import AsOf, LabelColumns, TimeMachine, generate, materialise_labels
from encoders import FeatureModel, feature_encoder
from schemas.errors import LabelError, NaiveTimeError


@feature_encoder(data=[HISTORY], features=["entries"])
def entries(context, items, data, out):
    for i in range(len(items.video_id)):
        if data.history.present:
            out.entries[i] = len(data.history.video_id)


ROWS = long_labels([(p, m, v, (p + v) % 2) for p in range(9) for m in (3, 14) for v in range(3)])


@pytest.fixture
def machine(project):
    for run in range(2):
        rows = [((p,), 10 * run + p % 3, [{"video_id": 0, "minutes": 1.0}] * (p + run)) for p in range(8)]
        project.history(rows, f"run-{run}", 4)
    return TimeMachine(project.index, project.storage)


def test_it_gives_what_a_feature_set_would_hold_and_leaves_nothing_behind(machine, project):
    before = [file.path for file in project.storage.list("")]
    rules = {"history": AsOf(max_age=timedelta(minutes=4))}
    found = machine.features(ROWS, [entries], items=["video_id"], rules=rules)
    assert [file.path for file in project.storage.list("")] == before
    labels = materialise_labels(ROWS, LabelColumns(("video_id",)), project.storage, buckets=4)
    made = generate(labels, FeatureModel([entries]), project.index, project.storage, "f", rules=rules).to_arrow()
    order = [("profile_id", "ascending"), ("time", "ascending")]
    assert pl.DataFrame(found.sort_by(order)).equals(pl.DataFrame(made.sort_by(order)))


def test_labels_may_be_missing_and_rows_grouped(machine):
    expected = machine.features(ROWS, entries, items=["video_id"]).drop_columns(["label", "outcome_at"])
    bare = ROWS.select(["profile_id", "time", "video_id"])
    assert pl.DataFrame(machine.features(bare, entries, items=["video_id"])).equals(pl.DataFrame(expected))
    grouped = pl.DataFrame(bare).group_by("profile_id", "time", maintain_order=True).agg("video_id")
    assert pl.DataFrame(machine.features(grouped, entries, items=["video_id"])).equals(pl.DataFrame(expected))


def test_wrong_rows_are_refused(machine):
    with pytest.raises(LabelError, match="did you mean 'video_id'"):
        machine.features(ROWS, entries, items=["vide_id"])
    with pytest.raises(LabelError, match="expected what Arrow reads"):
        machine.features(7, entries, items=["video_id"])
    with pytest.raises(LabelError, match="no rows"):
        machine.features(ROWS.slice(0, 0), entries, items=["video_id"])
    naive = pa.table({"profile_id": [1], "time": [minutes(1).replace(tzinfo=None)], "video_id": [1]})
    with pytest.raises(NaiveTimeError):
        machine.features(naive, entries, items=["video_id"])

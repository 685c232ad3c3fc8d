"""Comparisons of feature sets at rest, and of encoders over the same state."""

import os
from datetime import timedelta

import pytest
from deltalake import DeltaTable
from project_at_rest import HISTORY, MOOD, PROFILE, START, long_labels, minutes

from delorean.audit.comparison import ChangeStatus, compare_encoders, compare_feature_sets
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.labels.rebucket import rebucket
from delorean.state.rules import AsOf
from delorean.state.sources import PinnedSources
from encoders import FeatureModel, feature_encoder
from schemas.errors import ConfigError, DataKeyError, MissingFileError
from schemas.services import Service

COLUMNS = LabelColumns(items=("video_id",))


@feature_encoder(data=[HISTORY], features=["watched", "videos"])
def watched(context, items, data, out, *, at_least: float = 0.0):
    for i in range(len(items.video_id)):
        if data.history.present:
            out.watched[i] = 0.0
            out.videos[i] = len(data.history.video_id)
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i] and data.history.minutes[j] >= at_least:
                out.watched[i] += data.history.minutes[j]


@feature_encoder(data=[MOOD], features=["happy"])
def happy(context, items, data, out):
    for i in range(len(items.video_id)):
        if data.mood.present:
            out.happy[i] = 1.0 if data.mood.value == "happy" else 0.0


def histories(at, scale=1.0):
    return [((p,), at, [{"video_id": v, "minutes": scale * (p + v)} for v in range(p % 5)]) for p in range(60)]


@pytest.fixture
def labels(project):
    project.history(histories(0), "first", 4)
    rows = long_labels([(p, m, v, (p + v) % 2) for p in range(64) for m in (7, 14) for v in range(4)])
    return materialise_labels(rows, COLUMNS, project.storage, buckets=4)


def test_a_replay_under_another_partitioning_is_equal(project, labels):
    model = FeatureModel([watched])
    first = generate(labels, model, project.index, project.storage, "f")
    for buckets in (1, 16):
        again = rebucket(labels, buckets, project.storage)
        second = generate(again, model, project.index, project.storage, f"g{buckets}")
        for values_at_once in (10**6, 500):
            comparison = compare_feature_sets(first, second, values_at_once=values_at_once)
            assert comparison.equal
            assert (comparison.compared_rows, comparison.compared_items) == (128, 512)


def test_versions_of_a_feature_set_are_compared_by_uri_and_number(project, labels):
    model = FeatureModel([watched])
    first = generate(labels, model, project.index, project.storage, "f")
    project.history(histories(10, scale=2.0), "late")
    second = generate(labels, model, project.index, project.storage, "f")
    comparison = compare_feature_sets((first.uri, 0), second.uri)
    assert (comparison.before, comparison.after) == ("f version 0", "f version 1")
    # Profiles with a history other than nothing, at the time after the late run: as many videos, twice as long.
    expected = [(p, v) for p in range(60) for v in range(p % 5) if v < 4 and p + v]
    assert comparison["watched"].items == len(expected)
    assert comparison["watched"].rows == len({p for p, _ in expected})
    assert comparison["watched"].max_difference == max(p + v for p, v in expected)
    assert comparison["videos"].status is ChangeStatus.EQUAL
    assert not comparison.equal
    assert compare_feature_sets((first.uri, 0), first).equal
    assert compare_feature_sets(first.to_arrow(), first).equal


def test_files_that_are_gone_and_sets_that_are_none_are_named(project, labels, tmp_path):
    first = generate(labels, FeatureModel([watched]), project.index, project.storage, "f")
    second = generate(labels, FeatureModel([watched]), project.index, project.storage, "f")
    with pytest.raises(ConfigError, match="no version 9 of the feature set at"):
        compare_feature_sets(first, (first.uri, 9))
    with pytest.raises(ConfigError, match="no feature set at"):
        compare_feature_sets(first, f"file://{tmp_path}/nowhere")
    gone = DeltaTable(second.uri, version=0).file_uris()
    os.remove(gone[0].removeprefix("file://"))
    with pytest.raises(MissingFileError, match=r"file '.*parquet' of version 0 of .*/f is gone → a vacuum may have"):
        compare_feature_sets(first, second)


def test_sets_of_other_items_are_refused(project, labels):
    first = generate(labels, FeatureModel([watched]), project.index, project.storage, "f")
    other = long_labels([(1, 7, 2, 0)]).rename_columns(["profile_id", "time", "row", "label", "outcome_at"])
    rows = materialise_labels(other, LabelColumns(items=("row",)), project.storage)

    @feature_encoder(features=["one"])
    def one(context, items, data, out):
        for i in range(len(items.row)):
            out.one[i] = 1.0

    second = generate(rows, FeatureModel([one]), project.index, project.storage, "g")
    with pytest.raises(ConfigError, match="items of the two sides: row and video_id"):
        compare_feature_sets(first, second)


def test_encoders_are_compared_on_the_same_state_and_leave_nothing_behind(project, labels):
    project.publish(Service("mood", MOOD, (PROFILE,)), [((p,), 5, "happy") for p in range(30)], "moods")
    stored = list(project.storage.list(""))
    stricter = watched.configured(at_least=30.0)
    comparison = compare_encoders(watched, [stricter, happy], labels, project.index, project.storage)
    lost = [p + v for p in range(60) for v in range(min(4, p % 5)) if 0 < p + v < 30 for _ in (7, 14)]
    assert comparison["watched"].items == len(lost)
    assert comparison["watched"].max_difference == max(lost)
    assert comparison["watched"].mean_difference == pytest.approx(sum(lost) / len(lost))
    assert comparison["videos"].status is ChangeStatus.EQUAL
    assert comparison["happy"].status is ChangeStatus.NEW
    assert compare_encoders([watched, happy], watched, labels, project.index, project.storage)["happy"].status == "gone"
    assert compare_encoders(watched, FeatureModel([watched]), labels, project.index, project.storage).equal
    assert list(project.storage.list("")) == stored


def test_comparing_encoders_says_what_comparing_their_feature_sets_does(project, labels):
    rules = {"history": AsOf(max_age=timedelta(minutes=10))}
    stricter = watched.configured(at_least=30.0)
    sets = [
        generate(labels, FeatureModel([encoder]), project.index, project.storage, "f", rules=rules)
        for encoder in (watched, stricter)
    ]
    at_rest = compare_feature_sets(*sets)
    at_once = compare_encoders(watched, stricter, labels, project.index, project.storage, rules)
    assert (
        at_once.to_arrow()
        .drop_columns(["correlation", "mean_difference"])
        .equals(at_rest.to_arrow().drop_columns(["correlation", "mean_difference"]))
    )
    for name in ("watched", "videos"):
        assert at_once[name].correlation == pytest.approx(at_rest[name].correlation)
    # What was published since is not read where the state is pinned.
    pinned = PinnedSources(sets[0].lineage["snapshots"], {})
    project.history(histories(6, scale=3.0), "late")
    again = compare_encoders(watched, stricter, labels, project.index, project.storage, rules, pinned=pinned)
    assert again == at_once
    assert compare_encoders(watched, stricter, labels, project.index, project.storage, rules) != at_once


def test_rules_may_name_an_element_of_either_side_and_no_other(project, labels):
    project.publish(Service("mood", MOOD, (PROFILE,)), [((1,), 5, "happy")], "moods")
    rules = {"mood": AsOf(max_age=timedelta(minutes=3))}
    assert compare_encoders(watched, [watched, happy], labels, project.index, project.storage, rules)["happy"].status
    with pytest.raises(ConfigError, match="mod"):
        compare_encoders(watched, happy, labels, project.index, project.storage, {"mod": AsOf()})
    assert minutes(0) == START


def test_an_element_nobody_captured_is_named(project, labels):
    with pytest.raises(DataKeyError, match="mood"):
        compare_encoders(watched, happy, labels, project.index, project.storage)

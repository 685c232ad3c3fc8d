"""Snapshots of every kind under the one rule, and what experiments demand of them, against a scan of everything."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, MOOD, PROFILE, Project, long_labels, minutes

from delorean.feature_sets.table import lineage_of
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.leaks import LeakThresholds
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from encoders import FeatureModel, feature_encoder, lookup
from schemas.data_keys import global_element, service_element
from schemas.errors import ConfigError, ParadoxError, QualityError
from schemas.services import Service
from snapshotter.global_elements import publish_global
from snapshotter.index import open_index
from snapshotter.records import to_micros
from snapshotter.storage import open_storage

COLUMNS = LabelColumns(items=("video_id",))
VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>")


@feature_encoder(data=[HISTORY], features=["entries"])
def entries(context, items, data, out):
    for i in range(len(items.video_id)):
        if data.history.present:
            out.entries[i] = len(data.history.video_id)


@feature_encoder(data=[MOOD], features=["mood_known"])
def mood_known(context, items, data, out):
    for i in range(len(items.video_id)):
        out.mood_known[i] = 1.0 if data.mood.present else 0.0


@feature_encoder(features=["hour"])
def hour(context, items, data, out):
    for i in range(len(items.video_id)):
        out.hour[i] = context.time // 3_600_000_000 % 24


@feature_encoder(data=[VIDEOS], features=["year"])
def year(context, items, data, out):
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.year[i] = data.videos.year[row]


BOTH = FeatureModel([entries, mood_known, hour])


def labels_of(project, rows=((1, 15, 0, 1),), **options):
    return materialise_labels(long_labels(rows), COLUMNS, project.storage, **options)


def made(project, labels, model=BOTH, **options):
    result = generate(labels, model, project.index, project.storage, "f", **options)
    return result, result.to_arrow().sort_by([("profile_id", "ascending"), ("time", "ascending")]).to_pylist()


# A run: (service, captures of (profile, minute), contexts that failed). Runs are published in the order of the list,
# which is not that of their captures: some are published late, overlap others, lack contexts, capture one twice.
capture = st.tuples(st.integers(0, 3), st.integers(0, 12))
runs = st.lists(
    st.tuples(st.sampled_from(["history", "mood"]), st.lists(capture, min_size=1, max_size=6), st.integers(0, 4)),
    max_size=7,
)
rules = st.builds(
    lambda age, lag, exact: (None if age is None else age + lag, lag, exact),
    st.one_of(st.none(), st.integers(0, 6)),
    st.integers(0, 2),
    st.booleans(),
)
floors = st.one_of(
    st.none(), st.tuples(st.sampled_from([0.5, 0.75, 1.0]), st.sampled_from(["previous", "skip", "fail"]))
)
label_rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 12), st.just(0), st.just(1)),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[:2],
)


def share(run):
    return len(run[1]) / (len(run[1]) + run[2])


def served(service, published, profile, minute, rule, floor):
    """Scan all captures: (minute of capture, run) of what serves a label row, None for nothing."""
    max_age, lag, exact = rule
    best = None
    for order, run in enumerate(published):
        if run[0] != service or (floor and floor[1] == "previous" and share(run) < floor[0]):
            continue
        for owner, at in run[1]:
            late = at > minute - lag or (at == minute - lag and not exact)
            if owner != profile or late or (max_age is not None and at < minute - max_age):
                continue
            if best is None or (at, order) >= best:
                best = (at, order)
    if best is not None and floor and floor[1] == "skip" and share(published[best[1]]) < floor[0]:
        return None
    return best


def as_of(rule):
    max_age, lag, exact = rule
    return AsOf(None if max_age is None else timedelta(minutes=max_age), timedelta(minutes=lag), exact)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    published=runs,
    labels=label_rows,
    given_rules=st.tuples(rules, rules),
    given_floors=st.tuples(floors, floors),
    limit=st.one_of(st.none(), st.tuples(st.integers(0, 5), st.sampled_from(["drop", "null", "fail"]))),
    buckets=st.sampled_from([1, 4]),
)
def test_every_row_says_what_served_it_and_policies_hold(
    published, labels, given_rules, given_floors, limit, buckets, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("project")
    names = ("history", "mood")
    # Both services are known, from captures of a profile that no label has.
    published = [("history", [(9, 0)], 0), ("mood", [(9, 0)], 0), *published]
    with open_index(f"sqlite://{folder}/index.db") as index:
        project = Project(open_storage(f"file://{folder}/store"), index)
        for order, (service, captures, failed) in enumerate(published):
            rows = [((profile,), at, "m" if service == "mood" else []) for profile, at in captures]
            getattr(project, service)(rows, f"run-{order}", 1 + order % 2, failed)
        options = {
            "rules": {name: as_of(rule) for name, rule in zip(names, given_rules, strict=True)},
            "confidence": {
                name: ConfidenceFloor(*floor) for name, floor in zip(names, given_floors, strict=True) if floor
            },
            "spread": SpreadLimit(timedelta(minutes=limit[0]), limit[1]) if limit else None,
        }
        expected, fails = {}, False
        for name, rule, floor in zip(names, given_rules, given_floors, strict=True):
            low = [run for run in published if run[0] == name and floor and share(run) < floor[0]]
            windows = [run for run in low if in_window(run, labels, rule)]
            fails |= bool(floor and floor[1] == "fail" and windows)
            for profile, minute, *_ in labels:
                expected[name, profile, minute] = served(name, published, profile, minute, rule, floor)
        spreads = {}
        for profile, minute, *_ in labels:
            found = [expected[name, profile, minute] for name in names]
            times = [best[0] for best in found if best]
            spreads[profile, minute] = max(times) - min(times) if times else None
        torn = {row for row, spread in spreads.items() if limit and spread is not None and spread > limit[0]}
        fails |= bool(limit and torn and (limit[1] == "fail" or (limit[1] == "drop" and len(torn) == len(spreads))))
        materialised = labels_of(project, labels, buckets=buckets)
        if fails:
            with pytest.raises(QualityError):
                made(project, materialised, **options)
            return
        result, rows = made(project, materialised, **options)
    dropped = torn if limit and limit[1] == "drop" else set()
    assert len(rows) == len(labels) - len(dropped)
    assert result.dropped == len(dropped)
    assert result.spread.beyond == len(torn)
    assert sum(result.spread.counts) == sum(spread is not None for spread in spreads.values())
    for row in rows:
        profile, minute = row["profile_id"], (row["time"] - minutes(0)) // timedelta(minutes=1)
        shares = []
        for name in names:
            best = expected[name, profile, minute]
            assert row[f"{name}_captured_at"] == (None if best is None else minutes(best[0]))
            assert row[f"{name}_run_id"] == (None if best is None else f"run-{best[1]}")
            shares += [] if best is None else [share(published[best[1]])]
        spread = spreads[profile, minute]
        assert row["spread_seconds"] == (None if spread is None else spread * 60.0)
        assert row["confidence"] == (min(shares) if shares else None)
        hidden = (profile, minute) in torn
        assert (row["mood_known"] == [None]) == (row["entries"] == [None]) == hidden
        assert row["hour"] == [0.0]


def in_window(run, labels, rule):
    """Whether a run captured anything in the range of times that the labels may see."""
    max_age, lag, _ = rule
    first = -1 if max_age is None else min(label[1] for label in labels) - max_age
    last = max(label[1] for label in labels) - lag
    times = [at for _, at in run[1]]
    return min(times) <= last and max(times) >= first


def test_a_skipped_run_leaves_rows_without_and_a_passed_over_one_lets_the_previous_serve(project):
    project.history([((1,), 5, [])], "whole")
    project.history([((1,), 10, [])], "poor", failed=9)
    labels = labels_of(project)
    model = FeatureModel([entries])
    for below, run in (("previous", "whole"), ("skip", None)):
        result, rows = made(project, labels, model, confidence={"history": ConfidenceFloor(0.5, below)})
        assert [row["history_run_id"] for row in rows] == [run]
        assert any("poor (0.100)" in note for note in result.notes)
    with pytest.raises(QualityError, match=r"poor \(0.100\).*lower the floor"):
        made(project, labels, model, confidence={"history": ConfidenceFloor(0.5, "fail")})
    _, rows = made(project, labels, model, confidence={"history": ConfidenceFloor(0.1, "fail")})
    assert rows[0]["confidence"] == 0.1


def test_an_earlier_run_serves_only_within_max_age(project):
    project.history([((1,), 5, [])], "whole")
    project.history([((1,), 10, [])], "poor", failed=9)
    rules = {"history": AsOf(max_age=timedelta(minutes=6))}
    _, rows = made(
        project, labels_of(project), FeatureModel([entries]), rules=rules, confidence={"history": ConfidenceFloor(0.5)}
    )
    assert rows[0]["history_run_id"] is None


def test_a_torn_row_is_dropped_emptied_or_refused(project):
    project.history([((1,), 2, []), ((2,), 9, [])], "a")
    project.mood([((1,), 10, "x"), ((2,), 10, "x")], "b")
    labels = labels_of(project, [(1, 15, 0, 1), (1, 15, 1, 0), (2, 15, 0, 1)])
    limit = timedelta(minutes=5)
    result, rows = made(project, labels, spread=SpreadLimit(limit, "drop"))
    assert [row["profile_id"] for row in rows] == [2]
    assert (result.rows, result.item_count, result.dropped) == (1, 1, 1)
    assert [row["rows"] for row in result.spread.rows()] == [1, 1]
    result, rows = made(project, labels, spread=SpreadLimit(limit, "null"))
    assert rows[0]["entries"] == [None, None]
    assert rows[0]["hour"] == [0.0, 0.0]
    assert rows[0]["spread_seconds"] == 480.0
    assert rows[1]["entries"] == [0.0]
    data = read_feature_set(result.uri, ["entries"], ["video_id"], ["profile_id"], weight="confidence")
    assert np.isnan(data.features[:, 0]).tolist() == [True, True, False]
    with pytest.raises(QualityError, match="480.0 s apart, expected at most 300.0 s"):
        made(project, labels, spread=SpreadLimit(limit, "fail"))
    with pytest.raises(QualityError, match="no row is left"):
        made(project, labels, spread=SpreadLimit(timedelta(0), "drop"))


def test_a_run_under_fail_publishes_nothing(project):
    project.history([((1,), 2, [])], "a")
    project.mood([((1,), 10, "x")], "b")
    with pytest.raises(QualityError):
        made(project, labels_of(project), spread=SpreadLimit(timedelta(0), "fail"))
    with pytest.raises(ConfigError, match="no feature set"):
        lineage_of(f"{project.storage.uri}/feature_sets/f")


def test_no_version_of_a_global_element_is_seen_before_its_time(project):
    for version, at in (("v1", 0), ("v2", 15)):
        table = pa.table({"video_id": [0], "year": pa.array([2000 + at], pa.int32())})
        publish_global(table, VIDEOS, minutes(at), project.storage, project.index, version)
    labels = labels_of(project, [(1, 14, 0, 1), (1, 15, 0, 1), (1, 16, 0, 1)])
    _, rows = made(project, labels, FeatureModel([year]))
    assert [row["videos_version_id"] for row in rows] == ["v1", "v2", "v2"]
    assert [row["year"] for row in rows] == [[2000.0], [2015.0], [2015.0]]
    assert {row["spread_seconds"] for row in rows} == {row["confidence"] for row in rows} == {None}


def test_what_was_filled_in_afterwards_can_be_hidden_from_the_past(project):
    table = pa.table({"video_id": [0], "year": pa.array([2000], pa.int32())})
    publish_global(table, VIDEOS, minutes(0), project.storage, project.index, "filled-in")
    (version,) = project.index.global_versions("videos", minutes(10))
    after = (to_micros(version.published_at) - to_micros(minutes(0))) // 60_000_000 + 1
    labels = labels_of(project, [(1, 15, 0, 1), (1, after, 0, 1)])
    model = FeatureModel([year])
    _, rows = made(project, labels, model, rules={"videos": AsOf(as_published=True)})
    assert [row["videos_version_id"] for row in rows] == [None, "filled-in"]
    _, rows = made(project, labels, model)
    assert [row["videos_version_id"] for row in rows] == ["filled-in", "filled-in"]


def test_a_label_column_offered_as_data_is_refused(project):
    rows = long_labels([(1, 15, 0, 1)]).rename_columns(["profile_id", "time", "video_id", "bought", "seen_at"])
    columns = LabelColumns(items=("video_id",), label="bought", outcome_at="seen_at")
    labels = materialise_labels(rows, columns, project.storage)
    for name in ("bought", "seen_at", "label", "outcome_at"):
        leak = service_element(name, "string")
        project.publish(Service(name, leak, (PROFILE,)), [((1,), 1, "x")], f"run-{name}")

        @feature_encoder(data=[leak], features=["leak"], compiled=False)
        def leaking(context, items, data, out):
            out.leak[0] = 1.0

        with pytest.raises(ParadoxError, match=f"reads '{name}' as data"):
            made(project, labels, FeatureModel([leaking]))
    for offered in ({"items": ("video_id", "bought")}, {"context": ("profile_id", "seen_at")}):
        given = {"items": ("video_id",), "label": "bought", "outcome_at": "seen_at", **offered}
        with pytest.raises(ParadoxError, match="is also a context or item variable"):
            materialise_labels(rows, LabelColumns(**given), project.storage)


@feature_encoder(data=[HISTORY], features=["listed"])
def listed(context, items, data, out):
    for i in range(len(items.video_id)):
        out.listed[i] = 0.0
        for video in data.history.video_id:
            if video == items.video_id[i]:
                out.listed[i] = 1.0


def test_a_feature_that_is_the_label_in_disguise_is_reported_or_refused_before_anything_is_published(project):
    rows = [(p, 15, v, (p + v) % 3 == 0) for p in range(60) for v in range(4)]
    # The service was asked before the label's time, but its answer holds what will be bought.
    project.history(
        [((p,), 5, [{"video_id": v, "minutes": 1.0} for v in range(4) if (p + v) % 3 == 0]) for p in range(60)], "r"
    )
    labels, model = labels_of(project, rows, buckets=4), FeatureModel([listed, entries])
    uri = f"{project.storage.uri}/feature_sets/f"
    with pytest.raises(ParadoxError, match="suspicious: listed may be the label in disguise.*100.0% of pairs"):
        made(project, labels, model, leaks=LeakThresholds(policy="fail"))
    with pytest.raises(ConfigError, match="no feature set"):
        lineage_of(uri)
    result, _ = made(project, labels, model, leaks=LeakThresholds())
    assert result.leaks.suspicious == ("listed",)
    assert made(project, labels, model)[0].leaks is None
    assert not made(project, labels, FeatureModel([entries]), leaks=LeakThresholds(policy="fail"))[0].leaks.suspicious


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConfidenceFloor(0.0), "confidence in"),
        (lambda: ConfidenceFloor(1.2), "confidence in"),
        (lambda: SpreadLimit(timedelta(-1)), "at least 0"),
    ],
)
def test_impossible_policies_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_policies_for_what_they_are_not_meant_for_are_refused(project):
    project.history([((1,), 5, [])], "r")
    table = pa.table({"video_id": [0], "year": pa.array([2000], pa.int32())})
    publish_global(table, VIDEOS, minutes(0), project.storage, project.index, "v")
    labels, model = labels_of(project), FeatureModel([entries, year])
    for options, message in (
        ({"confidence": {"histroy": ConfidenceFloor(0.5)}}, "did you mean 'history'"),
        ({"confidence": {"videos": ConfidenceFloor(0.5)}}, "a version is always complete"),
        ({"rules": {"history": AsOf(as_published=True)}}, "applies to global elements"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(project, labels, model, **options)

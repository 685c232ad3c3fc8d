"""Travelling to a moment: what was known then, and never more."""

from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import COUNTRY, MOOD, PROFILE, START, Project, minutes

from delorean.time_travel import TimeMachine
from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import DataKeyError, NaiveTimeError, NotInIndexError
from schemas.services import Service
from snapshotter.global_elements import publish_global
from snapshotter.index import open_index
from snapshotter.records import ContextSet
from snapshotter.selection import context_set_schema
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

VIDEOS = global_element("videos", "struct<video_id: int64, title: string>")
CHARTS = service_element("charts", "list<int64>")
captures = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=5, unique_by=lambda c: c),
    min_size=1,
    max_size=4,
)


def mood(project, rows, run_id, buckets=1):
    project.publish(Service("mood", MOOD, (PROFILE,)), [((p,), at, value) for p, at, value in rows], run_id, buckets)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=captures, at=st.integers(0, 10), age=st.none() | st.integers(0, 5), buckets=st.sampled_from([1, 4]))
def test_a_view_holds_the_latest_capture_of_each_key_up_to_its_moment(runs, at, age, buckets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    best = {}
    with open_index(f"sqlite://{folder}/index.db") as index:
        project = Project(open_storage(f"file://{folder}/store"), index)
        mood(project, [(99, 0, "first")], "zero")
        for n, rows in enumerate(runs):
            mood(project, [(p, t, f"{n}/{p}/{t}") for p, t in rows], f"run-{n}", buckets)
            for p, t in rows:
                if t <= at and (age is None or t >= at - age):
                    best[p] = max(best.get(p, (-1, -1)), (t, n))
        moment = TimeMachine(index, project.storage).at(minutes(at), None if age is None else timedelta(minutes=age))
        found = {row["profile_id"]: row for row in moment["mood"].to_arrow().to_pylist() if row["profile_id"] != 99}
    assert {p: (row["captured_at"], row["mood"], row["run_id"]) for p, row in found.items()} == {
        p: (minutes(t), f"{n}/{p}/{t}", f"run-{n}") for p, (t, n) in best.items()
    }


def contexts(project, experiments, day, revision=1):
    """Publish a revision of a day's context set: profile → experiments that chose it."""
    chosen = pa.list_(pa.struct([("experiment", pa.string()), ("stratum", pa.string()), ("probability", pa.float64())]))
    schema = pa.schema([("profile_id", pa.int64()), ("country", pa.string()), ("experiments", chosen)])
    rows = [
        {
            "profile_id": profile,
            "country": "US",
            "experiments": [{"experiment": e, "stratum": "US", "probability": 0.5} for e in ids],
        }
        for profile, ids in experiments.items()
    ]
    path = f"context_sets/{day}-{revision}.parquet"
    file = write_parquet(project.storage, path, pa.Table.from_pylist(rows, schema), schema)
    ids = tuple(sorted({e for es in experiments.values() for e in es}))
    chosen = ContextSet.of_one_key(f"set-{day}", day, ids, (PROFILE, COUNTRY), (file,))
    assert project.index.publish_context_set(replace(chosen, revision=revision))


def searches(project, queries, day, revision):
    """Publish a revision of a day's context set, of searches: the experiment `search` chose query and profile."""
    key = (context_variable("query", "string"), context_variable("profile_id", "int32"))
    by = [{"experiment": "search", "stratum": "all", "probability": 1.0}]
    rows = [{"query": query, "profile_id": profile, "experiments": by} for query, profile in queries]
    table = pa.Table.from_pylist(rows, context_set_schema(key))
    file = write_parquet(project.storage, f"context_sets/{day}-{revision}-search.parquet", table, table.schema)
    chosen = ContextSet.of_one_key(f"searches-{day}", day, ("search",), key, (file,))
    assert project.index.publish_context_set(replace(chosen, revision=revision))


def test_an_experiment_sees_its_own_contexts_and_how_many_of_them_have_data(project):
    contexts(project, {1: ["long", "short"], 2: ["long"], 3: ["short"], 4: ["long"]}, START.date())
    mood(project, [(1, 5, "glad"), (2, 5, "sad"), (3, 5, "calm")], "r")
    moment = TimeMachine(project.index, project.storage).at(minutes(9))
    assert moment.for_experiment("long")["mood"].to_arrow()["profile_id"].to_pylist() == [1, 2]
    assert moment.for_experiment("long")["mood"].coverage == pytest.approx(2 / 3)
    assert moment.for_experiment("short")["mood"].coverage == 1.0
    assert moment["mood"].coverage == pytest.approx(3 / 4)
    assert moment["mood"].to_arrow()["profile_id"].to_pylist() == [1, 2, 3]
    with pytest.raises(NotInIndexError, match="experiment 'tiny' has no context set"):
        moment.for_experiment("tiny")


def test_an_experiment_is_found_in_whatever_revision_has_it_with_its_own_key(project):
    yesterday, today = START.date() - timedelta(days=1), START.date()
    contexts(project, {1: ["home", "old"], 9: ["old"]}, yesterday)
    contexts(project, {1: ["home"], 2: ["home"]}, today)
    searches(project, [("cats", 2), ("dogs", 3), ("cats", 3)], today, 2)
    contexts(project, {4: ["late"]}, today, 3)
    mood(project, [(profile, 5, "glad") for profile in (1, 2, 3, 4, 9)], "r")
    project.publish(Service("charts", CHARTS, (COUNTRY,)), [(("US",), 5, [1])], "charts")
    moment = TimeMachine(project.index, project.storage).at(minutes(9))

    def profiles(experiment):
        return moment.for_experiment(experiment)["mood"].to_arrow()["profile_id"].to_pylist()

    assert {name: profiles(name) for name in ("home", "search", "late", "old")} == {
        "home": [1, 2],
        "search": [2, 3],
        "late": [4],
        "old": [1, 9],  # of the newest day that has it
    }
    assert moment["mood"].coverage == 1.0  # of all revisions of the day: 1 to 4
    assert [chosen.revision for chosen in moment.context_sets] == [1, 2, 3]
    search = moment.for_experiment("search")["charts"]
    assert search.coverage == 0.0
    with pytest.raises(DataKeyError, match="'charts' is asked by country, which contexts of experiment 'search' lack"):
        search.to_arrow()


def test_a_context_set_of_a_later_day_cannot_be_seen(project):
    contexts(project, {1: ["long"]}, START.date() + timedelta(days=1))
    mood(project, [(1, 5, "glad")], "r")
    with pytest.raises(NotInIndexError, match="long"):
        TimeMachine(project.index, project.storage).at(minutes(9)).for_experiment("long")


def test_every_form_of_a_view_has_the_same_rows(project, spark):
    project.history([((1,), 5, [{"video_id": 7, "minutes": 2.5}]), ((2,), 6, [])], "r")
    view = TimeMachine(project.index, project.storage).at(minutes(9))["history"]
    rows = view.to_arrow().to_pylist()
    assert rows[0]["history"] == [{"video_id": 7, "minutes": 2.5}]
    assert view.to_polars()["history"].to_list() == [row["history"] for row in rows]
    assert view.to_pandas()["profile_id"].tolist() == [1, 2]
    collected = view.to_spark(spark).orderBy("profile_id").collect()
    assert [row.captured_at.timestamp() for row in collected] == [row["captured_at"].timestamp() for row in rows]
    assert collected[0].history[0].minutes == 2.5
    assert "history: list<" in repr(view)
    assert "confidence 1.000" in repr(view)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(
        st.tuples(st.sets(st.integers(0, 20), min_size=1), st.sampled_from([1, 2, 8])), min_size=1, max_size=4
    ),
    chosen=st.none() | st.sets(st.integers(0, 25), min_size=1),
)
def test_the_buckets_of_a_view_together_are_the_view(runs, chosen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    with open_index(f"sqlite://{folder}/index.db") as index:
        project = Project(open_storage(f"file://{folder}/store"), index)
        for n, (profiles, buckets) in enumerate(runs):
            mood(project, [(p, n, f"{n}") for p in profiles], f"run-{n}", buckets)
        moment = TimeMachine(index, project.storage).at(minutes(9))
        if chosen is not None:
            contexts(project, {p: ["long"] if p % 3 else ["short"] for p in sorted(chosen | {1})}, START.date())
            moment = moment.for_experiment("long")
        view = moment["mood"]
        parts = [row for part in view.bucket_views() for table in part.rows() for row in table.to_pylist()]
        assert len(view.bucket_views()) == max(buckets for _, buckets in runs)
        assert sorted(parts, key=lambda row: row["profile_id"]) == view.to_arrow().to_pylist()


def test_a_view_in_spark_is_read_by_tasks_when_it_is_needed(project, spark):
    history = [((p,), p % 7, [{"video_id": p, "minutes": p / 2}]) for p in range(40)]
    project.history(history, "r", 4)
    project.history(history[:9], "one-bucket", 1)
    charts = Service("charts", service_element("charts", "string"), (COUNTRY,))
    project.publish(charts, [(("US",), 5, "a"), (("DE",), 5, "b")], "charts", bucket_variable="country")
    videos = pa.table({"video_id": [1, 2], "title": ["a", None]})
    publish_global(videos, VIDEOS, minutes(0), project.storage, project.index, "v1")
    contexts(project, {p: ["odd"] if p % 2 else ["even"] for p in range(50)}, START.date())
    moment = TimeMachine(project.index, project.storage).at(minutes(9))
    for view in (moment["history"], moment.for_experiment("odd")["history"], moment["charts"], moment["videos"]):
        expected, frame = view.to_arrow(), view.to_spark(spark)
        assert frame.schema.names == expected.column_names
        key = expected.column_names[0]
        assert frame.orderBy(key).toArrow().to_pylist() == expected.sort_by(key).to_pylist()
        assert frame.count() == expected.num_rows
    frame, others = moment["history"].to_spark(spark), spark.range(2, 99).withColumnRenamed("id", "profile_id")
    assert frame.where("profile_id < 3").join(others, "profile_id").count() == 1
    project.storage.delete([file.path for file in project.storage.list("snapshots/history")])
    lazy = moment["history"].to_spark(spark)
    assert lazy.schema["captured_at"].dataType.typeName() == "timestamp"
    with pytest.raises(Exception, match="schemas.errors.MissingFileError.*does not exist"):
        lazy.count()


def test_global_elements_are_seen_in_the_version_of_the_moment(project):
    machine = TimeMachine(project.index, project.storage)
    for version, at, title in (("v1", 0, "old"), ("v2", 10, "new")):
        table = pa.table({"video_id": [1], "title": [title]})
        publish_global(table, VIDEOS, minutes(at), project.storage, project.index, version)
    assert machine.at(minutes(9))["videos"].to_arrow()["title"].to_pylist() == ["old"]
    assert machine.at(minutes(10))["videos"].to_arrow()["title"].to_pylist() == ["new"]
    with pytest.raises(DataKeyError, match="videos"):
        machine.at(minutes(-1))["videos"]


def test_an_element_that_was_captured_long_ago_alone_is_found(project):
    mood(project, [(1, 5, "glad")], "first")
    for number in range(60):
        project.history([((1,), 6 + number, [])], f"run-{number}")
    moment = TimeMachine(project.index, project.storage).at(minutes(99))
    assert moment["mood"].to_arrow()["mood"].to_pylist() == ["glad"]
    assert moment.keys() == ["history", "mood"]


def test_a_moment_names_what_can_be_seen_from_it_global_elements_too(project):
    mood(project, [(1, 5, "glad")], "r")
    publish_global(
        pa.table({"video_id": [1], "title": ["a"]}), VIDEOS, minutes(7), project.storage, project.index, "v1"
    )
    machine = TimeMachine(project.index, project.storage)
    assert machine.at(minutes(4)).keys() == []
    assert machine.at(minutes(6)).keys() == ["mood"]
    assert machine.at(minutes(7)).keys() == ["mood", "videos"]
    with pytest.raises(DataKeyError, match="did you mean 'videos'"):
        machine.at(minutes(7))["vidoes"]


def test_wrong_moments_and_keys_are_refused(project):
    mood(project, [(1, 5, "glad")], "r")
    machine = TimeMachine(project.index, project.storage)
    with pytest.raises(NaiveTimeError, match="no zone"):
        machine.at(datetime(2026, 5, 1))
    with pytest.raises(DataKeyError, match="did you mean 'mood'"):
        machine.at(minutes(9))["mod"]
    with pytest.raises(DataKeyError, match="known: none"):
        machine.at(minutes(4))["mood"]
    assert machine.at(minutes(9)).keys() == ["mood"]

"""Which contexts one can travel to: against travelling to each day."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import COUNTRY, MOOD, PROFILE, START, Project, minutes

from delorean.coverage import day_coverage
from delorean.display.html import to_html, to_page
from delorean.time_travel import TimeMachine
from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import DataKeyError, NotInIndexError
from schemas.services import Service
from snapshotter.global_elements import publish_global
from snapshotter.index import open_index
from snapshotter.records import ContextSet, ServiceSnapshot
from snapshotter.selection import context_set_schema
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

DAY = START.date()
VIDEOS = global_element("videos", "struct<video_id: int64>")
CHARTS = Service("charts", service_element("charts", "list<int64>"), (COUNTRY,))
MOODS = Service("moods", MOOD, (PROFILE,))


@pytest.fixture(autouse=True)
def short_pages(monkeypatch):
    """List one older snapshot first, so that rows often need more."""
    monkeypatch.setattr("delorean.state.snapshot_pages.FIRST_PAGE", 1)


def day(number):
    return DAY + timedelta(days=number)


def contexts(project, number, experiments):
    """Publish a day's context set: profile → experiments that chose it."""
    chosen = pa.list_(pa.struct([("experiment", pa.string()), ("stratum", pa.string()), ("probability", pa.float64())]))
    schema = pa.schema([("profile_id", pa.int64()), ("country", pa.string()), ("experiments", chosen)])
    rows = [
        {
            "profile_id": profile,
            "country": ["BR", "US", None][profile % 3],
            "experiments": [{"experiment": e, "stratum": "even" if profile % 2 == 0 else "odd"} for e in ids],
        }
        for profile, ids in experiments.items()
    ]
    file = write_parquet(project.storage, f"context_sets/{number}.parquet", pa.Table.from_pylist(rows, schema), schema)
    ids = tuple(sorted({e for es in experiments.values() for e in es}))
    assert project.index.publish_context_set(
        ContextSet.of_one_key(f"set-{number}", day(number), ids, (PROFILE, COUNTRY), (file,), ())
    )


def moods(project, rows, run_id, buckets=1, failed=0):
    project.publish(MOODS, [((p,), hour * 60, "glad") for p, hour in rows], run_id, buckets, failed=failed)


def charts(project, rows, run_id):
    project.publish(CHARTS, [((country,), hour * 60, [1]) for country, hour in rows], run_id)


def versions(project, hours):
    for number, hour in enumerate(hours):
        table = pa.table({"video_id": [number]})
        publish_global(table, VIDEOS, minutes(hour * 60), project.storage, project.index, f"v{number}")


def travelled(project, moment, cell, experiment, max_age):
    """Travel there: what is found of the cell's element, by run."""
    there = TimeMachine(project.index, project.storage).at(moment, max_age)
    if not there.context_sets or cell.element not in set(there.keys()):
        return []
    view = (there.for_experiment(experiment) if experiment else there)[cell.element]
    assert cell.share == pytest.approx(view.coverage)
    rows = view.to_arrow().to_pylist()
    return rows if experiment else None


chosen = st.dictionaries(st.integers(0, 5), st.just(["every"]), min_size=1).map(
    lambda found: {p: [*ids, "odd"] if p % 2 else ids for p, ids in (found | {1: ["every"]}).items()}
)
runs = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 80)), min_size=1, max_size=6, unique=True),
        st.sampled_from([1, 4]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sets=st.dictionaries(st.integers(0, 3), chosen, min_size=1),
    runs=runs,
    charted=st.lists(st.tuples(st.sampled_from(["US", "BR"]), st.integers(0, 80)), min_size=1, max_size=4, unique=True),
    at=st.none() | st.sampled_from([time(0), time(13, 30)]),
    age=st.none() | st.integers(1, 40),
    experiment=st.sampled_from([None, "every", "odd"]),
)
def test_a_day_is_covered_as_who_travels_there_finds_it(sets, runs, charted, at, age, experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    max_age = None if age is None else timedelta(hours=age)
    with open_index(f"sqlite://{folder}/index.db") as index:
        project = Project(open_storage(f"file://{folder}/store"), index)
        for number, experiments in sets.items():
            contexts(project, number, experiments)
        for number, (rows, buckets) in enumerate(runs):
            moods(project, rows, f"run-{number}", buckets)
        charts(project, charted, "charts")
        found = day_coverage(
            index, project.storage, first=DAY, last=day(4), at=at, experiment=experiment, max_age=max_age
        )
        assert [cell.day for cell in found.cells] == [day(n) for n in range(5) for _ in range(2)]
        for cell in found.cells:
            moment = datetime.combine(cell.day, at or time.max, UTC)
            newest = max((n for n in sets if day(n) <= cell.day), default=None)
            assert found.context_sets.get(cell.day) == (None if newest is None else f"set-{newest}")
            profiles = [p for p, ids in sets.get(newest, {}).items() if (experiment or "every") in ids]
            keys = set(profiles) if cell.element == "mood" else {p % 3 for p in profiles if p % 3 < 2}
            assert cell.rows == len(keys)
            rows = travelled(project, moment, cell, experiment, max_age)
            if rows is not None:
                assert cell.found == len(rows)
                assert cell.runs == Counter(row["run_id"] for row in rows)
                ages = [(moment - row["captured_at"]).total_seconds() for row in rows]
                assert cell.age.longest == max(ages, default=None)
            assert sum(cell.absent.values()) == cell.rows - cell.found


@pytest.fixture
def week(project):
    """Contexts on days 0 and 2, moods on days 0, 1 and 3, charts once, videos from day 1 on."""
    contexts(project, 0, {p: ["long"] for p in range(6)})
    contexts(project, 2, {p: ["long", "short"] if p < 2 else ["long"] for p in range(4)})
    moods(project, [(p, 10) for p in range(6)], "mon", 4)
    moods(project, [(p, 34) for p in range(3)], "tue", failed=3)
    moods(project, [(p, 82) for p in range(3)], "thu")
    charts(project, [("US", 12)], "charts")
    versions(project, [30])
    return project


def cells(coverage, element):
    return [cell for cell in coverage.cells if cell.element == element]


def test_confidence_and_age_are_of_what_serves(week):
    coverage = day_coverage(week.index, week.storage, services=["moods"])
    assert [cell.day for cell in coverage.cells] == [day(n) for n in (0, 1, 2, 3)]
    assert [(cell.rows, cell.found) for cell in coverage.cells] == [(6, 6), (6, 6), (4, 4), (4, 4)]
    assert [cell.runs for cell in coverage.cells] == [
        {"mon": 6},
        {"mon": 3, "tue": 3},
        {"mon": 1, "tue": 3},
        {"mon": 1, "thu": 3},
    ]
    assert [cell.lowest_confidence for cell in coverage.cells] == [1.0, 0.5, 0.5, 1.0]
    assert [cell.mean_confidence for cell in coverage.cells] == [1.0, 0.75, 0.625, 1.0]
    assert coverage.cells[1].age.median == pytest.approx(14 * 3600, abs=1)
    assert coverage.cells[1].age.longest == pytest.approx(38 * 3600, abs=1)


def test_what_is_too_old_does_not_count(week):
    coverage = day_coverage(week.index, week.storage, services=["mood"], max_age=timedelta(hours=20))
    assert [(cell.found, cell.absent) for cell in coverage.cells] == [
        (6, {}),
        (3, {"too old": 3}),
        (0, {"too old": 4}),
        (3, {"too old": 1}),
    ]
    assert [cell.chief_reason for cell in coverage.cells] == [None, "too old", "too old", "too old"]


def test_a_key_that_several_contexts_share_counts_once(week):
    [first, *_] = cells(day_coverage(week.index, week.storage), "charts")
    assert (first.rows, first.found, first.absent) == (2, 1, {"never captured": 1})


def test_a_global_element_has_the_version_valid_on_the_day(week):
    found = cells(day_coverage(week.index, week.storage, at=time(6)), "videos")
    assert [(cell.service, cell.rows, cell.found, cell.runs) for cell in found] == [
        (None, 1, 0, {}),
        (None, 1, 1, {"v0": 1}),
        (None, 1, 1, {"v0": 1}),
        (None, 1, 1, {"v0": 1}),
    ]
    assert [cell.age.longest for cell in found] == [None, 0, 86_400, 2 * 86_400]


def test_a_version_is_valid_until_the_next_however_old(week):
    found = cells(day_coverage(week.index, week.storage, max_age=timedelta(hours=1)), "videos")
    assert [cell.found for cell in found] == [0, 1, 1, 1]


def test_a_service_whose_answer_changed_counts_as_it_was_on_the_day(week, monkeypatch):
    other = Service("moods", service_element("mood", "int64"), (PROFILE,))
    week.publish(other, [((0,), 70 * 60, 5)], "wed")
    found = cells(day_coverage(week.index, week.storage), "mood")
    assert [(cell.day, cell.found, cell.runs) for cell in found] == [
        (day(0), 6, {"mon": 6}),
        (day(1), 6, {"mon": 3, "tue": 3}),
        (day(2), 1, {"wed": 1}),
        (day(3), 1, {"wed": 1}),
    ]
    monkeypatch.undo()  # the last published of several newest snapshots says which type a view has
    there = TimeMachine(week.index, week.storage).at(datetime.combine(day(3), time.max, UTC))
    assert there["mood"].coverage == found[3].share


def test_captures_of_another_type_count_where_the_declared_type_can_be_read_from_them(week):
    other = Service("moods", service_element("mood", "large_string"), (PROFILE,))
    week.publish(other, [((0,), 70 * 60, "glad")], "wed")
    found = cells(day_coverage(week.index, week.storage), "mood")
    assert [(cell.found, cell.runs) for cell in found[2:]] == [
        (4, {"wed": 1, "tue": 2, "mon": 1}),
        (4, {"thu": 3, "mon": 1}),
    ]
    there = TimeMachine(week.index, week.storage).at(datetime.combine(day(3), time.max, UTC))
    assert there["mood"].coverage == found[3].share


def test_days_between_are_looked_at_when_both_ends_are_given(week):
    def days(**given):
        return sorted({cell.day for cell in day_coverage(week.index, week.storage, **given).cells})

    assert days(first=day(1)) == [day(1), day(2), day(3)]
    assert days(last=day(1)) == [day(0), day(1)]
    assert days(first=day(-1), last=day(5)) == [day(n) for n in range(-1, 6)]
    before = day_coverage(week.index, week.storage, first=day(-1), last=day(-1), services=["moods"])
    assert [(cell.rows, cell.share) for cell in before.cells] == [(0, None)]
    with pytest.raises(NotInIndexError, match="no day from 2026-05-09 to the end"):
        days(first=date(2026, 5, 9))


def test_contexts_are_grouped_by_a_variable(week):
    found = cells(day_coverage(week.index, week.storage, first=day(3), last=day(3), by="country"), "mood")
    assert [(cell.group, cell.rows, cell.runs) for cell in found] == [
        ("BR", 2, {"mon": 1, "thu": 1}),
        ("US", 1, {"thu": 1}),
        ("none", 1, {"thu": 1}),
    ]


def test_contexts_are_grouped_by_stratum(week):
    def groups(**given):
        coverage = day_coverage(week.index, week.storage, first=day(2), last=day(2), by="stratum", **given)
        return {cell.group: cell.rows for cell in cells(coverage, "mood")}

    assert groups(experiment="short") == {"even": 1, "odd": 1}
    assert groups() == {"long/even": 2, "long/odd": 2, "short/even": 1, "short/odd": 1}


def test_unknown_names_are_refused(week, tmp_path):
    for wrong, message in [
        ({"services": ["mods"]}, "did you mean 'mood"),
        ({"experiment": "lng"}, "did you mean 'long'"),
        ({"by": "contry"}, "did you mean 'country'"),
    ]:
        with pytest.raises(DataKeyError, match=message):
            day_coverage(week.index, week.storage, **wrong)
    with open_index(f"sqlite://{tmp_path}/empty.db") as empty, pytest.raises(NotInIndexError, match="nothing has been"):
        day_coverage(empty, week.storage)


def test_the_picture_shows_each_day_and_why_cells_lack_contexts(week):
    coverage = day_coverage(week.index, week.storage, max_age=timedelta(hours=20), by="country")
    drawn = to_html(coverage)
    for number in range(4):
        assert f"<th>{day(number)}</th>" in drawn
    assert "1 of 2, 1 too old" in drawn
    assert "<small>US</small>" in drawn
    assert "<small>too old</small>" in drawn
    page = to_page(coverage, "Coverage")
    assert page.startswith("<!doctype html>")
    assert "http" not in page


def test_names_are_shown_as_text(project):
    contexts(project, 0, {1: ["<b>bold</b>"]})
    moods(project, [(1, 10)], "<i>")
    drawn = to_html(day_coverage(project.index, project.storage, experiment="<b>bold</b>"))
    assert "<b>bold" not in drawn
    assert "<i>" not in drawn


def test_many_days_are_looked_at_in_turns_as_together(week):
    together = day_coverage(week.index, week.storage)
    assert day_coverage(week.index, week.storage, contexts_at_once=3) == together


def test_a_day_covers_the_contexts_of_all_its_keys_and_revisions_each_key_once(project):
    contexts(project, 0, {1: ["home"], 3: ["home"]})
    key = (context_variable("query", "string"), context_variable("profile_id", "int32"))
    by = [{"experiment": "search", "stratum": "all", "probability": 1.0}]
    rows = [{"query": query, "profile_id": profile, "experiments": by} for query in ("a", "b") for profile in (3, 4, 5)]
    table = pa.Table.from_pylist(rows, context_set_schema(key))
    file = write_parquet(project.storage, "context_sets/search.parquet", table, table.schema)
    searches = ContextSet.of_one_key("searches", day(0), ("search",), key, (file,))
    assert project.index.publish_context_set(replace(searches, revision=2))
    moods(project, [(3, 1), (4, 1)], "r")
    charts(project, [("BR", 1)], "c")

    def counted(**options):
        found = day_coverage(project.index, project.storage, **options)
        return {cell.element: (cell.rows, cell.found) for cell in found.cells if cell.day == day(0)}

    assert counted() == {"charts": (2, 1), "mood": (4, 2)}  # profile 3 is in both, and counts once
    assert counted(experiment="home") == {"charts": (2, 1), "mood": (2, 1)}
    assert counted(experiment="search")["mood"] == (3, 2)
    found = day_coverage(project.index, project.storage, by="query")
    assert {cell.group: cell.rows for cell in found.cells if cell.element == "mood"} == {"a": 3, "b": 3, "none": 2}
    assert found.context_sets == {day(0): "set-0, searches"}


def test_no_more_snapshots_are_read_than_days_need(project, monkeypatch):
    read, from_json = [], ServiceSnapshot.from_json

    def counted(fields):
        read.append(fields["run_id"])
        return from_json(fields)

    monkeypatch.setattr(ServiceSnapshot, "from_json", counted)
    contexts(project, 0, {1: ["home"]})
    counts = []
    for numbers in (range(60, 80), range(60)):
        for number in numbers:
            moods(project, [(1, 24 * number)], f"run-{number}")
        read.clear()
        found = day_coverage(project.index, project.storage, first=day(70), last=day(71))
        assert [cell.runs for cell in found.cells] == [{"run-70": 1}, {"run-71": 1}]
        counts.append(len(read))
    assert counts[0] == counts[1]
    newest = day_coverage(project.index, project.storage)
    assert [cell.day for cell in newest.cells] == [day(number) for number in range(49, 80)]

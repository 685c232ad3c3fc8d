"""Tables of what was selected and captured, named in a query."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, PROFILE, START, Project, minutes
from pyspark.sql import SparkSession

from schemas.data_keys import DataKey, context_variable, service_element
from schemas.errors import DataKeyError, LabelError, SelectionError
from schemas.services import Service
from schemas.tables import IS_FALLBACK, TIME
from snapshotter.index import open_index
from snapshotter.records import ContextSet
from snapshotter.selection.captured_values import FILE_NUMBER, PLACE, ROW_NUMBER, ValueReader
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.selection.context_table import selected_files
from snapshotter.selection.state_table import StateTable
from snapshotter.selection.state_tables import state_tables
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.table_loader import query_tables
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

DAY = START.date()
DEVICE = context_variable("device", "string")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield Project(open_storage(f"file://{tmp_path}/data"), index)


def select(project: Project, day: int, chosen: dict[int, list[tuple[str, str, float]]], key: Any = (PROFILE,)) -> str:
    """Publish a context set of profiles, each chosen by (experiment, stratum, probability)."""
    schema = context_set_schema(key)
    names = ("experiment", "stratum", "probability")
    chosen_by = {profile: [dict(zip(names, each, strict=True)) for each in by] for profile, by in chosen.items()}
    rows = [{"profile_id": profile, "device": "tv", "experiments": by} for profile, by in chosen_by.items()]
    at = DAY + timedelta(days=day)
    table = pa.Table.from_pylist(rows, schema=schema)
    parts = [table.slice(0, 2), table.slice(2)]
    files = [
        write_parquet(project.storage, f"context_sets/{at}/{part}.parquet", rows, schema)
        for part, rows in enumerate(parts)
    ]
    experiments = tuple(sorted({name for by in chosen.values() for name, *_ in by}))
    assert project.index.publish_context_set(ContextSet.of_one_key(f"set-{day}", at, experiments, key, files))
    return f"set-{day}"


def only(project: Project, call: str, day: date | None = None) -> StateTable:
    text, [table] = state_tables(f"SELECT * FROM {call} AS c", project.index, LabelError, day)
    assert text == f"SELECT * FROM {table.view} AS c"
    return table


def rows(project: Project, call: str, day: date | None = None) -> list[tuple[Any, ...]]:
    table = only(project, call, day)
    parts = [part.cast(table.schema) for file in table.files for part in table.read(project.storage, json.loads(file))]
    shown = [name for name in table.schema.names if name not in PLACE.names]
    return sorted(pl.DataFrame(pa.concat_tables([table.schema.empty_table(), *parts]).select(shown)).rows())


@pytest.fixture
def selected(project: Project) -> Project:
    home, search = ("home", "US", 0.5), ("search", "all", 0.125)
    select(project, 0, {1: [home], 2: [home, search], 3: [search], 4: [("home", "DE", 1.0)]})
    select(project, 1, {2: [home], 9: [home]})
    select(project, 2, {9: [search]})
    return project


def test_contexts_are_those_of_one_experiment_with_stratum_and_probability(selected: Project) -> None:
    first, second = DAY, DAY + timedelta(days=1)
    expected = [
        (1, first, "US", 0.5, "set-0"),
        (2, first, "US", 0.5, "set-0"),
        (2, second, "US", 0.5, "set-1"),
        (4, first, "DE", 1.0, "set-0"),
        (9, second, "US", 0.5, "set-1"),
    ]
    assert rows(selected, "contexts('home')") == expected
    assert only(selected, "contexts('home')").sources == ("set-0", "set-1")
    assert rows(selected, 'CONTEXTS ( "home" )', DAY) == [row for row in expected if row[1] == DAY]
    assert rows(selected, f"contexts('home', '{second}', '{second}')") == [row for row in expected if row[1] == second]


def test_only_files_of_the_dates_that_are_used_are_read(selected: Project) -> None:
    for entry in selected_files(selected.index, "home", DAY, DAY + timedelta(days=9)):
        if entry[1] != DAY:
            selected.storage.delete([file.path for file in entry[3]])
    assert len(rows(selected, f"contexts('home', '{DAY}', '{DAY}')")) == 3
    table = only(selected, f"contexts('home', '{DAY}', '{DAY}')")
    assert len(table.files) == 2  # a task for each


def test_captures_have_the_key_the_time_and_the_run_and_no_fallbacks(project: Project) -> None:
    project.history([((p,), 10 * p, []) for p in range(4)], "one", 2)
    project.history([((p,), 24 * 60 + p, []) for p in range(2)], "two")
    project.mood([((1,), 5, "good")], "other")
    expected = [(p, minutes(10 * p), "one") for p in range(4)] + [(p, minutes(24 * 60 + p), "two") for p in range(2)]
    assert rows(project, "captures('history')") == sorted(expected)
    assert rows(project, f"captures('history', '{DAY}', '{DAY}')") == sorted(expected[:4])
    next_day = DAY + timedelta(days=1)
    assert rows(project, "captures('history')", next_day) == sorted(expected[:4])  # before that day began
    assert only(project, "captures('history')", next_day).sources == ("one",)
    assert rows(project, f"captures('history', '{next_day}', '{next_day}')") == sorted(expected[4:])


def test_calls_in_texts_comments_and_other_functions_are_left_alone(selected: Project) -> None:
    text = """SELECT 'contexts(''home'')', "captures('x')", `contexts('home')`, my.contexts('home'), mycontexts('home'),
    contexts(profile_id) -- contexts('unknown')
    /* captures('unknown') */ FROM t"""
    assert state_tables(text, selected.index, LabelError) == (text, ())
    text, tables = state_tables(
        "FROM contexts('home') a JOIN contexts('home') b JOIN contexts('search') c", selected.index, LabelError
    )
    assert [table.call for table in tables] == ["contexts('home')", "contexts('search')"]
    assert text == "FROM contexts_of_home_1 a JOIN contexts_of_home_1 b JOIN contexts_of_search_2 c"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("contexts('homme')", "unknown experiment that selected contexts 'homme' → did you mean 'home'"),
        ("captures('histori')", "unknown captured element 'histori' → did you mean 'history'"),
        ("contexts('home', '2030-01-01', '2030-02-01')", "no contexts were selected on these dates"),
        ("contexts('home', 'may', 'june')", r"other arguments than a name and two dates → write contexts\('home'"),
        ("contexts('home', '2026-01-01')", "other arguments than a name and two dates"),
        ("contexts('home', '2026-01-02', '2026-01-01')", "the first date is after the last"),
        ("contexts('home', :date - 7, :date - 1)", "other arguments than a name and two dates"),
    ],
)
def test_wrong_calls_are_refused_by_name(selected: Project, call: str, message: str) -> None:
    selected.history([((1,), 1, [])], "run")
    for kind in (LabelError, SelectionError):
        with pytest.raises(kind, match=message):
            state_tables(f"SELECT * FROM {call}", selected.index, kind)


def test_a_key_that_changed_is_an_error_unless_the_dates_have_one_key(selected: Project) -> None:
    key: tuple[DataKey, ...] = (PROFILE, DEVICE)
    select(selected, 3, {5: [("home", "US", 0.5)]}, key)
    with pytest.raises(
        LabelError, match="key changed over these dates: profile_id: int64 and profile_id: int64, device"
    ):
        rows(selected, "contexts('home')")
    last = DAY + timedelta(days=3)
    assert rows(selected, f"contexts('home', '{last}', '{last}')") == [(5, "tv", last, "US", 0.5, "set-3")]


def test_fallbacks_are_no_captures(project: Project) -> None:
    times = pa.array([START, START], TIME)
    table = pa.table({"profile_id": [1, 2], "captured_at": times, "value": ["a", "b"], IS_FALLBACK: [True, False]})
    project.mood([((1,), 0, "a"), ((2,), 0, "b")], "run")
    state = only(project, "captures('mood')")
    file = write_parquet(project.storage, "snapshots/mood/run/9.parquet", table, table.schema)
    [part] = state.read(project.storage, {"file": file.to_json(), "id": "run", "number": 0})
    assert part.to_pylist() == [{"profile_id": 2, "captured_at": START, "run_id": "run", FILE_NUMBER: 0, ROW_NUMBER: 1}]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2_999)), min_size=1, max_size=50))
def test_values_are_read_in_the_order_of_their_places_as_the_newest_type(
    places: list[tuple[int, int]], three_types: tuple[Project, StateTable]
) -> None:
    project, table = three_types
    assert table.values is not None
    with ValueReader(project.storage, table.values.element, table.values.files) as reader:
        read = reader.read(*(np.array(each) for each in zip(*places, strict=True)))
    assert read.type == table.values.element.type
    device = {0: "unknown", 1: "unknown", 2: "tv"}
    assert read.to_pylist() == [{"plays": 10_000 * file + row, "device": device[file]} for file, row in places]


@pytest.fixture(scope="module")
def three_types(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, StateTable]]:
    """Captures of a service whose number became wider, and which then got a field; in several row groups."""
    folder = tmp_path_factory.mktemp("types")
    fields = ["plays: int32", "plays: int64", "plays: int64, device: string"]
    with open_index(f"sqlite://{folder}/index.db") as index, pytest.MonkeyPatch.context() as patched:
        patched.setattr("snapshotter.storage.parquet._ROW_GROUP_BYTES", 1)
        project = Project(open_storage(f"file://{folder}/data"), index)
        for n, each in enumerate(fields):
            default = {"device": "unknown"} if "device" in each else None
            service = Service("counts", service_element("counts", f"struct<{each}>", defaults=default), (PROFILE,))
            values = [{"plays": 10_000 * n + row, "device": "tv"} for row in range(3_000)]
            project.publish(service, [((row,), n, value) for row, value in enumerate(values)], f"run-{n}")
        yield project, only(project, "captures('counts')")


def test_a_selection_sees_earlier_dates_only_and_its_first_one_none(selected: Project) -> None:
    def table(call: str, day: date, **keys: Any) -> StateTable:
        _, [found] = state_tables(f"FROM {call}", selected.index, SelectionError, day, keys)
        return found

    key = {"home": ("profile_id",)}
    second = DAY + timedelta(days=1)
    assert table("contexts('home')", second, **key).sources == ("set-0",)
    assert table("contexts('home', :date - 1, :date)", second + timedelta(days=1), **key).sources == ("set-1",)
    for experiment, key_type in (("home", pa.null()), ("new", pa.null())):
        first = table(f"contexts('{experiment}')", DAY, **{experiment: ("profile_id",)})
        assert (first.files, first.schema.field("profile_id").type) == ((), key_type)
    assert table("contexts('search', :date-3, :date -2)", second, **key).schema.field("profile_id").type == pa.int64()
    with pytest.raises(SelectionError, match="unknown experiment that selected contexts 'hom' → did you mean 'home'"):
        table("contexts('hom')", second, **key)


def test_spark_reads_values_only_where_a_query_names_them(
    three_types: tuple[Project, StateTable], spark: SparkSession
) -> None:
    project, table = three_types
    other = Service("counts", service_element("counts", "string"), (PROFILE,))
    project.publish(other, [((9_000,), 9, "none")], "unreadable")
    table = only(project, "captures('counts')")
    assert table.values is not None
    frame = replace(table, values=replace(table.values, element=three_types[1].values.element)).to_spark(
        spark, project.storage.uri
    )
    assert frame.columns == ["profile_id", "captured_at", "run_id", "value"]
    assert frame.groupBy("run_id").count().count() == 4
    read = frame.where("run_id != 'unreadable'").selectExpr("sum(value.plays)", "count_if(value.device = 'tv')")
    assert tuple(read.first() or ()) == (sum(range(3_000)) * 3 + 30_000_000 + 60_000_000, 3_000)
    with (
        pytest.raises(DataKeyError, match="'counts' has string, which cannot be read as struct"),
        spark_errors_as(LabelError, "values"),
    ):
        frame.where("profile_id = 9000").select("value").collect()


def test_spark_joins_them_in_one_query(selected: Project, spark: SparkSession) -> None:
    selected.history([((p,), 60 + p, []) for p in (1, 2, 3)], "run", 2)
    text, tables = state_tables(
        "SELECT profile_id, stratum, inclusion_probability, captured_at, run_id FROM contexts('home') JOIN "
        f"captures('{HISTORY.name}') USING (profile_id) WHERE date = :date",
        selected.index,
        LabelError,
        DAY + timedelta(days=1),
    )
    frames = {table.view: table.to_spark(spark, selected.storage.uri) for table in tables}
    result = query_tables(spark, text, {}, LabelError, DAY, frames)
    assert sorted(tuple(row)[:3] for row in result.collect()) == [(1, "US", 0.5), (2, "US", 0.5)]
    assert not any(table.name.startswith("contexts_of") for table in spark.catalog.listTables())

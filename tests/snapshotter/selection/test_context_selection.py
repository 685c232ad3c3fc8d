from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from deltalake import DeltaTable
from project_at_rest import START, Project
from pyspark.sql import SparkSession

from schemas.data_keys import context_variable
from schemas.errors import DataKeyError, SelectionError
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextSet
from snapshotter.selection import contexts_of, read_contexts
from snapshotter.selection.context_selection import read_context_set, select_contexts
from snapshotter.storage import Storage
from snapshotter.storage.table_source import TableSource

DAY = date(2026, 1, 5)
KEY = ("profile_id", "country")


def chosen(context_set: ContextSet, storage: Storage) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    rows = read_context_set(context_set, storage).to_pylist()
    [group] = context_set.groups
    return {tuple(row[variable.name] for variable in group.key): row["experiments"] for row in rows}


def test_a_quota_is_taken_of_each_stratum_with_its_probability(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    found = select_contexts(spark, [experiment(quota={"US": 120, "default": 60})], DAY, storage, index)
    assert [(row.stratum, row.population, row.asked, row.taken) for row in found.report] == [
        ("FR", 300, 60, 60),
        ("JP", 100, 60, 60),
        ("US", 600, 120, 120),
    ]
    contexts = chosen(found, storage)
    assert len(contexts) == found.rows == 240
    for (profile, country), why in contexts.items():
        assert profile < 1000  # of the day asked for
        probability = {"US": 0.2, "FR": 0.2, "JP": 0.6}[country]
        assert why == [{"experiment": "watchers", "stratum": country, "probability": probability}]
    assert found.groups[0].key == (context_variable("profile_id", "int64"), context_variable("country", "string"))
    assert index.context_set(DAY) == found


def test_partitions_and_order_of_rows_change_nothing(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    first = select_contexts(spark, [experiment()], DAY, storage, index)
    found = []
    for day, hint in ((6, "REPARTITION(7)"), (7, "REPARTITION(1)"), (8, "REPARTITION(5, device)")):
        query = f"SELECT /*+ {hint} */ * FROM impressions WHERE date = DATE'{DAY}' ORDER BY profile_id DESC, date"
        found.append(select_contexts(spark, [experiment(query=query)], date(2026, 1, day), storage, index))
    assert all(chosen(other, storage) == chosen(first, storage) for other in found)
    assert len({other.context_set_id for other in found}) == 3


def test_another_seed_gives_another_sample(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    one = chosen(select_contexts(spark, [experiment(seed=1)], DAY, storage, index), storage)
    elsewhere = open_index(index.uri + ".other")  # type: ignore[attr-defined]  # of SqliteIndex
    with elsewhere:
        two = chosen(select_contexts(spark, [experiment(seed=2)], DAY, storage, elsewhere), storage)
    assert len(one) == len(two)
    assert 0 < len(one.keys() & two.keys()) < len(one)


def test_what_was_selected_and_captured_before_can_be_named(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    def profiles(day: date, *experiments: Any) -> set[int]:
        found = select_contexts(spark, experiments, day, storage, index)
        assert not found.failed
        return set(read_context_set(found, storage)["profile_id"].to_pylist())

    fresh = """
        SELECT profile_id, country, device FROM impressions LEFT ANTI JOIN contexts('fresh', :date - 2, :date)
        USING (profile_id, country)
        """
    answered = """
        SELECT m.profile_id FROM contexts('fresh', :date - 1, :date - 1) c
        JOIN captures('mood') m ON m.profile_id = c.profile_id AND m.value = 'glad'
        """
    Project(storage, index).mood([((profile,), 0, "glad") for profile in range(2_000)], "run")
    both = (experiment("fresh", query=fresh), experiment("answered", query=answered, key=("profile_id",), strata=()))
    first = profiles(START.date() + timedelta(days=1), both[0])
    second = profiles(START.date() + timedelta(days=2), both[0])
    assert len(first) == len(second) == 150
    assert not first & second
    third = select_contexts(spark, both, START.date() + timedelta(days=3), storage, index)
    populations = Counter[str]()
    for row in third.report:
        populations[row.experiment] += row.population
    assert populations == {"fresh": 2_000 - len(first | second), "answered": len(second)}
    late = experiment("late", query="SELECT profile_id FROM captures('mood')", key=("profile_id",), strata=())
    with pytest.raises(SelectionError, match="experiment 'late' selected nothing"):
        profiles(START.date(), late)  # captured on that day
    with pytest.raises(SelectionError, match="experiment 'late': unknown captured element 'mod' → did you mean 'mood'"):
        profiles(START.date(), replace(late, query="SELECT profile_id FROM captures('mod')"))


def test_a_fraction_is_exact_and_rounded_up(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    found = select_contexts(spark, [experiment(fraction=0.011)], DAY, storage, index)
    assert {row.stratum: row.taken for row in found.report} == {"US": 7, "FR": 4, "JP": 2}
    assert experiment(fraction=0.1).sample_size(("US",), 30) == 3  # not 4, as floats would have it


def test_an_unfilled_stratum_is_a_warning_with_its_name(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = select_contexts(spark, [experiment(quota={"JP": 200, "DE": 5, "default": 10})], DAY, storage, index)
    assert {row.stratum: (row.population, row.asked, row.taken) for row in found.report if not row.filled} == {
        "JP": (100, 200, 100),
        "DE": (0, 5, 0),
    }
    assert "stratum 'JP' has 100 contexts, 200 were requested" in caplog.text
    assert "stratum 'DE' has 0 contexts, 5 were requested" in caplog.text
    assert "'US'" not in caplog.text


def test_several_columns_of_strata_take_nested_quotas(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    spec = experiment(
        key=(*KEY, "device"), strata=("country", "device"), quota={"US": {"tv": 30, "default": 7}, "default": 3}
    )
    found = select_contexts(spark, [spec], DAY, storage, index)
    assert {row.stratum: row.taken for row in found.report} == {
        "US/tv": 30,
        "US/phone": 7,
        **{f"{country}/{device}": 3 for country in ("FR", "JP") for device in ("tv", "phone")},
    }


def test_the_union_says_who_chose_each_context(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    everyone = experiment("everyone", strata=(), quota=1000)
    found = select_contexts(spark, [experiment(), everyone], DAY, storage, index)
    contexts = chosen(found, storage)
    assert len(contexts) == found.rows == 1000
    assert all(whys[0]["experiment"] == "everyone" for whys in contexts.values())
    both = [whys for whys in contexts.values() if len(whys) == 2]
    assert len(both) == 150
    assert {why["probability"] for whys in both for why in whys if why["experiment"] == "everyone"} == {1.0}
    assert [(row.experiment, row.stratum, row.taken) for row in found.report][-1] == ("everyone", "all", 1000)
    assert found.experiments == ("watchers", "everyone")


def test_contexts_are_saved_sorted_by_their_key(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    found = select_contexts(spark, [experiment()], DAY, storage, index)
    keys = list(chosen(found, storage))
    assert len(found.files) == 1
    assert keys == sorted(keys)


def test_a_date_keeps_the_contexts_that_it_has(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex, caplog: pytest.LogCaptureFixture
) -> None:
    first = select_contexts(spark, [experiment()], DAY, storage, index)
    files = list(storage.list("context_sets"))
    with caplog.at_level(logging.WARNING):
        assert select_contexts(spark, [experiment(quota=9)], DAY, storage, index) == first
    assert f"{DAY} has the context set {first.context_set_id} already" in caplog.text
    assert list(storage.list("context_sets")) == files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": "SELEC profile_id FROM impressions"}, r"experiment 'watchers': \[PARSE_SYNTAX_ERROR\].*'SELEC'"),
        ({"query": "SELECT * FROM impresions"}, r"'watchers': \[TABLE_OR_VIEW_NOT_FOUND\].*impresions"),
        ({"query": "SELECT profil_id FROM impressions"}, r"'watchers': \[UNRESOLVED_COLUMN.*profil_id.*profile_id"),
        (
            {"key": ("profile", "country")},
            r"'watchers': in the result of its query: unknown column 'profile' → did you mean 'profile_id'",
        ),
        ({"strata": ("region",)}, "'watchers': in the result of its query: unknown column 'region'"),
        ({"query": "SELECT * FROM impressions WHERE date = :day"}, r"'watchers': \[UNBOUND_SQL_PARAMETER\].*day"),
        (
            {"query": "SELECT * FROM impressions WHERE date > :date"},
            "experiment 'watchers' selected nothing → check the query",
        ),
        ({"quota": 0}, "experiment 'watchers' selected nothing"),
        (
            {"query": "SELECT nullif(profile_id % 10, 0) profile_id, country FROM impressions"},
            "'watchers': key column 'profile_id' is null in 1 distinct contexts",
        ),
        (
            {"query": "SELECT profile_id, nullif(country, 'JP') country FROM impressions", "key": ("profile_id",)},
            "'watchers': stratum column 'country' is null in 200 distinct contexts",
        ),
        (
            {"query": "SELECT profile_id % 10 profile_id, date country FROM impressions", "key": ("profile_id",)},
            r"'watchers': the context profile_id = \d lies in 2 strata of \['country'\]",
        ),
        ({"query": "SELECT 1.5D profile_id, country FROM impressions"}, "key column 'profile_id' is double"),
        (
            {"query": "SELECT TIMESTAMP_NTZ'2026-01-01 00:00:00' profile_id, country FROM impressions"},
            "'watchers': 'profile_id' is timestamp.*a time without a zone",
        ),
        (
            {"query": "SELECT if(country = 'JP', raise_error('tired'), 1) profile_id, country FROM impressions"},
            r"'watchers': .*tired",
        ),
        (
            {"tables": {"impressions": TableSource("/nowhere/at/all")}},
            r"'watchers': \[PATH_NOT_FOUND\].*/nowhere/at/all",
        ),
        (
            {"tables": {"impressions": TableSource("/nowhere", "parket")}},
            r"table 'impressions': Spark cannot read the format 'parket' → write one of parquet, delta, iceberg, table",
        ),
    ],
)
def test_what_cannot_be_selected_is_one_clear_error_and_nothing_is_published(
    spark: SparkSession,
    experiment: Any,
    storage: Storage,
    index: SnapshotIndex,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(SelectionError, match=message) as raised:
        select_contexts(spark, [experiment(**changes)], DAY, storage, index)
    assert len(str(raised.value)) < 700
    assert "\n" not in str(raised.value)
    assert index.context_sets(date.max) == []
    assert spark.catalog.listTables() == []


def test_experiments_that_cannot_be_selected_cost_no_other(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {
        "nobody": {"query": "SELECT * FROM impressions WHERE false"},
        "typo": {"query": "SELEC profile_id FROM impressions"},
        "tired": {"query": "SELECT if(country = 'JP', raise_error('tired'), 1) profile_id, country FROM impressions"},
        "null": {"query": "SELECT nullif(profile_id % 10, 0) profile_id, country FROM impressions"},
        "half": {"query": "SELECT 1.5D profile_id, country FROM impressions"},
    }
    experiments = [experiment(name, **changes) for name, changes in wrong.items()]
    with caplog.at_level(logging.WARNING):
        found = select_contexts(spark, [*experiments[:2], experiment(), *experiments[2:]], DAY, storage, index)
    assert (found.experiments, found.rows) == (("watchers",), 150)
    assert [failed.id for failed in found.failed] == list(wrong)
    messages = ["selected nothing", "PARSE_SYNTAX_ERROR", "tired", "is null in 1 distinct", "is double"]
    for failed, message in zip(found.failed, messages, strict=True):
        assert message in failed.error
        assert failed.error in caplog.text
        assert failed.final is False
    assert index.context_set(DAY) == found
    next_day = DAY + timedelta(days=1)
    with pytest.raises(SelectionError, match="no experiment selected contexts: .*nobody.*; .*typo"):
        select_contexts(spark, experiments[:2], next_day, storage, index)
    assert index.context_sets_of(next_day) == []


def test_experiments_of_each_key_are_a_group_with_files_of_its_own(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    as_text = "SELECT CAST(profile_id AS STRING) profile_id, country FROM impressions WHERE date = :date"
    found = select_contexts(
        spark,
        [
            experiment("a"),
            experiment("by_device", key=("device", "profile_id"), strata=("device",), services=("history",)),
            experiment("as_text", query=as_text),
            experiment("b", quota=70),
        ],
        DAY,
        storage,
        index,
    )
    assert [(group.key_text, [each.id for each in group.experiments]) for group in found.groups] == [
        ("profile_id: int64, country: string", ["a", "b"]),
        ("device: string, profile_id: int64", ["by_device"]),
        ("profile_id: string, country: string", ["as_text"]),
    ]
    assert [group.rows for group in found.groups] == [210, 100, 150]  # the smaller sample is in the larger
    assert [each.services for group in found.groups for each in group.experiments] == [None, None, ("history",), None]
    tables = [DeltaTable(f"{storage.uri}/{group.table}".removeprefix("file://")) for group in found.groups]
    for group, table in zip(found.groups, tables, strict=True):
        rows = read_contexts(group, storage)
        assert table.to_pyarrow_table().num_rows == rows.num_rows == group.rows
        ids = {each["experiment"] for chosen_by in rows["experiments"].to_pylist() for each in chosen_by}
        assert ids == {each.id for each in group.experiments}
    assert len({group.table for group in found.groups}) == 3
    assert index.context_set(DAY) == found
    by_device = read_context_set(found, storage, ["device"])
    assert by_device.num_rows == 100
    assert [each.group for each in contexts_of(index, "by_device")] == [found.groups[1]]
    with pytest.raises(DataKeyError, match="contexts of different keys cannot be read together"):
        read_context_set(found, storage)
    with pytest.raises(DataKeyError, match="unknown column of context set .* 'devic' → did you mean 'device'"):
        read_context_set(found, storage, ["devic"])


def test_two_experiments_with_one_id_are_refused_before_any_work(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    other = experiment(query="SELECT 1 AS profile_id, 'US' AS country")
    with pytest.raises(SelectionError, match="two experiments have the id 'watchers': .*'SELECT prof.* and .SELECT 1"):
        select_contexts(spark, [experiment(), other], DAY, storage, index)
    with pytest.raises(SelectionError, match="no experiment"):
        select_contexts(spark, [], DAY, storage, index)
    assert list(storage.list("context_sets")) == []


def test_a_view_of_the_callers_is_neither_hidden_nor_lost(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    spark.range(3).createTempView("impressions")
    try:
        with pytest.raises(SelectionError, match="TEMP_TABLE_OR_VIEW_ALREADY_EXISTS"):
            select_contexts(spark, [experiment()], DAY, storage, index)
        assert spark.table("impressions").count() == 3
    finally:
        spark.catalog.dropTempView("impressions")

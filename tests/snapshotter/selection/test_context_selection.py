from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from schemas.data_keys import context_variable
from schemas.errors import SelectionError
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextSet
from snapshotter.selection.context_selection import NamedSelection, read_context_set, select_contexts
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.table_source import TableSource

DAY = date(2026, 1, 5)
KEY = ("profile_id", "country")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SnapshotIndex]:
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield index


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/data")


@pytest.fixture(scope="session")
def impressions(tmp_path_factory: pytest.TempPathFactory) -> TableSource:
    """1000 profiles, each seen three times on the day and once the day before; 600 in US, 300 in FR, 100 in JP."""
    folder = tmp_path_factory.mktemp("impressions")
    ids = [i % 1000 for i in range(3000)] + list(range(1000, 2000))
    days = [DAY] * 3000 + [date(2026, 1, 4)] * 1000
    countries = ["US" if i % 10 < 6 else "FR" if i % 10 < 9 else "JP" for i in ids]
    devices = ["tv" if i % 3 == 0 else "phone" for i in ids]
    table = pa.table({"profile_id": ids, "country": countries, "device": devices, "date": days})
    for part in range(4):
        pq.write_table(table.slice(part * 1000, 1000), folder / f"{part}.parquet")
    return TableSource(str(folder))


@pytest.fixture
def experiment(impressions: TableSource) -> Any:
    def make(name: str = "watchers", **changes: Any) -> NamedSelection:
        query = "SELECT profile_id, country, device FROM impressions WHERE date = :date"
        given: dict[str, Any] = {
            "query": query,
            "key": KEY,
            "strata": ("country",),
            "tables": {"impressions": impressions},
        }
        if "fraction" not in changes:
            given["quota"] = 50
        return NamedSelection(id=name, **{**given, **changes})

    return make


def chosen(context_set: ContextSet, storage: Storage) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    rows = read_context_set(context_set, storage).to_pylist()
    return {tuple(row[variable.name] for variable in context_set.key): row["experiments"] for row in rows}


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
    assert found.key == (context_variable("profile_id", "int64"), context_variable("country", "string"))
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


def test_a_date_keeps_the_context_set_it_has(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex, caplog: pytest.LogCaptureFixture
) -> None:
    first = select_contexts(spark, [experiment()], DAY, storage, index)
    files = list(storage.list("context_sets"))
    with caplog.at_level(logging.WARNING):
        assert select_contexts(spark, [experiment("other", quota=9)], DAY, storage, index) == first
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
            "the context set would be empty: 'watchers' selected",
        ),
        ({"quota": 0}, "the context set would be empty: 'watchers' selected nothing"),
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
            r"'watchers': .*DATA_SOURCE_NOT_FOUND.*parket",
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


def test_one_experiment_that_selects_nothing_is_a_warning(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = experiment("nobody", query="SELECT * FROM impressions WHERE false")
    with caplog.at_level(logging.WARNING):
        found = select_contexts(spark, [experiment(), nobody], DAY, storage, index)
    assert found.rows == 150
    assert "selected nothing: 'nobody'" in caplog.text


def test_experiments_of_one_selection_share_one_key(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    with pytest.raises(SelectionError, match="one selection has one key"):
        select_contexts(spark, [experiment(), experiment("b", key=("profile_id",))], DAY, storage, index)
    text = "SELECT CAST(profile_id AS STRING) profile_id, country FROM impressions"
    with pytest.raises(SelectionError, match="'b' has the key profile_id: string.*'watchers' has profile_id: int64"):
        select_contexts(spark, [experiment(), experiment("b", query=text)], DAY, storage, index)
    with pytest.raises(SelectionError, match="two experiments have the id 'watchers'"):
        select_contexts(spark, [experiment(), experiment()], DAY, storage, index)
    with pytest.raises(SelectionError, match="no experiment"):
        select_contexts(spark, [], DAY, storage, index)


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

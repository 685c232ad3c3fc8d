"""Files as pandas, Polars, Spark and DuckDB really write them are published again and again, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from deltalake import write_deltalake
from iceberg_lake import add_version_hint, delete_beside, lake_in, new_table
from s3_server import S3Server

from delorean.cli.commands import cli
from snapshotter.spark.table_rows import table_rows
from snapshotter.storage import foreign_parquet, open_storage
from snapshotter.storage.s3 import S3Storage
from snapshotter.storage.table_source import TableSource

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT = "2099-01-01T00:00:00Z"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli, list(words))


def shown(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def pandas_frame(path: str) -> None:
    """Times in nanoseconds, categories, an index that a filter left, names that are no identifiers."""
    frame = pd.DataFrame(
        {
            "product id": [1, 2, 3],
            "listed_at": pd.to_datetime([NOON] * 3),
            "release-year": [2024, 2025, 2026],
            "kind": pd.Categorical(["a", None, "b"]),
            "opens: at, <when>": [time(9), time(10), time(11)],
            "a.b": [Decimal("1.50")] * 3,
            "took": pd.to_timedelta([1, 2, 3], unit="s"),
            "größe": pd.array([1, 2, 3], dtype="Int16"),
            "local": pd.to_datetime([NOON] * 3).tz_convert("Europe/Berlin"),
            "day": [date(2026, 1, 1)] * 3,
        }
    )
    frame[frame["product id"] > 1].to_parquet(path)


def polars_frame(path: str) -> None:
    """Large and view strings, Categorical, Enum, fixed lists, milliseconds."""
    pl.DataFrame(
        {
            "product id": [2, 3],
            "listed_at": pl.Series([NOON] * 2, dtype=pl.Datetime("ms", "UTC")),
            "release-year": [2025, 2026],
            "kind": pl.Series([None, "b"], dtype=pl.Categorical),
            "shelf": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])),
            "box": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int16, 2)),
            "nested": [[{"a: b": "x", "release-year": 1}], []],
            "took": [timedelta(minutes=1)] * 2,
            "price": pl.Series([Decimal("1.5")] * 2),
        }
    ).write_parquet(path)


def duckdb_query(path: str) -> None:
    duckdb.sql(
        "COPY (SELECT unnest([2, 3])::BIGINT AS \"product id\", TIMESTAMPTZ '2026-01-01 12:00:00+00' AS listed_at,"
        " 2026 AS \"release-year\", 'b'::ENUM('a', 'b') AS kind,"
        " '5f1e0c1e-0d6b-4c3a-9a51-0242ac120002'::UUID AS id, MAP(['k'], [1]) AS tags, [1, 2] AS box,"
        " DATE '2026-01-01' AS day, TIME '09:00:00' AS opens, 1.5::DECIMAL(5, 2) AS price, '{}'::JSON AS more)"
        f" TO '{path}' (FORMAT parquet)"
    )


def spark_like(path: str) -> None:
    """Columns that are REQUIRED, at every depth, and times in milliseconds."""
    year = pa.field("release-year", pa.int64(), nullable=False)
    schema = pa.schema(
        [
            pa.field("product id", pa.int64(), nullable=False),
            pa.field("listed_at", pa.timestamp("ms", "UTC"), nullable=False),
            year,
            pa.field("kind", pa.string()),
            pa.field("past", pa.list_(pa.field("element", pa.struct([year]), nullable=False)), nullable=False),
        ]
    )
    rows = [
        {"product id": n, "listed_at": NOON, "release-year": 2024, "kind": "b", "past": [{"release-year": 2023}]}
        for n in (3, 2)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


@pytest.mark.parametrize("write", [pandas_frame, polars_frame, duckdb_query, spark_like])
def test_what_other_programs_write_is_published_again_and_again_and_read(
    run: Run, write: Callable[[str], None]
) -> None:
    for version in ("v1", "v2"):
        write("products.parquet")
        words = ("publish", "products", "products.parquet", "--version-id", version, "--json")
        assert shown(run(*words)) == {"element": "products", "version": version, "rows": 2, "new": True}
    assert shown(run("publish", "products", "products.parquet", "--version-id", "v1", "--json"))["new"] is False
    same = run("publish", "products", "products.parquet", "--version-id", "v3", "--if-changed", "--json")
    assert shown(same)["new"] is False
    listed = shown(run("index", "globals", "products", "--json"))
    assert [row["version"] for row in listed["versions"]][-2:] == ["v2", "v1"]
    rows = shown(run("travel", "products", "--at", AT, "--json"))["rows"]
    assert [row["product id"] for row in rows] == [2, 3]
    assert {row["listed_at"] for row in rows} == {"2026-01-01T12:00:00+00:00"}
    assert {row["kind"] for row in rows} <= {None, "b"}
    assert run("travel", "products", "--at", AT).exit_code == 0
    assert shown(run("vacuum", "--json"))["files"] == 0


@pytest.mark.parametrize(
    ("columns", "reported"),
    [
        ({"id": [1], "at": pa.array([1], pa.timestamp("ns"))}, "'p.at' is timestamp[ns]: a time without a zone"),
        ({"id": [1], "at": pa.array([1], pa.timestamp("ns", "UTC"))}, "would lose data: 1 → round it to whole micro"),
        ({"id": [1], "x": pa.nulls(1)}, "'p.x' is null, which is not supported → write the column with the type"),
        (
            {"id": [1], "x": pa.array([None], pa.int64())},
            "'p.x' is null at position 0: encoders cannot read a null int64",
        ),
        ({"id": [[1]]}, "'p.id' is list<item: int64>, which cannot be the key of the table's rows → put a column"),
        ({"id": [1, 1]}, "'p.id' has nulls or repeats, but it is the key"),
        ({}, "global element 'p' has type struct<>, expected a struct"),
    ],
)
def test_what_cannot_be_published_is_refused_and_nothing_is_written(
    run: Run, tmp_path: Path, columns: dict[str, Any], reported: str
) -> None:
    pq.write_table(pa.table(columns), "p.parquet")
    refused = run("publish", "p", "p.parquet", "--version-id", "v1")
    assert refused.exit_code == 2
    assert reported in refused.output
    assert not list(tmp_path.rglob("globals"))
    pq.write_table(pa.table({"id": [1]}), "p.parquet")
    assert run("publish", "p", "p.parquet", "--version-id", "v1").exit_code == 0


def test_an_index_of_pandas_with_a_name_is_the_key(run: Run) -> None:
    pd.DataFrame({"title": ["x", "y"], "id": [5, 4]}).set_index("id").to_parquet("p.parquet")
    assert run("publish", "p", "p.parquet", "--version-id", "v1").exit_code == 0
    rows = shown(run("travel", "p", "--at", AT, "--json"))["rows"]
    assert rows == [{"id": 4, "title": "y"}, {"id": 5, "title": "x"}]


def test_times_that_spark_wrote_as_int96_are_instants_and_others_are_refused(run: Run) -> None:
    times = pa.array([NOON.replace(tzinfo=None)], pa.timestamp("us"))
    past = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([times, pa.array([7])], ["at", "release-year"]))
    table = pa.table({"id": [1], "at": times, "past": past})
    for marks, reported in (({}, "a time without a zone"), ({"org.apache.spark.version": "3.5.1"}, "version")):
        as_spark = {"use_deprecated_int96_timestamps": True, "store_schema": False}
        with pq.ParquetWriter("p.parquet", table.schema, **as_spark) as file:
            file.write_table(table)
            file.add_key_value_metadata(marks)
        done = run("publish", "p", "p.parquet", "--version-id", "v1")
        assert done.exit_code == (0 if marks else 2)
        assert reported in done.output
    noon = "2026-01-01T12:00:00+00:00"
    rows = shown(run("travel", "p", "--at", AT, "--json"))["rows"]
    assert rows == [{"id": 1, "at": noon, "past": [{"at": noon, "release-year": 7}]}]


def test_a_folder_as_spark_writes_it_is_one_table(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "products"
    folder.mkdir()
    for part in (1, 0):
        pq.write_table(pa.table({"id": [part], "title": [f"t{part}"]}), folder / f"part-0000{part}-x.snappy.parquet")
    (folder / "_SUCCESS").write_text("")
    assert run("publish", "p", "products", "--version-id", "v1").exit_code == 0
    assert [row["id"] for row in shown(run("travel", "p", "--at", AT, "--json"))["rows"]] == [0, 1]
    (tmp_path / "empty").mkdir()
    assert "contains no file *.parquet" in run("publish", "p", "empty", "--version-id", "v2").output
    (tmp_path / "day=5").mkdir()
    pq.write_table(pa.table({"id": [1]}), tmp_path / "day=5/p.parquet")
    assert run("publish", "q", "day=5/p.parquet", "--version-id", "v1").exit_code == 0
    assert shown(run("travel", "q", "--at", AT, "--json"))["rows"] == [{"id": 1}]


def written(folder: Path, name: str, ids: list[int], **columns: Any) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": ids, **columns}), folder / name, row_group_size=2)


def published(run: Run, *words: str) -> list[dict[str, Any]]:
    assert shown(run("publish", "p", *words, "--json"))["new"] is True
    rows: list[dict[str, Any]] = shown(run("travel", "p", "--at", AT, "--json"))["rows"]
    return rows


def test_folders_name_values_and_files_may_be_of_several_types(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    written(folder, "day=5/country=US/b.parquet", [3, 1], title=pa.array(["x", "y"], pa.large_string()))
    written(folder, "day=6/country=A%20B/a.parquet", [4], title=["z"], price=[1.5])
    written(
        folder, "day=6/country=__HIVE_DEFAULT_PARTITION__/a.parquet", [2], title=["w"], price=pa.array([2], pa.int64())
    )
    written(folder, "_temporary/x.parquet", [9], title=["no"])
    (folder / "_SUCCESS").write_text("")
    rows = published(run, "t", "--version-id", "v1")
    assert [row["country"] for row in rows] == ["US", None, "US", "A B"]
    assert [row["day"] for row in rows] == [5, 6, 5, 6]
    assert [row["price"] for row in rows] == [None, 2.0, None, 1.5]
    written(folder, "day=7/country=US/a.parquet", [5], title=[7])
    assert "its files have columns of different types" in run("publish", "p", "t", "--version-id", "v2").output
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log/0.json").write_text("{}")
    assert "is a Delta table" in run("publish", "p", "t", "--version-id", "v2").output


def test_delta_and_iceberg_tables_are_published_as_of_a_version(run: Run, tmp_path: Path) -> None:
    for ids in ([2, 1], [3]):
        write_deltalake(str(tmp_path / "delta"), pa.table({"id": ids, "title": ["x"] * len(ids)}), mode="append")
    assert [row["id"] for row in published(run, "delta", "--format", "delta", "--version-id", "v1")] == [1, 2, 3]
    old = published(run, "delta", "--format", "delta", "--version", "0", "--version-id", "v2")
    assert [row["id"] for row in old] == [1, 2]
    table = new_table(lake_in(tmp_path), "films", pa.table({"id": [3, 2, 1], "title": pa.array(["c", "b", "a"])}))
    delete_beside(table, [1])
    folder, first = add_version_hint(table), str(table.snapshots()[0].snapshot_id)
    assert [row["id"] for row in published(run, folder, "--format", "iceberg", "--version-id", "v3")] == [1, 3]
    pinned = published(run, folder, "--format", "iceberg", "--version", first, "--version-id", "v4")
    assert [row["id"] for row in pinned] == [1, 2, 3]
    settings = 'films = { path = "FOLDER", format = "iceberg" }\nothers = "delta/x.parquet"'.replace("FOLDER", folder)
    with (tmp_path / "delorean.toml").open("a") as file:
        file.write(f"[schedule.globals]\n{settings}\n")
    assert shown(run("publish", "films", "--version-id", "v1", "--json"))["rows"] == 2
    for words, message in (
        (("no-table", "--format", "delta"), "there is no Delta table at no-table"),
        (("no-table", "--format", "iceberg"), "the Iceberg table at no-table cannot be opened"),
        (("no-table",), "no-table: cannot be read as Parquet"),
        (("a; b", "--format", "table"), "'a; b' is not the name of a table in Spark's catalogue"),
    ):
        refused = run("publish", "p", *words, "--version-id", "v9")
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output


def test_parquet_in_s3_is_published_and_only_what_is_read_of_it_is_fetched(
    run: Run, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = s3.new_uri()
    storage, (root, _, query) = open_storage(uri), uri.partition("?")
    values = np.random.default_rng(5).random((4, 100_000))
    for name, ids in (("t/day=5/a", range(100_000)), ("t/day=6/b", range(100_000, 200_000))):
        table = pa.table({"id": ids, **{f"x{at}": each for at, each in enumerate(values)}})
        with storage.open_output(f"{name}.parquet") as output:
            pq.write_table(table, output, row_group_size=10_000)
    with storage.open_output("t/_SUCCESS") as output:
        output.write(b"")
    fetched: list[int] = []
    fetch = S3Storage._fetch

    def counting(
        self: S3Storage, key: str, file: int, piece: tuple[int, int], tag: str | None = None
    ) -> tuple[int, str]:
        fetched.append(piece[1] - piece[0])
        return fetch(self, key, file, piece, tag)

    monkeypatch.setattr(S3Storage, "_fetch", counting)
    monkeypatch.setattr(foreign_parquet, "_AHEAD_BYTES", 64 << 10)
    monkeypatch.setattr(foreign_parquet, "_KEPT_BYTES", 1 << 20)
    rows = table_rows(TableSource(f"{root}/t?{query}"), pytest.fail)
    assert rows.schema.field("day").type == pa.int32()
    next(rows)
    assert sum(fetched) < sum(file.bytes for file in storage.list("t")) / 2
    assert (
        shown(run("publish", "p", f"{root}/t/day=5/a.parquet?{query}", "--version-id", "v1", "--json"))["rows"]
        == 100_000
    )
    missing = run("publish", "p", f"{root}/u?{query}", "--version-id", "v2")
    assert "contains no file *.parquet" in missing.output

"""Queries read Iceberg tables and whatever Spark's catalogue knows; each wrong name or format is one clear error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from iceberg_lake import add_version_hint, delete_beside, lake_in, new_table
from pyspark.sql import SparkSession

from schemas.errors import ConfigError, SelectionError
from snapshotter.spark.catalogue import table_version
from snapshotter.spark.table_loader import query_tables
from snapshotter.spark.table_rows import table_rows
from snapshotter.storage.table_source import TableSource


@pytest.fixture
def shop(spark: SparkSession) -> Iterator[str]:
    spark.sql("CREATE DATABASE shop")
    yield "shop"
    spark.sql("DROP DATABASE shop CASCADE")


def counted(spark: SparkSession, source: TableSource, query: str = "SELECT count(*) FROM t") -> int:
    return int(query_tables(spark, query, {"t": source}, SelectionError).collect()[0][0])


def test_iceberg_tables_are_read_by_tasks_as_of_a_snapshot(spark: SparkSession, tmp_path: Path) -> None:
    table = new_table(lake_in(tmp_path), "films", pa.table({"id": [1, 2, 3], "genres": [["x"], [], ["y"]]}))
    delete_beside(table, [1])
    folder = add_version_hint(table)
    first = table.snapshots()[0].snapshot_id
    assert counted(spark, TableSource(folder, "iceberg")) == 2
    assert counted(spark, TableSource(folder, "iceberg", first)) == 3
    assert counted(spark, TableSource(folder, "iceberg"), "SELECT max(id) FROM t WHERE size(genres) = 1") == 3
    with pytest.raises(SelectionError, match="table 't': there is no snapshot 7 of the Iceberg table at"):
        counted(spark, TableSource(folder, "iceberg", 7))
    with pytest.raises(SelectionError, match="table 't': the Iceberg table at .*nothing cannot be opened"):
        counted(spark, TableSource(str(tmp_path / "nothing"), "iceberg"))


def test_tables_and_views_of_the_catalogue_are_read_and_delta_tables_as_of_a_version(
    spark: SparkSession, shop: str, tmp_path: Path
) -> None:
    for days in (3, 4):
        write_deltalake(str(tmp_path / "plays"), pa.table({"id": list(range(days))}), mode="append")
    pl.DataFrame({"id": [1, 2]}).write_parquet(tmp_path / "films.parquet")
    spark.sql(f"CREATE TABLE {shop}.plays USING delta LOCATION '{tmp_path}/plays'")
    spark.sql(f"CREATE TABLE {shop}.films USING parquet LOCATION '{tmp_path}/films.parquet'")
    spark.sql(f"CREATE VIEW {shop}.both AS SELECT id FROM {shop}.plays UNION ALL SELECT id FROM {shop}.films")
    sources = [TableSource(f"{shop}.{name}", "table") for name in ("`plays`", "films", "both")]
    assert [table_version(spark, source, SelectionError) for source in sources] == [1, None, None]
    assert counted(spark, sources[2]) == 9
    assert counted(spark, TableSource(f"spark_catalog.{shop}.plays", "table", 0)) == 3
    with pytest.raises(
        SelectionError, match=r"unknown table in Spark's catalogue 'shop.flims' → did you mean 'shop.films'"
    ):
        counted(spark, TableSource("shop.flims", "table"))
    with pytest.raises(SelectionError, match=r"unknown table in Spark's catalogue 'shp.films' → .*known: .*shop.…"):
        counted(spark, TableSource("shp.films", "table"))
    with pytest.raises(SelectionError, match=r"unknown table in Spark's catalogue 'lake.shop.films'"):
        counted(spark, TableSource("lake.shop.films", "table"))


def test_a_format_that_spark_does_not_know_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(
        SelectionError, match="table 't': Spark cannot read the format 'parkuet' → write one of parquet, "
    ):
        counted(spark, TableSource(str(tmp_path), "parkuet"))


@pytest.mark.parametrize("name", ["shop.films; DROP TABLE x", "a-b", "", "shop..x", "s3://b/x"])
def test_what_is_not_the_name_of_a_table_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a table in Spark's catalogue → write database.table"):
        TableSource(name, "table")


def test_paths_are_resolved_but_not_names() -> None:
    assert TableSource("shop.films", "table").beside("/x/spec.toml").path == "shop.films"
    assert (
        TableSource("iceberg://lake/shop.films", "iceberg").beside("/x/spec.toml").path == "iceberg://lake/shop.films"
    )
    assert TableSource("films", "iceberg").beside("/x/spec.toml").path == "/x/films"


def test_rows_that_only_spark_can_read_are_a_stream_of_its_partitions(spark: SparkSession, shop: str) -> None:
    nested = "named_struct('at', timestamp_micros(id), 'tags', array(CAST(id AS STRING)))"
    spark.sql(f"CREATE VIEW {shop}.many AS SELECT id, {nested} AS value FROM range(0, 25000, 1, 3)")
    rows = table_rows(TableSource(f"{shop}.many", "table"), lambda: spark)
    batches = list(rows)
    table = pa.Table.from_batches(batches, rows.schema)
    assert (len(batches) >= 3, table.num_rows, table["id"].to_pylist() == list(range(25000))) == (True, 25000, True)
    assert table.schema.field("value").type.field("at").type == pa.timestamp("us", "UTC")
    with pytest.raises(ConfigError, match="unknown table in Spark's catalogue 'shop.money' → did you mean 'shop.many'"):
        table_rows(TableSource(f"{shop}.money", "table"), lambda: spark)

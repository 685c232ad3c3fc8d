"""Feature sets are tables of Spark's catalogue, for every session that shares it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from quick_jvm import OF_DRIVERS

from delorean.feature_sets.registration import register_feature_set
from schemas.errors import ConfigError
from snapshotter.spark.catalogue import delta_in_spark
from snapshotter.storage import Storage, open_storage

READ = """
import sys, json
from quick_jvm import end
from snapshotter.spark.session import spark_session
settings = dict(json.loads(sys.argv[1]))
spark = spark_session("reader", delta=True, **{name.replace(".", "__"): value for name, value in settings.items()})
print(json.dumps([spark.sql(query).collect()[0][0] for query in sys.argv[2:]]))
end(spark)
"""


def add_version(folder: Path, name: str, rows: int) -> None:
    write_deltalake(str(folder / "feature_sets" / name), pa.table({"seen": [1.0] * rows}), mode="append")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    for name in ("home-page", "search"):
        add_version(tmp_path / "it's 100% #1", name, 2)
    return open_storage((tmp_path / "it's 100% #1").as_uri())


@pytest.fixture
def databases(spark: SparkSession) -> Iterator[None]:
    yield
    for name in ("features", "lab"):
        spark.sql(f"DROP DATABASE IF EXISTS {name} CASCADE")


@pytest.mark.usefixtures("databases")
def test_a_feature_set_is_registered_once_and_its_versions_are_seen(
    spark: SparkSession, storage: Storage, tmp_path: Path
) -> None:
    def count(query: str) -> int:
        return int(spark.sql(f"SELECT count(*) FROM {query}").collect()[0][0])

    registered = register_feature_set(spark, storage, "home-page")
    assert (registered.table, registered.new) == ("features.home_page", True)
    assert count("features.home_page") == 2
    add_version(tmp_path / "it's 100% #1", "home-page", 3)
    assert count("features.home_page") == 5
    assert count("features.home_page VERSION AS OF 0") == 2
    assert register_feature_set(spark, storage, "home-page").new is False
    assert register_feature_set(spark, storage, "home-page", "lab.home").new is True
    with pytest.raises(ConfigError, match=r"'lab.home' in Spark's catalogue is another table: delta at .*home-page → "):
        register_feature_set(spark, storage, "search", "lab.home")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    spark.sql(f"CREATE TABLE lab.plain USING parquet LOCATION '{tmp_path}/a.parquet'")
    with pytest.raises(ConfigError, match="'lab.plain' in Spark's catalogue is another table: parquet at .*DROP TABLE"):
        register_feature_set(spark, storage, "search", "lab.plain")
    with pytest.raises(ConfigError, match="there is no feature set at .*saerch → did you mean 'search'"):
        register_feature_set(spark, storage, "saerch")
    with pytest.raises(ConfigError, match="'lab.a b' is not the name of a table in Spark's catalogue"):
        register_feature_set(spark, storage, "search", "lab.a b")
    with pytest.raises(ConfigError, match="table 'lake.lab.x' cannot be registered"):
        register_feature_set(spark, storage, "search", "lake.lab.x")


def test_a_session_that_shares_a_hive_metastore_reads_what_the_command_registered(
    storage: Storage, tmp_path: Path
) -> None:
    settings = {
        "spark.sql.catalogImplementation": "hive",
        "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={tmp_path}/metastore;create=true",
        "spark.sql.warehouse.dir": f"{tmp_path}/warehouse",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
    }
    project = [f'storage = "{storage.uri}"', "[spark]", *(f'"{name}" = "{value}"' for name, value in settings.items())]
    (tmp_path / "delorean.toml").write_text("\n".join(project))
    support = Path(__file__).parents[2] / "support"
    environment = {**os.environ, **OF_DRIVERS, "PYTHONPATH": f"{support}:{support.parents[1]}"}

    def ran(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()[-1]

    registered = json.loads(
        ran("-m", "delorean", "features", "register", "home-page", "--as", "features.home", "--json")
    )
    assert (registered["table"], registered["new"]) == ("features.home", True)
    add_version(tmp_path / "it's 100% #1", "home-page", 3)
    counts = ran(
        "-c",
        READ,
        json.dumps(settings),
        "SELECT count(*) FROM features.home",
        "SELECT count(*) FROM features.home VERSION AS OF 0",
    )
    assert json.loads(counts) == [5, 2]


def test_tables_in_s3_are_registered_where_spark_finds_them() -> None:
    uri = "s3://bucket/shop/feature_sets/home?endpoint=http://127.0.0.1:9000"
    assert delta_in_spark(uri) == "s3a://bucket/shop/feature_sets/home"

"""Tables of Spark's catalogue: read, their versions, and Delta tables added to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from schemas.errors import ConfigError, DeloreanError
from schemas.file_uri import path_of
from snapshotter.spark.errors import spark_errors_as
from snapshotter.storage.table_source import CATALOGUE, TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_NOT_FOUND = re.compile(
    r"\[(?:TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|CATALOG_NOT_FOUND|REQUIRES_SINGLE_PART_NAMESPACE)\]"
)


def catalogue_table(spark: SparkSession, source: TableSource, kind: type[DeloreanError]) -> DataFrame:
    """Load a table or a view. Raises `kind` for an unknown one, with similar names, and what Spark raises."""
    try:
        table = spark.read.options(**source.options).table(source.path)
        table.schema  # noqa: B018  # a remote session looks a name up no sooner
    except Exception as error:  # of Spark, with several classes; raised again unless the table is unknown
        raise unknown_table(spark, source.path, kind, error) or error from error
    return table


def unknown_table(spark: SparkSession, name: str, kind: type[DeloreanError], error: Exception) -> DeloreanError | None:
    """Return the error for a name that Spark's catalogue does not know, with similar ones; None for another error."""
    if not _NOT_FOUND.search(str(error)):
        return None
    return kind.unknown("table in Spark's catalogue", name, tables_beside(spark, name))


def tables_beside(spark: SparkSession, name: str) -> list[str]:
    """Return the names of the tables that are where a table should be, as a query names them."""
    database = name.replace("`", "").rpartition(".")[0]
    if not database:
        return [table.name for table in spark.catalog.listTables()]
    try:
        if spark.catalog.databaseExists(database):
            return [f"{database}.{table.name}" for table in spark.catalog.listTables(database)]
    except Exception:  # noqa: BLE001  # of Spark: an unknown catalogue, for one; there is nothing similar then
        return []
    return [f"{each.name}.…" for each in spark.catalog.listDatabases()]


def table_version(spark: SparkSession, source: TableSource, kind: type[DeloreanError]) -> int | None:
    """Return the version to read of a catalogue's table: the newest of a Delta table; None for tables without versions.

    Raises as `catalogue_table` does.
    """
    catalogue_table(spark, source, kind)
    if source.version is not None or described(spark, source.path).get("Provider", "").lower() != "delta":
        return source.version
    newest = spark.sql(f"DESCRIBE HISTORY {source.path} LIMIT 1").collect()
    return int(newest[0]["version"])


def described(spark: SparkSession, name: str) -> dict[str, str]:
    """Return the properties of a table or view in Spark's catalogue, such as Provider, Type and Location."""
    rows = spark.sql(f"DESCRIBE TABLE EXTENDED {name}").collect()
    names = [row["col_name"] for row in rows]
    start = next((at for at, each in enumerate(names) if each.startswith("# Detailed")), len(rows))
    return {row["col_name"]: row["data_type"] for row in rows[start:]}


def register_delta(spark: SparkSession, name: str, uri: str) -> tuple[str, bool]:
    """Add a Delta table to the catalogue under a name, and return its location and whether it is new there.

    uri: from `Storage.uri_of`

    Raises ConfigError if the name cannot be a table's or is another table's, and where Spark lacks Delta or cannot read
    the table.
    """
    source = TableSource(name, CATALOGUE)
    location = delta_in_spark(uri)
    for option, value in TableSource(uri, "delta").options.items():  # how a bucket of another server is reached
        spark.conf.set(option, value)
    database = source.path.rpartition(".")[0]
    with spark_errors_as(ConfigError, f"table '{name}' cannot be registered"):
        if database:
            spark.sql(f"CREATE DATABASE IF NOT EXISTS {database}")
        try:
            spark.sql(f"CREATE TABLE {name} USING DELTA LOCATION {_literal(location)}")
        except Exception as error:  # of Spark, with several classes; raised again unless the name is taken
            if "ALREADY_EXISTS" not in str(error):
                raise
            _require_location(spark, name, location)
            return location, False
    return location, True


def delta_in_spark(uri: str) -> str:
    """Return where Spark finds a table, decoded. uri: from `Storage.uri_of`.

    >>> delta_in_spark("file:///srv/C%23%20shop/feature_sets/home")
    '/srv/C# shop/feature_sets/home'
    >>> delta_in_spark("s3://bucket/shop/feature_sets/home?endpoint=http://127.0.0.1:9000")
    's3a://bucket/shop/feature_sets/home'
    """
    source = TableSource(uri, "delta")
    return source.location if source.in_s3 else str(path_of(uri))


def _require_location(spark: SparkSession, name: str, location: str) -> None:
    properties = described(spark, name)
    existing = re.sub("^file:/+", "/", properties.get("Location", "")).rstrip("/")
    if properties.get("Provider", "").lower() != "delta" or location not in (existing, unquote(existing)):
        what = properties.get("Provider") or properties.get("Type", "a table").lower()
        raise ConfigError.because(
            f"'{name}' in Spark's catalogue is another table: {what} at {existing or 'no location'}",
            f"register it under another name, or DROP TABLE {name}",
        )


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

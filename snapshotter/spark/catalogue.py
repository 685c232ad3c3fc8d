"""Tables of Spark's catalogue: read, their versions, and Delta tables added to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from schemas.errors import DeloreanError
from snapshotter.storage.table_source import TableSource

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

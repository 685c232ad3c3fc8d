"""The tables that label data comes from: which version of each is read, and whether its files still exist."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from schemas.errors import ConfigError, LabelError, MissingFileError, StorageError
from snapshotter.spark.catalogue import table_version, tables_beside
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.spark.table_loader import query_tables
from snapshotter.storage.delta import delta_table, files_of
from snapshotter.storage.iceberg import newest_snapshot
from snapshotter.storage.table_source import TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_NOT_FOUND = re.compile(r"\[TABLE_OR_VIEW_NOT_FOUND\] The table or view (\S+) cannot be found")


def pinned_tables(tables: Mapping[str, TableSource], spark: SparkSession | None = None) -> dict[str, TableSource]:
    """Fix the version of each table that has versions: the one that the spec names, or the newest at this moment.

    spark: None: tables of its catalogue keep the version that the spec names, or none

    Raises LabelError for a table or version that does not exist, or was vacuumed.
    """
    return {name: replace(source, version=_version(name, source, spark)) for name, source in tables.items()}


def query(
    spark: SparkSession,
    text: str,
    tables: Mapping[str, TableSource],
    day: date | None = None,
    frames: Mapping[str, DataFrame] | None = None,
) -> DataFrame:
    """Run a query over tables. Raises LabelError.

    day: the value of `:date` in the query
    frames: further tables, by name
    """
    with described(spark, "look at the labels' tables"), spark_errors_as(LabelError, "the labels' query"):
        try:
            return query_tables(spark, text, tables, LabelError, day, frames)
        except Exception as error:  # of Spark, with several classes; raised again unless a table is unknown
            unknown = _NOT_FOUND.search(str(error))
            if unknown is None:
                raise
            name = unknown[1].replace("`", "")
            known = [*tables, *tables_beside(spark, name)]
            raise LabelError.unknown("table in the labels' query", name, known) from error


def _version(name: str, source: TableSource, spark: SparkSession | None) -> int | None:
    try:
        if source.format == "delta":
            return _delta_version(name, source)
        if source.format == "iceberg":
            return newest_snapshot(source.path) if source.version is None else source.version
        if source.in_catalogue and spark is not None:
            with spark_errors_as(LabelError, f"table '{name}'"):
                return table_version(spark, source, LabelError)
    except (ConfigError, MissingFileError) as error:
        raise LabelError.because(f"table '{name}': {error}") from error
    except StorageError as error:
        raise type(error)(f"table '{name}': {error}") from error
    return source.version


def _delta_version(name: str, source: TableSource) -> int:
    table = delta_table(source.path, source.version)
    version, files = int(table.version()), files_of(table)
    missing = [file for file in files if not _exists(table.table_uri, file)]
    if missing:
        raise LabelError.because(
            f"table '{name}': {len(missing)} of {len(files)} files of version {version} of {source.path} are gone, "
            f"such as {missing[0].rsplit('/', 1)[-1]}: it was vacuumed",
            "name a later version, or none for the newest",
        )
    return version


def _exists(table_uri: str, file: str) -> bool:
    """Return whether a table's file exists. Only local files are checked: the reader reports missing others."""
    if _scheme(table_uri) not in ("", "file") or _scheme(file) not in ("", "file"):
        return True
    roots, path = _local(table_uri), _local(file)[0]
    # A path in a log is percent-encoded once more than on disk, by some writers twice, and may be absolute, as in a
    # shallow clone; deltalake's paths no longer distinguish these cases.
    candidates = [Path(root, tail.lstrip("/")) for root in (*roots, "/") for tail in (path, unquote(path))]
    return any(candidate.exists() for candidate in candidates)


def _scheme(uri: str) -> str:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", uri)
    return match[1] if match else ""


def _local(uri: str) -> tuple[str, ...]:
    """Return the path in a file's URI, as it is and decoded; file:/a, file:///a and /a are the same."""
    path = re.sub("^file:/+", "/", uri)
    return (path, unquote(path))

"""The tables that label data comes from: which version of each was read, and whether it is still there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from schemas.errors import LabelError, MissingFileError, StorageError
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.spark.table_loader import load_table
from snapshotter.storage.delta import delta_table, files_of
from snapshotter.storage.table_source import TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def pinned_tables(tables: Mapping[str, TableSource]) -> dict[str, TableSource]:
    """Fix the version of each Delta table: the one that is named, or the newest of this moment.

    Raises LabelError for a version that is not there, or not any more.
    """
    return {
        name: replace(source, version=_version(name, source)) if source.format == "delta" else source
        for name, source in tables.items()
    }


def query(spark: SparkSession, text: str, tables: Mapping[str, TableSource], day: date | None = None) -> DataFrame:
    """Run a query; its tables are views only until Spark has resolved their names. Raises LabelError.

    day: what `:date` in it means
    """
    made = []
    with described(spark, "look at the labels' tables"), spark_errors_as(LabelError, "the labels' query"):
        try:
            for name, source in tables.items():
                table = load_table(spark, name, source, LabelError)
                table.createTempView(name)  # fails rather than hide one
                made.append(name)
            return spark.sql(text) if day is None else spark.sql(text, args={"date": day})
        finally:
            for name in made:
                spark.catalog.dropTempView(name)


def _version(name: str, source: TableSource) -> int:
    try:
        table = delta_table(source.path, source.version)
    except MissingFileError as error:
        raise LabelError.because(f"table '{name}': {error}") from error
    except StorageError as error:
        raise type(error)(f"table '{name}': {error}") from error
    version, files = int(table.version()), files_of(table)
    gone = [file for file in files if not _is_there(table.table_uri, file)]
    if gone:
        raise LabelError.because(
            f"table '{name}': {len(gone)} of {len(files)} files of version {version} of {source.path} are gone, "
            f"such as {gone[0].rsplit('/', 1)[-1]}: it was vacuumed",
            "name a later version, or none for the newest",
        )
    return version


def _is_there(table_uri: str, file: str) -> bool:
    """Whether a table's file exists. Only local ones are looked for: of others the reader says what is missing."""
    if _scheme(table_uri) not in ("", "file") or _scheme(file) not in ("", "file"):
        return True
    roots, path = _local(table_uri), _local(file)[0]
    # A path in a log is encoded once more than on disk, by some writers twice, and may be absolute, as in a shallow
    # clone; what deltalake gives no longer tells these apart.
    ways = [Path(root, way.lstrip("/")) for root in (*roots, "/") for way in (path, unquote(path))]
    return any(way.exists() for way in ways)


def _scheme(uri: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", uri)
    return found[1] if found else ""


def _local(uri: str) -> tuple[str, ...]:
    """Give the path that a URI of a file names, as it is and decoded; file:/a, file:///a and /a are the same."""
    path = re.sub("^file:/+", "/", uri)
    return (path, unquote(path))

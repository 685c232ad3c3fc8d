"""Loads the tables that queries name, including Parquet that pandas writes and Spark alone cannot read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import ConfigError, DeloreanError, MissingFileError
from snapshotter.spark.catalogue import catalogue_table
from snapshotter.spark.connect import is_remote, query_with_tables, require_workers
from snapshotter.storage import open_storage
from snapshotter.storage.iceberg import iceberg_snapshot
from snapshotter.storage.s3_location import S3Location
from snapshotter.storage.table_source import KNOWN_FORMATS, TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_BATCH_ROWS = 65_536
_MOST_TASKS = 2_000
_NANOS_AS_LONG = "spark.sql.legacy.parquet.nanosAsLong"
_UNREADABLE = ("PARQUET_TYPE", "UNSUPPORTED_TIME_TYPE", "Illegal Parquet type")


def query_tables(
    spark: SparkSession,
    query: str,
    tables: Mapping[str, TableSource],
    kind: type[DeloreanError],
    day: date | None = None,
    frames: Mapping[str, DataFrame] | None = None,
) -> DataFrame:
    """Run a query over tables, which are temporary views until Spark has resolved their names.

    kind: as for `load_table`
    day: the value of `:date` in the query
    frames: further tables, by name
    """
    views = []
    args = None if day is None else {"date": day}
    if is_remote(spark):
        loaded_tables = {name: load_table(spark, name, source, kind) for name, source in tables.items()}
        return query_with_tables(spark, query, {**loaded_tables, **(frames or {})}, args)
    try:
        loaded = ((name, load_table(spark, name, source, kind)) for name, source in tables.items())
        for name, table in chain(loaded, (frames or {}).items()):
            table.createTempView(name)  # fails if the name is taken, rather than replace the caller's view
            views.append(name)
        return spark.sql(query) if args is None else spark.sql(query, args=args)
    finally:
        for name in views:
            spark.catalog.dropTempView(name)


def load_table(spark: SparkSession, name: str, source: TableSource, kind: type[DeloreanError]) -> DataFrame:
    """Load a table; times in nanoseconds, which pandas writes and Spark cannot read, become microseconds.

    name: of the table, for errors
    kind: of the error for a column that Spark cannot read, an unknown format or table, and, once the rows are read, for
        times finer than a microsecond. Other errors are raised as Spark raises them
    """
    if source.format == "iceberg":
        return _iceberg(spark, name, source, kind)
    if source.format != "parquet":
        return _of_any_format(spark, name, source, kind)
    schema = None
    try:
        table = _load(spark, source)
        if spark.conf.get(_NANOS_AS_LONG) == "true":  # set by the first such table of a session
            schema = _schema(source)
    except Exception as error:  # of Spark, with several classes; raised again unless the schema explains it
        schema = _schema(source) if any(word in str(error) for word in _UNREADABLE) else None
        if schema is None:
            raise
        _refuse_unreadable(name, source, schema, kind, error)
        # Stays set: a plan reads the setting whenever it runs. It only affects columns that Spark rejects otherwise.
        spark.conf.set(_NANOS_AS_LONG, "true")
        table = _load(spark, source)
    if schema is None:
        return table
    _refuse_unreadable(name, source, schema, kind)
    nanos = {field.name: field.type for field in schema if _is_nanos(field.type)}
    return table.selectExpr(*_columns(table.columns, nanos, name)) if nanos else table


def _refuse_unreadable(
    name: str, source: TableSource, schema: pa.Schema, kind: type[DeloreanError], error: Exception | None = None
) -> None:
    unreadable = [f"'{field.name}' ({field.type})" for field in schema if _is_unreadable(field.type)]
    if unreadable:
        raise kind.because(
            f"table '{name}': Spark cannot read {', '.join(unreadable)} of {source.path}",
            "write the file without such columns, or as text, numbers or microseconds",
        ) from error


def _load(spark: SparkSession, source: TableSource) -> DataFrame:
    return spark.read.format(source.format).options(**source.options).load(source.location)


def _of_any_format(spark: SparkSession, name: str, source: TableSource, kind: type[DeloreanError]) -> DataFrame:
    try:
        if source.in_catalogue:
            return catalogue_table(spark, source, kind)
        return _load(spark, source)
    except Exception as error:  # of Spark, with several classes; raised again unless the format is unknown
        if "DATA_SOURCE_NOT_FOUND" not in str(error):
            raise
        hint = f"write one of {', '.join(KNOWN_FORMATS)}, or any that this session has the jar of"
        if source.format == "delta":
            hint = "start the session with Delta's jar: delta=True"
        raise kind.because(f"table '{name}': Spark cannot read the format '{source.format}'", hint) from error


def _iceberg(spark: SparkSession, name: str, source: TableSource, kind: type[DeloreanError]) -> DataFrame:
    """Return a table whose tasks read the files of one snapshot."""
    from pyspark.sql.pandas.types import from_arrow_schema

    try:
        snapshot = iceberg_snapshot(source.path, source.version)
    except (ConfigError, MissingFileError) as error:
        raise kind.because(f"table '{name}': {error}") from error
    _refuse_unreadable(name, source, snapshot.schema, kind)
    require_workers(spark)
    shared = replace(snapshot, files=())

    def read_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for file in (file for batch in batches for file in batch.column("file").to_pylist()):
            for rows in shared.read(file):
                yield from pa.Table.from_batches([rows]).to_batches(max_chunksize=_BATCH_ROWS)

    listed = spark.createDataFrame(pa.table({"file": pa.array(snapshot.files, pa.binary())}))
    tasks = max(1, min(len(snapshot.files), _MOST_TASKS))
    return listed.repartition(tasks).mapInArrow(read_task, from_arrow_schema(snapshot.schema))


def _columns(names: list[str], nanos: dict[str, pa.DataType], table: str) -> Iterator[str]:
    """Yield an expression for each column; those of nanoseconds, which are read as numbers, become times again."""
    for name in names:
        quoted = "`" + name.replace("`", "``") + "`"
        if name not in nanos:
            yield quoted
            continue
        label = f"column '{name}' of table '{table}'".replace("\\", "\\\\").replace("'", "\\'")
        finer = (
            f"raise_error(concat('{label}: ', {quoted}, ' nanoseconds is finer than a microsecond, the unit of all"
            ' times → round it, down for label times: dt.floor("us")\'))'
        )
        micros = f"timestamp_micros(CASE WHEN {quoted} % 1000 = 0 THEN {quoted} DIV 1000 ELSE {finer} END)"
        if nanos[name].tz is None:  # the same wall clock, whatever the session's zone
            micros = f"convert_timezone(current_timezone(), 'UTC', CAST({micros} AS TIMESTAMP_NTZ))"
        yield f"{micros} AS {quoted}"


def _is_nanos(type: pa.DataType) -> bool:  # noqa: A002  # the field's own name
    return bool(pa.types.is_timestamp(type) and type.unit == "ns")


def _is_unreadable(type: pa.DataType) -> bool:  # noqa: A002
    """Whether Spark has no such type, or it contains nanoseconds in a nested field, which would be read as numbers."""
    if isinstance(type, pa.BaseExtensionType) or pa.types.is_float16(type) or pa.types.is_time(type):
        return True
    return any(_is_nanos(inner) or _is_unreadable(inner) for inner in _children(type))


def _children(type: pa.DataType) -> list[pa.DataType]:  # noqa: A002
    return [type.field(i).type for i in range(type.num_fields)]


def _schema(source: TableSource) -> pa.Schema | None:
    """Return the schema of a table's first file; None where only Spark can access its files."""
    parts = urlsplit(source.path)
    if parts.scheme == "s3":
        place = S3Location.of(source.path)
        storage = open_storage(f"s3://{place.bucket}" + (f"?{parts.query}" if parts.query else ""))
        paths = (file.path for file in storage.list(place.prefix.rstrip("/")) if _is_data(file.path))
        first = next(paths, None)
        if first is None:
            return None
        with storage.open_input(first) as opened:
            return pq.read_schema(opened)
    if parts.scheme not in ("", "file"):
        return None
    root = Path(unquote(parts.path) if parts.scheme else source.path)
    files = (
        [root]
        if root.is_file()
        else sorted(path for path in root.rglob("*") if path.is_file() and _is_data(str(path.relative_to(root))))
    )
    return pq.read_schema(files[0]) if files else None


def _is_data(path: str) -> bool:
    """Whether Spark reads a file: it skips names that begin with _ or a dot, and folders of such names."""
    return not any(part.startswith(("_", ".")) and "=" not in part for part in path.split("/"))

"""Reads tables that tests name without Spark: Parquet of any program, Delta and Iceberg, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from schemas.errors import AbTestError
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion
from snapshotter.storage.foreign_parquet import read_foreign_parquet
from snapshotter.storage.iceberg import iceberg_snapshot
from snapshotter.storage.table_source import TableSource


def local_batches(name: str, source: TableSource) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return a table's schema and its rows, some at a time. name: in errors.

    Raises AbTestError for a format that only Spark reads, and what reading the table raises.
    """
    if source.format == "parquet":
        reader = read_foreign_parquet(source.path)
        return reader.schema, iter(reader)
    if source.format == "delta":
        version = DeltaVersion.of(delta_table(source.path, source.version), source.path)
        return version.schema, version.batches()
    if source.format == "iceberg":
        snapshot = iceberg_snapshot(source.path, source.version)
        return snapshot.schema, (batch for file in snapshot.files for batch in snapshot.read(file))
    raise AbTestError.because(
        f"table '{name}' has the format '{source.format}', which only Spark reads",
        f'write query = "TABLE {name}" instead of table',
    )


def read_local_table(name: str, source: TableSource, columns: tuple[str, ...]) -> pa.Table:
    """Read columns of a table. Raises AbTestError for an unknown column, and what `local_batches` raises."""
    schema, batches = local_batches(name, source)
    for column in columns:
        if column not in schema.names:
            raise AbTestError.unknown(f"column of table '{name}'", column, schema.names)
    chosen = pa.schema([schema.field(column) for column in columns])
    return pa.Table.from_batches((batch.select(list(columns)) for batch in batches), chosen)

"""Reads Parquet written by other programs: pandas, Polars, Spark, DuckDB."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import ConfigError
from schemas.nested_types import with_leaves

_UNNAMED_INDEX = "__index_level_"  # pandas' name for an unnamed index
_SPARK = b"org.apache.spark.version"


def read_foreign_parquet(place: Path) -> pa.Table:
    """Read a Parquet file, or a folder of them as Spark writes it, with its own types.

    A named index of pandas comes first; an unnamed one is left out, since it only counts rows. Times that Spark wrote
    as INT96 are instants in UTC. Raises ConfigError for what cannot be read as Parquet.
    """
    try:
        if place.is_dir():
            table, instants = _folder(place)
        else:
            with pq.ParquetFile(place, coerce_int96_timestamp_unit="us") as file:
                table, instants = file.read(), _instants(file)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: column names in the file
        raise ConfigError.because(f"{place}: cannot be read as Parquet: {error}") from error
    return _with_zones(_without_index(table), instants)


def _folder(place: Path) -> tuple[pa.Table, set[str]]:
    files = sorted(path for path in place.rglob("*.parquet") if not path.name.startswith(("_", ".")))
    if not files:
        raise ConfigError.because(f"{place}: contains no file *.parquet", "name a Parquet file or a folder of them")
    with pq.ParquetFile(files[0]) as first:
        instants = _instants(first)
    return pq.read_table(place, coerce_int96_timestamp_unit="us"), instants


def _instants(file: pq.ParquetFile) -> set[str]:
    """Return the columns whose times Spark wrote as INT96: in UTC, which that type does not record."""
    if _SPARK not in (file.metadata.metadata or {}):
        return set()
    leaves = [file.schema.column(at) for at in range(len(file.schema.names))]
    instants = set()
    for name in file.schema_arrow.names:
        inside = [leaf for leaf in leaves if leaf.path == name or leaf.path.startswith(f"{name}.")]
        times = [leaf for leaf in inside if leaf.physical_type == "INT96" or leaf.logical_type.type == "TIMESTAMP"]
        if times and all(leaf.physical_type == "INT96" for leaf in times):
            instants.add(name)
    return instants


def _with_zones(table: pa.Table, instants: set[str]) -> pa.Table:
    for at, field in enumerate(table.schema):
        if field.name in instants:
            zoned = with_leaves(field.type, _zoned)
            table = table.set_column(at, field.with_type(zoned), table.column(at).cast(zoned))
    return table


def _zoned(leaf: pa.DataType) -> pa.DataType:
    return pa.timestamp(leaf.unit, "UTC") if pa.types.is_timestamp(leaf) else leaf


def _without_index(table: pa.Table) -> pa.Table:
    recorded = (table.schema.pandas_metadata or {}).get("index_columns", [])
    index = [name for name in recorded if isinstance(name, str) and table.column_names.count(name) == 1]
    named = [name for name in index if not name.startswith(_UNNAMED_INDEX)]
    others = [at for at, name in enumerate(table.column_names) if name not in index]
    return table.select([*map(table.column_names.index, named), *others])

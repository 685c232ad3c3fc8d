"""Reads Parquet written by other programs, a few rows at a time: pandas, Polars, Spark, DuckDB."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import ConfigError
from schemas.file_uri import path_of
from schemas.nested_types import with_leaves
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.partial_input import PartialInput
from snapshotter.storage.s3_location import S3Location

_UNNAMED_INDEX = "__index_level_"  # pandas' name for an unnamed index
_SPARK = b"org.apache.spark.version"
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_BATCH_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 20  # of each column: a row group may be far larger
_MOST_ROWS = 65_536


@dataclass(frozen=True)
class ForeignFile:
    """A Parquet file of another program.

    name: its path, in the storage if there is one
    path: relative to its table, empty if it is the table; folders in it may name values, `day=5`
    """

    name: str
    path: str
    storage: Storage | None = None
    bytes: int = 0

    @property
    def partitions(self) -> dict[str, str | None]:
        """The values that its folders name, as text."""
        pairs = [folder.partition("=") for folder in self.path.split("/")[:-1] if "=" in folder]
        return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, _, value in pairs}

    @contextmanager
    def open(self) -> Iterator[pq.ParquetFile]:
        """Open it. Raises ConfigError for what cannot be read as Parquet, and the storage's errors."""
        try:
            with self._source() as source, _parquet(source) as parquet:
                yield parquet
        except MemoryError:
            raise
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: column names in the file
            raise ConfigError.because(f"{self.name}: cannot be read as Parquet: {error}") from error

    @contextmanager
    def _source(self) -> Iterator[Any]:
        if self.storage is None:
            with pa.OSFile(self.name, "r") as file:
                yield file
            return
        with self.storage.open_partial(self.name, self.bytes) as opened, closing(_FetchedWhenRead(opened)) as file:
            yield pa.PythonFile(file, "r")


class _FetchedWhenRead(io.RawIOBase):
    """A file of which each range is fetched when it is read."""

    def __init__(self, source: PartialInput) -> None:
        self._source, self._size, self._at = source, source.file.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        self._source.load([(self._at, end)])
        self._source.file.seek(self._at)
        data: bytes = self._source.file.read(end - self._at)
        self._at = end
        return data


@dataclass(frozen=True)
class _Layout:
    """What a table's files have in common.

    schema: of the rows, in the order in which they are read
    partitions: the types of the columns that folders name
    """

    schema: pa.Schema
    partitions: dict[str, pa.DataType] = field(default_factory=dict)


def foreign_files(place: str) -> list[ForeignFile]:
    """List the Parquet files of a table: a file, or a folder as Spark writes it, also in S3: `s3://bucket/table?…`.

    Files and folders whose names begin with _ or a dot are no data. Raises ConfigError if there are none.
    """
    files = _files_in_s3(place) if urlsplit(place).scheme == "s3" else _local_files(place)
    if any("_delta_log" in file.path.split("/") for file in files):
        raise ConfigError.because(
            f"{place}: is a Delta table, not a folder of Parquet files", 'name the format "delta"'
        )
    data = [file for file in files if not file.path or (file.path.endswith(".parquet") and not _is_hidden(file.path))]
    if not data:
        raise ConfigError.because(f"{place}: contains no file *.parquet", "name a Parquet file or a folder of them")
    return data


def read_foreign_parquet(place: str) -> pa.RecordBatchReader:
    """Read a table of Parquet files with its own types, in bounded memory.

    place: see `foreign_files`

    A named index of pandas comes first; an unnamed one is left out, since it only counts rows. Times that Spark wrote
    as INT96 are instants in UTC. A column that a file lacks is null there; types of several files are widened to one.
    Raises ConfigError for what cannot be read as Parquet, or files that do not fit together, also while rows are read.
    """
    files = foreign_files(place)
    layout = _layout(place, files)
    return pa.RecordBatchReader.from_batches(layout.schema, _batches(files, layout))


def _files_in_s3(place: str) -> list[ForeignFile]:
    where = S3Location.of(place)
    query = urlsplit(place).query
    storage = open_storage(f"s3://{where.bucket}" + (f"?{query}" if query else ""))
    key = where.prefix.rstrip("/")
    listed = list(storage.list(key))
    if listed:
        paths = [(file.path.removeprefix(f"{key}/"), file) for file in listed]
    else:
        folder, _, name = key.rpartition("/")
        paths = [("", file) for file in storage.list(folder, name) if file.path == key]
    return [ForeignFile(file.path, path, storage, file.bytes) for path, file in paths]


def _local_files(place: str) -> list[ForeignFile]:
    root = path_of(place) if urlsplit(place).scheme == "file" else Path(place)
    if not root.is_dir():
        return [ForeignFile(str(root), "")]
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return [ForeignFile(str(path), path.relative_to(root).as_posix()) for path in paths]


def _is_hidden(path: str) -> bool:
    """Whether other programs skip a file: its name, or that of a folder, begins with _ or a dot."""
    return any(part.startswith(("_", ".")) and "=" not in part for part in path.split("/"))


def _layout(place: str, files: Sequence[ForeignFile]) -> _Layout:
    schemas: list[pa.Schema] = []
    for file in files:
        with file.open() as parquet:
            schemas.append(_schema(parquet))
    first = schemas[0]
    different = [first, *(schema for schema in schemas[1:] if not schema.equals(first))]
    try:
        schema = first if len(different) == 1 else pa.unify_schemas(different, promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigError.because(f"{place}: its files have columns of different types: {error}") from error
    schema = schema.with_metadata(first.metadata)
    partitions = {name: kind for name, kind in _partition_types(files).items() if name not in schema.names}
    for name, kind in partitions.items():
        schema = schema.append(pa.field(name, kind))
    return _Layout(_without_index(schema), partitions)


def _partition_types(files: Sequence[ForeignFile]) -> dict[str, pa.DataType]:
    """Return the types of columns that folders name: integers where all values are."""
    names = dict.fromkeys(name for file in files for name in file.partitions)
    types = {}
    for name in names:
        values = pa.array([file.partitions.get(name) for file in files], pa.string())
        try:
            values.cast(pa.int32())
            types[name] = pa.int32()
        except pa.ArrowException:
            types[name] = pa.string()
    return types


def _batches(files: Sequence[ForeignFile], layout: _Layout) -> Iterator[pa.RecordBatch]:
    for file in files:
        values = {
            name: pa.scalar(file.partitions.get(name), pa.string()).cast(kind)
            for name, kind in layout.partitions.items()
        }
        with file.open() as parquet:
            instants = _instants(parquet)
            for batch in parquet.iter_batches(_batch_rows(parquet)):
                yield _fitting(file.name, batch, instants, values, layout.schema)


def _fitting(
    name: str, batch: pa.RecordBatch, instants: set[str], values: dict[str, pa.Scalar], schema: pa.Schema
) -> pa.RecordBatch:
    columns = []
    for column in schema:
        if column.name in batch.schema.names and column.name not in values:
            array = batch.column(batch.schema.names.index(column.name))
            if column.name in instants:
                array = array.cast(with_leaves(array.type, _zoned))
        elif column.name in values:
            array = pa.repeat(values[column.name], batch.num_rows)
        else:
            array = pa.nulls(batch.num_rows, column.type)
        try:
            columns.append(array if array.type == column.type else array.cast(column.type))
        except pa.ArrowException as error:
            raise ConfigError.because(
                f"{name}: column '{column.name}' is {array.type}, not {column.type}: {error}"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _batch_rows(parquet: pq.ParquetFile) -> int:
    """Return how many rows to read at a time."""
    groups = [parquet.metadata.row_group(at) for at in range(parquet.metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
    return max(16, min(_MOST_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _parquet(source: Any) -> pq.ParquetFile:
    return pq.ParquetFile(source, coerce_int96_timestamp_unit="us", buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _schema(file: pq.ParquetFile) -> pa.Schema:
    """Return a file's schema, with zones for the times that Spark wrote."""
    instants, schema = _instants(file), file.schema_arrow
    for at, column in enumerate(schema):
        if column.name in instants:
            schema = schema.set(at, column.with_type(with_leaves(column.type, _zoned)))
    return schema


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


def _zoned(leaf: pa.DataType) -> pa.DataType:
    return pa.timestamp(leaf.unit, "UTC") if pa.types.is_timestamp(leaf) else leaf


def _without_index(schema: pa.Schema) -> pa.Schema:
    recorded = (schema.pandas_metadata or {}).get("index_columns", [])
    index = [name for name in recorded if isinstance(name, str) and schema.names.count(name) == 1]
    named = [name for name in index if not name.startswith(_UNNAMED_INDEX)]
    others = [at for at, name in enumerate(schema.names) if name not in index]
    return pa.schema([schema.field(at) for at in (*map(schema.names.index, named), *others)])

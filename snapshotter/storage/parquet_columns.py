"""Makes Parquet files from columns of an existing one and new columns, without decoding what is copied.

A column's pages contain no positions within the file, so its bytes are copied, and only the footer names new positions.
Copying is many times faster than decoding, encoding and compressing again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from schemas.errors import CorruptFileError
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.compact_thrift import Kind, Struct, read_struct, write_struct
from snapshotter.storage.parquet import HashingFile
from snapshotter.storage.parquet_packing import packing

_MAGIC = b"PAR1"
_TAIL = len(_MAGIC) + 4
# Ids of fields in the definition of Parquet's footer, parquet.thrift.
_FILE_ROWS, _FILE_GROUPS = 3, 4
_GROUP_COLUMNS, _GROUP_BYTES, _GROUP_ROWS, _GROUP_OFFSET, _GROUP_PACKED, _GROUP_ORDINAL = 1, 2, 3, 5, 6, 7
_CHUNK_OFFSET, _CHUNK_METADATA = 2, 3
_PATH, _UNPACKED, _PACKED, _DATA_PAGE, _DICTIONARY_PAGE = 3, 6, 7, 9, 11
_CHUNK_KEPT = {_CHUNK_OFFSET, _CHUNK_METADATA}  # others locate indices and filters elsewhere in the file: optional
_METADATA_DROPPED = {10, 14, 15}  # likewise


class ParquetColumns:
    """A published file in memory, whose columns can be read, and copied into new files.

    Raises MissingFileError, and CorruptFileError if its bytes have changed.
    """

    def __init__(self, storage: Storage, file: DataFile) -> None:
        with storage.open_input(file.path) as source:
            data = source.read_buffer()
        if data.size != file.bytes or xxhash.xxh3_128_hexdigest(data) != file.checksum:
            raise CorruptFileError.because(
                f"'{file.path}' is not the file that was published", "restore the file from a copy"
            )
        self.data = memoryview(data)
        self.path, self.rows = file.path, file.rows
        self.schema = pq.read_schema(pa.BufferReader(data))
        self._buffer = data
        self._groups = _groups(self.data, file.path)

    @property
    def group_sizes(self) -> list[int]:
        """The number of rows in each row group."""
        return [group[_GROUP_ROWS][1] for group in self._groups]

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Decode columns. Raises CorruptFileError for one that the file lacks."""
        for column in columns:
            if column not in self.schema.names:
                raise CorruptFileError.because(f"'{self.path}' has no column '{column}'")
        return pq.read_table(pa.BufferReader(self._buffer), columns=list(columns))

    def chunks(self, group: int) -> list[Struct]:
        """Return the descriptions of a row group's columns."""
        return _chunks(self._groups[group])


def write_with_columns(
    storage: Storage,
    path: str,
    schema: pa.Schema,
    earlier: ParquetColumns,
    new: pa.Table,
    bucket: int = 0,
) -> DataFile:
    """Write a new Parquet file with columns of an earlier file and new ones, and return its record.

    schema: of the new file; columns that `new` lacks are copied from the earlier file
    new: as many rows as the earlier file, in the same order; or no columns, to copy all

    Raises CorruptFileError if the earlier file lacks rows or columns, StorageError, leaving no file behind.
    """
    copied = [field.name for field in schema if field.name not in new.column_names]
    for name in copied:
        if name not in earlier.schema.names or not earlier.schema.field(name).type.equals(schema.field(name).type):
            raise CorruptFileError.because(f"'{earlier.path}' has no column '{name}' of type {schema.field(name).type}")
    if new.num_columns and new.num_rows != earlier.rows:
        raise CorruptFileError.because(f"'{earlier.path}' has {earlier.rows} rows, expected {new.num_rows}")
    encoded = _encoded(new, earlier.group_sizes)
    encoded_groups = _groups(encoded, path) if new.num_columns else []
    footer = read_struct(_empty_footer(schema.serialize().to_pybytes()))
    with storage.open_output(path) as output:
        sink = HashingFile(output)
        sink.write(_MAGIC)
        groups = []
        for ordinal, size in enumerate(earlier.group_sizes):
            chunks = _Chunks()
            chunks.add(earlier.data, earlier.chunks(ordinal), set(copied))
            if encoded_groups:
                chunks.add(encoded, _chunks(encoded_groups[ordinal]), set(new.column_names))
            groups.append(_write_group(sink, chunks.in_order(schema.names), size, ordinal))
            sink.end_segment()
        footer[_FILE_ROWS] = (Kind.I64, earlier.rows)
        footer[_FILE_GROUPS] = (Kind.LIST, (Kind.STRUCT, groups))
        text = write_struct(footer)
        sink.write(text + len(text).to_bytes(4, "little") + _MAGIC)
        sink.end_segment()
    return DataFile(path, earlier.rows, sink.size, sink.hash.hexdigest(), bucket, tuple(sink.segments))


class _Chunks:
    """The encoded columns of a row group, by the names of the schema's fields that they belong to."""

    def __init__(self) -> None:
        self._of: dict[str, list[tuple[memoryview, Struct]]] = {}

    def add(self, data: memoryview, chunks: Sequence[Struct], names: set[str]) -> None:
        for chunk in chunks:
            name = chunk[_CHUNK_METADATA][1][_PATH][1][1][0].decode()
            if name in names:
                self._of.setdefault(name, []).append((data, chunk))

    def in_order(self, names: Sequence[str]) -> Iterator[tuple[memoryview, Struct]]:
        return itertools.chain.from_iterable(self._of[name] for name in names)


def _write_group(sink: HashingFile, chunks: Iterator[tuple[memoryview, Struct]], rows: int, ordinal: int) -> Struct:
    """Copy the bytes of a row group's columns, and return its description."""
    start, columns, size = sink.size, [], 0
    for data, chunk in chunks:
        metadata: Struct = {i: field for i, field in chunk[_CHUNK_METADATA][1].items() if i not in _METADATA_DROPPED}
        first = _first_byte(metadata)
        moved = sink.size - first
        sink.write(data[first : first + metadata[_PACKED][1]])
        for offset in {_DATA_PAGE, _DICTIONARY_PAGE} & metadata.keys():
            metadata[offset] = (Kind.I64, metadata[offset][1] + moved)
        kept = {i: field for i, field in chunk.items() if i in _CHUNK_KEPT}
        columns.append({**kept, _CHUNK_OFFSET: (Kind.I64, 0), _CHUNK_METADATA: (Kind.STRUCT, metadata)})
        size += metadata[_UNPACKED][1]
    return {
        _GROUP_COLUMNS: (Kind.LIST, (Kind.STRUCT, columns)),
        _GROUP_BYTES: (Kind.I64, size),
        _GROUP_ROWS: (Kind.I64, rows),
        _GROUP_OFFSET: (Kind.I64, start),
        _GROUP_PACKED: (Kind.I64, sink.size - start),
        _GROUP_ORDINAL: (Kind.I16, ordinal),
    }


def _first_byte(metadata: Struct) -> int:
    first: int = metadata[_DATA_PAGE][1]
    dictionary = metadata.get(_DICTIONARY_PAGE, (Kind.I64, 0))[1]
    return min(first, dictionary) if dictionary > 0 else first


def _encoded(rows: pa.Table, group_sizes: Sequence[int]) -> memoryview:
    """Write rows as a Parquet file in memory, in row groups of these sizes."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, rows.schema, **packing(rows.schema)) as writer:
        start = 0
        for size in group_sizes:
            writer.write_table(rows.slice(start, size), row_group_size=size)
            start += size
    return memoryview(sink.getvalue())


def _groups(data: memoryview, path: str) -> list[Struct]:
    groups: list[Struct] = _footer(data, path)[_FILE_GROUPS][1][1]
    return groups


def _chunks(group: Struct) -> list[Struct]:
    chunks: list[Struct] = group[_GROUP_COLUMNS][1][1]
    return chunks


def _footer(data: memoryview, path: str) -> Struct:
    """Decode a file's footer. Raises CorruptFileError."""
    length = int.from_bytes(data[-_TAIL : -len(_MAGIC)], "little")
    try:
        return read_struct(bytes(data[-_TAIL - length : -_TAIL]))
    except (ValueError, IndexError) as error:
        raise CorruptFileError.because(f"the footer of '{path}' cannot be read: {error}") from error


@lru_cache(maxsize=4)
def _empty_footer(schema: bytes) -> bytes:
    """Return the footer of a file without rows, of a serialised schema."""
    data = _encoded(pa.ipc.read_schema(pa.py_buffer(schema)).empty_table(), [])
    return write_struct(_footer(data, "no rows"))

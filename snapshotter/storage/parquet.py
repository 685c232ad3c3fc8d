"""Writes and reads the project's Parquet files, with checksums and never partially visible."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from schemas.closeable import Closeable
from schemas.errors import CorruptFileError, DataKeyError, StorageError
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.parquet_packing import packing
from snapshotter.storage.partial_input import Range, WholeInput

_ROW_GROUP_BYTES = 16 << 20  # in memory: small enough to bound a reader's memory, large enough to compress well
_FEWEST_ROWS = 1024
_UNRECORDED_ROWS = 8_192  # at a time
_HASHED_BYTES = 8 << 20  # at a time


def write_parquet(
    storage: Storage, path: str, batches: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema, bucket: int = 0
) -> DataFile:
    """Write a new Parquet file and return its record.

    batches: of exactly this schema; small ones are combined into row groups

    Raises StorageError, leaving no file behind.
    """
    rows = 0
    source = batches.to_batches() if isinstance(batches, pa.Table) else batches
    with storage.open_output(path) as output:
        sink = HashingFile(output)
        with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, **packing(schema)) as writer:
            for group in _row_groups(source, schema):
                writer.write_table(group, row_group_size=max(1, group.num_rows))
                rows += group.num_rows
                sink.end_segment()
        sink.end_segment()
    return DataFile(path, rows, sink.size, sink.hash.hexdigest(), bucket, tuple(sink.segments))


def write_parquet_if_any(
    storage: Storage, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> DataFile | None:
    """Write a new Parquet file, or none if there are no rows, as in an empty partition."""
    nonempty = (batch for batch in batches if batch.num_rows)
    first = next(nonempty, None)
    return None if first is None else write_parquet(storage, path, itertools.chain([first], nonempty), schema)


def read_parquet(storage: Storage, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a published file, or some of its columns.

    Raises MissingFileError, and CorruptFileError if its bytes have changed.
    """
    with ParquetReader(storage, file, whole=True) as reader:
        return reader.read(columns)


class ParquetReader(Closeable):
    """A published file, opened once and read in parts.

    Nothing is decoded before its bytes have been compared with the checksum of their segment: the footer when the file
    is opened, a row group when it is first read. What is not read is neither verified nor, where the storage fetches
    files, fetched. xxh3 runs at memory speed, many times faster than decoding, and hashing a mapped file loads pages
    that the reader needs anyway. A file recorded without segments is verified as a whole when it is opened.

    whole: everything will be read, so it may be fetched at once
    """

    def __init__(self, storage: Storage, file: DataFile, *, whole: bool = False) -> None:
        self.file = file
        ends = list(itertools.accumulate((size for size, _ in file.segments), initial=0))
        self._segments = list(itertools.pairwise(ends)) if ends[-1] == file.bytes and file.segments else []
        self._verified: set[int] = set()
        in_parts = self._segments and not whole
        self._input = (
            storage.open_partial(file.path, file.bytes) if in_parts else WholeInput(storage.open_input(file.path))
        )
        try:
            self._verify_footer()
            with _translated(file.path):
                self._parquet = pq.ParquetFile(self._input.file)
            self._check_counts()
        except BaseException:  # of any kind: the file must not stay open
            self._input.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._parquet.close(force=True)
        self._input.close()

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the file."""
        return self._parquet.schema_arrow

    @property
    def metadata(self) -> pq.FileMetaData:
        """The row groups and their statistics."""
        return self._parquet.metadata

    def read(self, columns: Sequence[str] | None = None, row_groups: Sequence[int] | None = None) -> pa.Table:
        """Read columns (None: all) of row groups (None: all).

        Raises DataKeyError for a column it lacks, CorruptFileError if bytes of these row groups have changed.
        """
        for column in columns or ():
            if column not in self.schema.names:
                raise DataKeyError.unknown(f"column in {self.file.path}", column, self.schema.names)
        names = None if columns is None else list(columns)
        self._verify(range(self.metadata.num_row_groups) if row_groups is None else row_groups)
        with _translated(self.file.path):
            if row_groups is None:  # pq.read_table decodes row groups in parallel, a ParquetFile only columns
                return pq.read_table(self._input.file, columns=names)
            return self._parquet.read_row_groups(list(row_groups), names)

    def _verify_footer(self) -> None:
        path, size = self.file.path, self._input.file.size()
        if size != self.file.bytes:
            raise _corrupt(path, f"has {size} bytes, {self.file.bytes} were published")
        if self._segments:
            self._verify([len(self._segments) - 1])
            return
        actual = self._hash((0, size), xxhash.xxh3_128())
        if actual != self.file.checksum:
            raise _corrupt(path, f"has checksum {actual}, {self.file.checksum} was published")

    def _check_counts(self) -> None:
        rows, groups = self.metadata.num_rows, self.metadata.num_row_groups
        if rows != self.file.rows:
            raise _corrupt(self.file.path, f"has {rows} rows, {self.file.rows} were published")
        if self._segments and groups != len(self._segments) - 1:
            raise _corrupt(self.file.path, f"has {groups} row groups, {len(self._segments) - 1} were published")

    def _verify(self, segments: Iterable[int]) -> None:
        """Load segments, and compare those that were not verified yet with their checksums."""
        new = [segment for segment in segments if segment not in self._verified] if self._segments else []
        self._input.load([self._segments[segment] for segment in new])
        for segment in new:
            actual, (_, published) = self._hash(self._segments[segment], xxhash.xxh3_64()), self.file.segments[segment]
            if actual != published:
                part = "its footer" if segment == len(self._segments) - 1 else f"row group {segment}"
                raise _corrupt(self.file.path, f"has checksum {actual} in {part}, {published} was published")
            self._verified.add(segment)

    def _hash(self, part: Range, hasher: xxhash.xxh3_64 | xxhash.xxh3_128) -> str:
        start, end = part
        with _translated(self.file.path):
            self._input.file.seek(start)
            while start < end and (chunk := self._input.file.read_buffer(min(_HASHED_BYTES, end - start))):
                hasher.update(chunk)
                start += len(chunk)
            self._input.file.seek(0)
        return str(hasher.hexdigest())


def read_unrecorded(
    storage: Storage, path: str, columns: Sequence[str], *, rows: int = _UNRECORDED_ROWS
) -> Iterator[pa.RecordBatch]:
    """Read columns of a file without a record, some rows at a time, verified by its pages' own checksums.

    Raises MissingFileError, and CorruptFileError if its bytes have changed.
    """
    with storage.open_input(path) as opened, _translated(path):
        parquet = pq.ParquetFile(opened, page_checksum_verification=True)
        yield from parquet.iter_batches(rows, columns=list(columns))


class UnrecordedParquet(Closeable):
    """A file of a job that has not recorded it yet: it is verified by its pages' own checksums.

    Raises MissingFileError, and CorruptFileError if it is not such a file or has another schema.
    """

    def __init__(self, storage: Storage, path: str, schema: pa.Schema) -> None:
        self._path = path
        self._input = storage.open_input(path)
        try:
            with _translated(path):
                self._parquet = pq.ParquetFile(self._input, page_checksum_verification=True)
                if self._parquet.schema_arrow != schema:
                    raise _corrupt(path, "has another schema")
        except BaseException:  # of any kind: the file must not stay open
            self._input.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._parquet.close(force=True)
        self._input.close()

    @property
    def group_sizes(self) -> list[int]:
        """The number of rows in each row group."""
        metadata = self._parquet.metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def read_group(self, group: int) -> pa.Table:
        """Read a row group, verified."""
        with _translated(self._path):
            return self._parquet.read_row_group(group)


class HashingFile(io.RawIOBase):
    """Writes to another file, and hashes what is written, also by segments."""

    def __init__(self, sink: pa.NativeFile) -> None:
        self.sink = sink
        self.hash = xxhash.xxh3_128()
        self.size = 0
        self.segments: list[tuple[int, str]] = []
        self._segment = xxhash.xxh3_64()
        self._started = 0

    def end_segment(self) -> None:
        """End a segment: what is written from now on belongs to the next."""
        self.segments.append((self.size - self._started, self._segment.hexdigest()))
        self._segment, self._started = xxhash.xxh3_64(), self.size

    def writable(self) -> bool:
        """Whether it can be written: always."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes, and return their number."""
        self.hash.update(data)
        self._segment.update(data)
        self.sink.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise  # Arrow's own is an ArrowException too, and says nothing about the file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: column names in the file
        if isinstance(error, OSError) and error.errno is not None:  # the system's; errors of Parquet have no number
            raise StorageError.because(f"could not read '{path}': {os.strerror(error.errno)}") from error
        raise _corrupt(path, f"cannot be read: {error}") from error


def _corrupt(path: str, problem: str) -> CorruptFileError:
    return CorruptFileError.because(f"'{path}' {problem}", "restore the file from a copy")


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Split and combine batches into tables of about the size of a row group."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        step = max(_FEWEST_ROWS, _ROW_GROUP_BYTES * batch.num_rows // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            waiting.append(part)
            rows, size = rows + part.num_rows, size + part.nbytes
            if size >= _ROW_GROUP_BYTES and rows >= _FEWEST_ROWS:
                yield pa.Table.from_batches(waiting, schema)
                waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.Table.from_batches(waiting, schema)

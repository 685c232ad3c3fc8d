"""Label rows on their way into buckets: Arrow batches in the order of their hashes, so that a bucket is one range.

A query's tasks write them, each to a file of its own, and then the number of buckets is chosen from their number. So
a query runs once, and what it returned is fixed whatever becomes of its machines. Spark's own shuffle is not used: it
would need the number of buckets in advance, and moves rows one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.labels.bucket_rule import BucketRule
from snapshotter.storage import Storage

_FINE_BITS = 12
_FINE = 1 << _FINE_BITS  # the finest pieces: a part is divided into at most as many
_PIECE_ROWS = 2_000  # smaller pieces would cost more than the rows in them
_PART_BYTES = 64 << 20  # in memory; a task needs about three times as much
_COMPRESSION = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class RowPart:
    """Rows of one task in a file, in pieces: piece i of n has the rows of bucket `reversed_bits(i, n)` of n.

    path: of the file, which may contain several parts
    offsets: (pieces + 1,) where in the file each piece begins, and the end of the last
    """

    path: str
    offsets: NDArray[np.int64]

    @property
    def pieces(self) -> int:
        """Number of pieces, a power of two."""
        return len(self.offsets) - 1

    def read(
        self, bucket: int, buckets: int, rule: BucketRule, schema: pa.Schema, storage: Storage
    ) -> Iterator[pa.Table]:
        """Yield the rows of a bucket, piece by piece.

        rule: how rows are bucketed; schema: of the rows
        """
        pieces = min(self.pieces, buckets)
        wide = self.pieces // pieces  # pieces of this part in one bucket
        first = reversed_bits(bucket % pieces, pieces) * wide
        start, end = int(self.offsets[first]), int(self.offsets[first + wide])
        if start == end:
            return
        source = pa.BufferReader(storage.read_range(self.path, start, end - start))
        while source.tell() < end - start:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
            if pieces < buckets:  # the piece has rows of other buckets too
                batch = batch.filter(pa.array(rule.buckets(batch, buckets) == bucket))
            if batch.num_rows:
                yield pa.Table.from_batches([batch])


def write_parts(
    batches: Iterable[pa.RecordBatch],
    cast: Callable[[pa.Table], pa.Table],
    rule: BucketRule,
    storage: Storage,
    path: str,
) -> Iterator[tuple[RowPart, pa.Table]]:
    """Write rows to a new file and yield each of its parts with the rows in it; nothing is written without rows.

    cast: applied to many rows at a time; returns columns without dictionaries
    rule: how rows are bucketed
    """
    parts = map(cast, _large(batches))
    first = next(parts, None)
    if first is None:
        return
    with storage.open_output(path) as output, pa.ipc.new_stream(output, first.schema, options=_COMPRESSION) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], first.schema))  # the schema, which is written with a batch
        while first is not None:
            yield RowPart(path, _write_part(first, rule, output, writer)), first
            first = next(parts, None)


def reversed_bits(number: int, count: int) -> int:
    """Reverse the bits of a number below a power of two, so that equal remainders become neighbours.

    >>> [reversed_bits(number, 8) for number in range(8)]
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    bits = count.bit_length() - 1
    return int(f"{number:0{bits}b}"[::-1], 2) if bits else 0


_REVERSED = np.array([reversed_bits(number, _FINE) for number in range(_FINE)], dtype=np.uint16)


def _large(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Combine batches into tables of about the size of a part."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        waiting.append(batch)
        size += batch.nbytes
        if size >= _PART_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _write_part(
    rows: pa.Table, rule: BucketRule, output: pa.NativeFile, writer: pa.RecordBatchWriter
) -> NDArray[np.int64]:
    """Write one part and return the offsets of its pieces."""
    fine = _REVERSED[rule.buckets(rows, _FINE)]
    rows = rows.take(
        pa.array(np.argsort(fine, kind="stable"))
    ).combine_chunks()  # a radix sort, since there are 16 bits
    pieces = 1 << min(_FINE_BITS, max(0, (rows.num_rows // _PIECE_ROWS).bit_length() - 1))
    counts = np.bincount(fine, minlength=_FINE).reshape(pieces, -1).sum(axis=1)
    offsets = np.empty(pieces + 1, dtype=np.int64)
    start = 0
    for piece, count in enumerate(counts.tolist()):
        offsets[piece] = output.tell()
        if count:
            writer.write_table(rows.slice(start, count))
            start += count
    offsets[pieces] = output.tell()
    return offsets

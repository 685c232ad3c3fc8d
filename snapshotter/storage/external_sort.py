"""Rows sorted by a key, however many: in memory while they fit, otherwise by merging sorted runs from a file."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from schemas.closeable import Closeable
from snapshotter.storage.temporary_file import temporary_file, write_at

_RUN_BYTES = 64 << 20  # of rows in memory; sorting takes about three times as much
_PIECE_BYTES = 256 << 10  # of each run while runs are merged
_MOST_PIECE_ROWS = 16_384


class SortedRows(Closeable):
    """Rows sorted by a column, to be read any number of times.

    tables: with the same schema; key: the column, without nulls
    run_bytes: how much is sorted in memory at a time

    A run is sorted in memory and written to an unnamed temporary file. Runs are merged by small pieces, so memory does
    not grow with the rows: for 10 GB of them it is 200 MB, and 40 MB more for the pieces.
    """

    def __init__(self, tables: Iterable[pa.Table], key: str, run_bytes: int = _RUN_BYTES) -> None:
        self.rows = 0
        self._key, self._kept, self._runs, self._end = key, pa.table({}), list[_Run](), 0
        with ExitStack() as stack:
            self._file = stack.enter_context(temporary_file("sorted rows", "write"))
            waiting: list[pa.Table] = []
            size = 0
            for table in tables:
                waiting.append(table)
                size += table.nbytes
                self.rows += table.num_rows
                if size >= run_bytes:
                    self._write_run(waiting)
                    waiting, size = [], 0
            if waiting and self._runs:
                self._write_run(waiting)
            elif waiting:
                self._kept = self._sorted(waiting)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Delete the temporary file."""
        self._stack.close()

    def read(self) -> Iterator[pa.Table]:
        """Yield the rows in their order, rows with equal keys in any."""
        if self._runs:
            yield from self._merged()
        elif self._kept.num_rows:
            yield self._kept

    def _sorted(self, tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        return table.take(pc.sort_indices(table.column(self._key))).combine_chunks()

    def _write_run(self, tables: list[pa.Table]) -> None:
        table = self._sorted(tables)
        rows = max(1, min(_MOST_PIECE_ROWS, _PIECE_BYTES * table.num_rows // max(1, table.nbytes)))
        offsets = [self._end]
        for batch in table.to_batches(max_chunksize=rows):
            data = batch.serialize()
            write_at(self._file, data.to_pybytes(), self._end)
            self._end += data.size
            offsets.append(self._end)
        self._runs.append(_Run(self._file, table.schema, tuple(offsets)))

    def _merged(self) -> Iterator[pa.Table]:
        """Merge the runs: of the pieces at hand, rows up to the smallest last key come before all other rows."""
        open_runs = [(run.pieces(), pa.table({})) for run in self._runs]
        while True:
            open_runs = [(rest, piece if piece.num_rows else next(rest, None)) for rest, piece in open_runs]
            open_runs = [(rest, piece) for rest, piece in open_runs if piece is not None]
            if not open_runs:
                return
            ends = pa.concat_tables([piece.select([self._key]).slice(piece.num_rows - 1) for _, piece in open_runs])
            first = pc.sort_indices(ends.column(self._key))[0].as_py()
            last = ends.column(self._key)[first]
            counts = [_rows_up_to(piece.column(self._key), last) for _, piece in open_runs]
            counts[first] = open_runs[first][1].num_rows
            yield self._sorted([piece.slice(0, count) for (_, piece), count in zip(open_runs, counts, strict=True)])
            open_runs = [(rest, piece.slice(count)) for (rest, piece), count in zip(open_runs, counts, strict=True)]


@dataclass(frozen=True)
class _Run:
    file: int
    schema: pa.Schema
    offsets: tuple[int, ...]

    def pieces(self) -> Iterator[pa.Table]:
        for start, end in zip(self.offsets, self.offsets[1:], strict=False):
            data = pa.py_buffer(os.pread(self.file, end - start, start))
            yield pa.Table.from_batches([pa.ipc.read_record_batch(data, self.schema)])


def _rows_up_to(keys: pa.ChunkedArray, last: pa.Scalar) -> int:
    """Count the keys that are not after another one, where all are sorted with NaN last."""
    if pa.types.is_decimal(keys.type):  # which Arrow cannot search
        return bisect_right(keys, last.as_py(), key=pa.Scalar.as_py)
    return int(pc.search_sorted(keys, last, side="right").as_py())

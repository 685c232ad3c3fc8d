"""Which capture of a service serves each row: files are matched from the newest on, until every row is served.

At most `MOST_OPEN` files are open at a time, each is opened once, and a file that no row can see is not opened. Row
groups that hold none of the rows' keys, or only captures that no row can see, are not read. How much is read depends on
the rows: a row whose key was never captured searches every file that its window allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.as_of.join import as_of_rows
from delorean.state.capture_values import CaptureValues
from delorean.state.matches import CaptureFile, CaptureMatch, ElementMatch
from delorean.state.row_groups import RowGroups, Sought
from delorean.state.rules import AsOf
from schemas.data_keys import DataKey
from snapshotter.records import DataFile, to_micros
from snapshotter.storage import Storage
from snapshotter.storage.parquet import ParquetReader

CAPTURED_COLUMN = "captured_at"
MOST_OPEN = 16
_FOREVER = 2**62  # microseconds: longer than any two of our times are apart, and no sum with it overflows
_NEVER = np.iinfo(np.int64).min


@dataclass
class CaptureSearch:
    """Searches files for the captures that serve rows, see `find_captures` and `match_captures`.

    key: the variables that captures and rows are compared by; files under another key are ignored
    files: in the order in which they were published: of equal captures the row of the later file wins
    """

    key: Sequence[DataKey]
    rule: AsOf
    files: Sequence[CaptureFile]
    storage: Storage

    def run(self, rows: pa.Table, times: pa.ChunkedArray, values: CaptureValues | None = None) -> CaptureMatch:
        """Find the capture that serves each row. values: collects the captures' values while files are open."""
        self._rows = rows.select([variable.name for variable in self.key]).combine_chunks()
        self._times = times
        self._micros = times.cast(pa.int64()).to_numpy()
        self._best = np.full(rows.num_rows, _NEVER)
        self._file = np.full(rows.num_rows, -1, dtype=np.int64)
        # Rows that a remaining file may still serve better. A null in a key never matches.
        self._pending = np.flatnonzero(np.logical_and.reduce([key.is_valid().to_numpy() for key in self._rows.columns]))
        remaining = self._newest_last()
        most = 1
        while remaining and len(self._pending):
            batch = self._next_batch(remaining, most)
            if batch:
                self._match(batch, values)
            self._drop_settled_rows(remaining)
            most = min(2 * most, MOST_OPEN)
        return CaptureMatch(np.where(self._file >= 0, self._best, 0), self._file)

    def _newest_last(self) -> list[int]:
        """Order the files so that the last of the list is the first to be searched."""
        key = tuple(self.key)
        self._bounds = {
            i: (to_micros(snapshot.captured_from), to_micros(snapshot.captured_to))
            for i, (snapshot, _) in enumerate(self.files)
            if snapshot.captured_from and snapshot.captured_to and snapshot.service.key == key
        }
        return sorted(self._bounds, key=lambda i: (self._bounds[i][1], i))

    def _next_batch(self, remaining: list[int], most: int) -> list[int]:
        """Remove at most `MOST_OPEN` files from the list and return them.

        These are the newest that some row can see, which must be searched whatever the others hold; and more of the
        newest, up to `most`, so that a key which few runs captured does not take a round for each run.
        """
        times = self._micros[self._pending]
        newest = int(times.max()) - _micros(self.rule.lag)
        while remaining and self._bounds[remaining[-1]][0] > newest:  # no pending row can see it, so no row will
            remaining.pop()
        window = remaining[-MOST_OPEN:]
        if self.rule.max_age is not None:
            oldest = int(times.min()) - _micros(self.rule.max_age)
            window = [i for i in window if self._bounds[i][1] >= oldest]
            if not window:  # and all remaining files are older
                remaining.clear()
        if len(window) <= most:
            batch = window
        else:
            firsts = sorted({self._bounds[i][0] for i in window})
            seen = times - _micros(self.rule.lag)
            rows = [np.count_nonzero(seen >= first) for first in firsts] + [0]  # that see a run, by its first capture
            needed = {first for first, more, fewer in zip(firsts, rows, rows[1:], strict=False) if more > fewer}
            batch = [i for n, i in enumerate(window) if self._bounds[i][0] in needed or n >= len(window) - most]
        batch = [i for i in batch if self._bounds[i][0] <= newest]
        removed = set(batch)
        remaining[-MOST_OPEN:] = [i for i in remaining[-MOST_OPEN:] if i not in removed]
        return batch

    def _match(self, batch: list[int], values: CaptureValues | None) -> None:
        batch = sorted(batch)  # as published, so that of equal captures the later wins
        rows = self._rows_in_view(batch)
        if not len(rows):
            return
        with opened_files([self.files[i].file for i in batch], self.storage) as readers:
            parts = self._row_groups(rows, readers)
            captures, ends = self._captures(parts)
            positions = self._as_of(rows, captures)
            times = captures[CAPTURED_COLUMN].cast(pa.int64()).to_numpy()
            captured = np.where(positions >= 0, times[positions] if len(times) else 0, _NEVER)
            of_batch = np.searchsorted(ends, positions, side="right")
            file = np.where(positions >= 0, np.array(batch)[np.minimum(of_batch, len(batch) - 1)], -1)
            better = (captured > self._best[rows]) | ((captured == self._best[rows]) & (file > self._file[rows]))
            rows, positions = rows[better], positions[better]
            self._best[rows], self._file[rows] = captured[better], file[better]
            if values is not None:
                values.take(rows, positions, ends, [(self.files[i], p) for i, p in zip(batch, parts, strict=True)])

    def _rows_in_view(self, batch: list[int]) -> NDArray[np.int64]:
        """Return the pending rows that can see any of the files by their times."""
        times = self._micros[self._pending]
        first = min(self._bounds[i][0] for i in batch)
        seen = times >= first + _micros(self.rule.lag)
        if self.rule.max_age is not None:
            last = max(self._bounds[i][1] for i in batch)
            seen &= times <= last + _micros(self.rule.max_age)
        return self._pending if seen.all() else self._pending[seen]

    def _row_groups(self, rows: NDArray[np.int64], readers: Sequence[ParquetReader]) -> list[RowGroups]:
        """Return the parts of files that may serve rows."""
        if all(reader.metadata.num_row_groups <= 1 for reader in readers):
            return [RowGroups.all_of(reader) for reader in readers]
        times, age = self._micros[rows], self.rule.max_age
        oldest = _NEVER if age is None else int(times.min()) - _micros(age)
        newest = int(times.max()) - _micros(self.rule.lag)
        sought = Sought.of(self._rows.take(pa.array(rows)), oldest, newest, CAPTURED_COLUMN)
        return [sought.in_file(reader) for reader in readers]

    def _captures(self, files: Sequence[RowGroups]) -> tuple[pa.Table, NDArray[np.int64]]:
        """Read keys and times of parts of files, end to end, and where those of each file end."""
        names = [variable.name for variable in self.key]
        parts = [file.read([*names, CAPTURED_COLUMN]) for file in files]
        return pa.concat_tables(parts), np.cumsum([part.num_rows for part in parts], dtype=np.int64)

    def _as_of(self, rows: NDArray[np.int64], captures: pa.Table) -> NDArray[np.int64]:
        keys, times = self._rows, self._times
        if len(rows) < keys.num_rows:
            keys, times = keys.take(pa.array(rows)), times.take(pa.array(rows))
        return as_of_rows(
            keys.columns,
            times,
            [captures[name] for name in keys.column_names],
            captures[CAPTURED_COLUMN],
            max_age=self.rule.max_age,
            lag=self.rule.lag,
            allow_exact=self.rule.allow_exact,
        )

    def _drop_settled_rows(self, remaining: list[int]) -> None:
        """Drop the pending rows that no remaining file can serve better."""
        if remaining:
            last = self._bounds[remaining[-1]][1]
            best = self._best[self._pending]
            # Of the remaining files that end as late, the first to be searched is the latest published.
            improvable = (best < last) | ((best == last) & (self._file[self._pending] < remaining[-1]))
            self._pending = self._pending[improvable]


def find_captures(
    rows: pa.Table,
    times: pa.ChunkedArray,
    key: Sequence[DataKey],
    rule: AsOf,
    files: Sequence[CaptureFile],
    storage: Storage,
) -> CaptureMatch:
    """Find by the as-of rule which capture serves each row, reading keys and times only; see `CaptureSearch`.

    rows: with the key's columns, in any order; times: of the rows
    """
    return CaptureSearch(key, rule, files, storage).run(rows, times)


def match_captures(
    rows: pa.Table,
    times: pa.ChunkedArray,
    key: Sequence[DataKey],
    element: DataKey,
    rule: AsOf,
    files: Sequence[CaptureFile],
    storage: Storage,
) -> ElementMatch:
    """Match rows with captures by the as-of rule and read the values that serve them; see `find_captures`.

    Raises DataKeyError where a row is served by a run whose values are of another type than the element's.
    """
    values = CaptureValues(element, rows.num_rows)
    match = CaptureSearch(key, rule, files, storage).run(rows, times, values)
    return ElementMatch(match.captured_at, match.file, values.element(match, files))


@contextmanager
def opened_files(files: Sequence[DataFile], storage: Storage) -> Iterator[list[ParquetReader]]:
    """Open files together, in their order."""
    with ExitStack() as opened:
        yield [opened.enter_context(ParquetReader(storage, file)) for file in files]


def _micros(span: timedelta) -> int:
    return min(span // timedelta(microseconds=1), _FOREVER)

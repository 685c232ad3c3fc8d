"""A bucket's answers on their way to its file: kept as they come, found again by who goes on, merged at the end.

Every file is whole and synced under a name that no other has, so that attempts at the same bucket never meet. Which of
them is published its run's record says; the rest are orphans. What an earlier attempt has left is read but never
published as it is: a vacuum may take it by its age, while what is published must be young.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import CorruptFileError, MissingFileError
from schemas.services import Service
from schemas.tables import IS_FALLBACK, snapshot_schema
from snapshotter.capture.value_profile import MeasureSums, sums_of
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.parquet import UnrecordedParquet, write_parquet

_PART_BYTES = (
    64 << 20
)  # in memory: about a bucket as `snapshotter.capture.run_plan` makes them, so that a quick one needs no merge
_FILES_OPEN = 32  # of a bucket: a slow one leaves hundreds, and four services share a process's file handles
_ROWS_AT_ONCE = 1024  # of a merge: as many as the smallest row group has


@dataclass(frozen=True)
class AnswerFile:
    """A file of successes. first, last: captures, microseconds since the epoch."""

    file: DataFile
    sums: MeasureSums
    first: int
    last: int


@dataclass(frozen=True)
class _PartFile:
    """A file at rest. positions: of each row's key in its bucket; -1: the row is not wanted."""

    path: str
    positions: NDArray[np.int64]


@dataclass
class AnswerFiles:
    """One attempt at one bucket.

    folder: of the service's run, relative to the storage's root
    keys: of the bucket, distinct, in the order in which its file has them
    keep_seconds: for how long an answer may wait in memory
    """

    storage: Storage
    folder: str
    service: Service
    bucket: int
    keys: pa.Table
    keep_seconds: float
    notes: list[str] = field(default_factory=list)  # what was found and not used, and why
    _files: _OpenFiles = field(init=False)
    _kept: list[_PartFile] = field(default_factory=list)
    _written: AnswerFile | None = None  # the last part
    _recovered: bool = False
    _waiting: list[tuple[NDArray[np.int64], pa.RecordBatch]] = field(default_factory=list)
    _bytes: int = 0
    _oldest: float = 0.0

    def __post_init__(self) -> None:
        """Prepare for reading."""
        self._files = _OpenFiles(self.storage, snapshot_schema(self.service))

    def recover(self) -> NDArray[np.int64]:
        """Find what earlier attempts have captured; gives the positions of the keys that nobody has."""
        free = np.ones(self.keys.num_rows, dtype=np.bool_)
        places: dict[tuple[object, ...], int] = {}
        for path in self._left():
            places = places or {key: place for place, key in enumerate(_tuples(self.keys))}
            try:
                found, answered = self._keys_in(path)
            except (CorruptFileError, MissingFileError) as error:
                self.notes.append(f"captured before, but not used: {error.args[0].partition(' → ')[0]}")
                continue
            positions = np.array([places.get(key, -1) for key in found], dtype=np.int64)
            positions[~answered] = -1  # there may be an answer now
            once = np.zeros(len(positions), dtype=np.bool_)
            once[np.unique(positions, return_index=True)[1]] = True
            positions[~(once & (positions >= 0) & free[positions])] = -1
            if np.any(positions >= 0):
                free[positions[positions >= 0]] = False
                self._kept.append(_PartFile(path, positions))
                self._recovered = True
        return np.flatnonzero(free)

    def add(self, positions: NDArray[np.int64], rows: pa.RecordBatch) -> None:
        """Take successes, and write a part when there are many of them or they have waited for long."""
        if rows.num_rows:
            self._oldest = self._oldest if self._waiting else time.monotonic()
            self._waiting.append((positions, rows))
            self._bytes += rows.nbytes
        if self._waiting and (self._bytes >= _PART_BYTES or time.monotonic() - self._oldest >= self.keep_seconds):
            self.keep()

    def keep(self) -> None:
        """Write what waits as a part."""
        if not self._waiting:
            return
        positions = np.concatenate([places for places, _ in self._waiting])
        batches = [rows for _, rows in self._waiting]
        order = np.argsort(positions)
        if np.any(order[1:] < order[:-1]):  # what was asked again comes after what follows it
            table = pa.Table.from_batches(batches).take(order)
            positions, batches = positions[order], table.combine_chunks().to_batches()
        self._written = self._write(batches)
        self._kept.append(_PartFile(self._written.file.path, positions))
        self._waiting, self._bytes = [], 0

    def finish(self) -> AnswerFile | None:
        """Give the bucket's one file, sorted by key; None when nothing was captured."""
        self.keep()
        if len(self._kept) > 1 or self._recovered:
            return self._write(_merged(self._files, self._kept))
        return self._written

    def close(self) -> None:
        """Close what was read."""
        self._files.close()

    def _write(self, batches: Iterable[pa.RecordBatch]) -> AnswerFile:
        sums = MeasureSums()
        spans: list[dict[str, int]] = []

        def measured() -> Iterator[pa.RecordBatch]:
            for batch in batches:
                sums.add(sums_of(batch.column("value")))
                spans.append(pc.min_max(batch.column("captured_at").cast(pa.int64())).as_py())
                yield batch

        path = f"{self.folder}/{self._prefix}{uuid.uuid4().hex[:12]}.parquet"
        file = write_parquet(self.storage, path, measured(), snapshot_schema(self.service), self.bucket)
        return AnswerFile(file, sums, min(span["min"] for span in spans), max(span["max"] for span in spans))

    @property
    def _prefix(self) -> str:
        return f"{self.bucket:05d}-"

    def _left(self) -> list[str]:
        """List the files that other attempts at this bucket have left; what is being written has a hidden name."""
        return [file.path for file in self.storage.list(self.folder, self._prefix) if file.path.endswith(".parquet")]

    def _keys_in(self, path: str) -> tuple[list[tuple[object, ...]], NDArray[np.bool_]]:
        """Read a file to its end, verified; gives its keys, and which of them have an answer and no mere fallback."""
        found: list[tuple[object, ...]] = []
        answered = [np.empty(0, dtype=np.bool_)]
        file = self._files.open(path)
        for group in range(len(file.group_sizes)):
            rows = file.read_group(group)
            found += _tuples(rows.select(self.keys.column_names))
            marked = IS_FALLBACK in rows.column_names
            answered.append(~rows[IS_FALLBACK].to_numpy() if marked else np.ones(rows.num_rows, dtype=np.bool_))
        return found, np.concatenate(answered)


def _tuples(keys: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() for column in keys.columns), strict=True))


class _OpenFiles:
    """Files of one schema, each opened when it is first read; of many the least recently read are closed."""

    def __init__(self, storage: Storage, schema: pa.Schema) -> None:
        self._storage, self._schema = storage, schema
        self._open: dict[str, UnrecordedParquet] = {}  # the most recently read is the last

    def open(self, path: str) -> UnrecordedParquet:
        """Give a file that stays open until many others were read. Raises what UnrecordedParquet does."""
        file = self._open.pop(path, None) or UnrecordedParquet(self._storage, path, self._schema)
        self._open[path] = file
        while len(self._open) > _FILES_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return file

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()


def _merged(files: _OpenFiles, parts: list[_PartFile]) -> Iterator[pa.RecordBatch]:
    """Give the wanted rows of all parts in the order of their keys, holding only the row groups that are being read."""
    part_of = np.repeat(np.arange(len(parts)), [len(part.positions) for part in parts])
    row_of = np.concatenate([np.arange(len(part.positions)) for part in parts])
    position = np.concatenate([part.positions for part in parts])
    order = np.argsort(position, kind="stable")[np.count_nonzero(position < 0) :]
    held: dict[tuple[str, int], pa.Table] = {}
    for start in range(0, len(order), _ROWS_AT_ONCE):
        rows = order[start : start + _ROWS_AT_ONCE]
        before, held = held, {}
        found, came = [], []
        for number in np.unique(part_of[rows]).tolist():
            here = np.flatnonzero(part_of[rows] == number)
            path = parts[number].path
            for group, chosen, row in _by_group(files.open(path).group_sizes, row_of[rows[here]]):
                table = before.get((path, group))
                held[path, group] = files.open(path).read_group(group).combine_chunks() if table is None else table
                found.append(held[path, group].take(row))
                came.append(here[chosen])
        table = pa.concat_tables(found)
        yield from (table.take(np.argsort(np.concatenate(came))) if len(found) > 1 else table).to_batches()


def _by_group(sizes: list[int], rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Tell for rows of a file which of them are in each of its row groups, and where in that."""
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, rows, side="right")
    for group in np.unique(group_of).tolist():
        chosen = np.flatnonzero(group_of == group)
        yield group, chosen, rows[chosen] - (ends[group] - sizes[group])

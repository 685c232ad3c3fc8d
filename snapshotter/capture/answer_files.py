"""Files of one bucket's answers: parts are written as answers arrive, and merged into one file at the end.

Each file is complete and synced before it gets a name, and no two share one, so that concurrent attempts at a bucket do
not interfere. The run's record says which files are published; the others are orphans. A later attempt reads the parts
of an earlier one, but never publishes them as they are: a vacuum may delete files by age, so what is published must
have been written recently.
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

_PART_BYTES = 64 << 20  # in memory: about a bucket as `run_plan` makes them, so that a quick one needs no merge
_OPEN_FILES = 32  # of a bucket: a slow one leaves hundreds, and four services share a process's file handles
_MERGED_ROWS = 1024  # at a time: as many as the smallest row group has


@dataclass(frozen=True)
class AnswerFile:
    """A file of successful answers. first, last: captures, microseconds since the epoch."""

    file: DataFile
    sums: MeasureSums
    first: int
    last: int


@dataclass(frozen=True)
class _PartFile:
    """A file to merge. positions: of each row's key in the bucket; -1: the row is left out."""

    path: str
    positions: NDArray[np.int64]


@dataclass
class AnswerFiles:
    """The files of one attempt at one bucket.

    folder: of the service's run, relative to the storage's root
    keys: of the bucket, distinct, in the order in which the merged file has them
    keep_seconds: how long an answer may wait in memory
    notes: files of earlier attempts that could not be used, and why
    """

    storage: Storage
    folder: str
    service: Service
    bucket: int
    keys: pa.Table
    keep_seconds: float
    notes: list[str] = field(default_factory=list)
    _files: _OpenFiles = field(init=False)
    _parts: list[_PartFile] = field(default_factory=list)
    _last_part: AnswerFile | None = None
    _recovered: bool = False
    _waiting: list[tuple[NDArray[np.int64], pa.RecordBatch]] = field(default_factory=list)
    _waiting_bytes: int = 0
    _waiting_since: float = 0.0

    def __post_init__(self) -> None:
        """Prepare for reading."""
        self._files = _OpenFiles(self.storage, snapshot_schema(self.service))

    def recover(self) -> NDArray[np.int64]:
        """Use what earlier attempts have captured, and return the positions of the keys that are missing."""
        free = np.ones(self.keys.num_rows, dtype=np.bool_)
        position_of: dict[tuple[object, ...], int] = {}
        for path in self._files_of_earlier_attempts():
            position_of = position_of or {key: position for position, key in enumerate(_tuples(self.keys))}
            try:
                keys, answered = self._keys_in(path)
            except (CorruptFileError, MissingFileError) as error:
                self.notes.append(f"captured earlier, but not used: {error.args[0].partition(' → ')[0]}")
                continue
            positions = np.array([position_of.get(key, -1) for key in keys], dtype=np.int64)
            positions[~answered] = -1  # the service may have an answer by now
            first = np.zeros(len(positions), dtype=np.bool_)
            first[np.unique(positions, return_index=True)[1]] = True
            positions[~(first & (positions >= 0) & free[positions])] = -1
            if np.any(positions >= 0):
                free[positions[positions >= 0]] = False
                self._parts.append(_PartFile(path, positions))
                self._recovered = True
        return np.flatnonzero(free)

    def add(self, positions: NDArray[np.int64], rows: pa.RecordBatch) -> None:
        """Take successful answers, and write a part if they are large or have waited long."""
        if rows.num_rows:
            self._waiting_since = self._waiting_since if self._waiting else time.monotonic()
            self._waiting.append((positions, rows))
            self._waiting_bytes += rows.nbytes
        waited = time.monotonic() - self._waiting_since
        if self._waiting and (self._waiting_bytes >= _PART_BYTES or waited >= self.keep_seconds):
            self.flush()

    def flush(self) -> None:
        """Write the answers in memory as a part."""
        if not self._waiting:
            return
        positions = np.concatenate([positions for positions, _ in self._waiting])
        batches = [rows for _, rows in self._waiting]
        order = np.argsort(positions)
        if np.any(order[1:] < order[:-1]):  # a second pass requests keys before those of the last page
            table = pa.Table.from_batches(batches).take(order)
            positions, batches = positions[order], table.combine_chunks().to_batches()
        self._last_part = self._write(batches)
        self._parts.append(_PartFile(self._last_part.file.path, positions))
        self._waiting, self._waiting_bytes = [], 0

    def finish(self) -> AnswerFile | None:
        """Return the bucket's one file, sorted by key; None if nothing was captured."""
        self.flush()
        if len(self._parts) > 1 or self._recovered:
            return self._write(_merged(self._files, self._parts))
        return self._last_part

    def close(self) -> None:
        """Close the files that were read."""
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

    def _files_of_earlier_attempts(self) -> list[str]:
        """List the files of this bucket. One that is being written has a hidden name."""
        return [file.path for file in self.storage.list(self.folder, self._prefix) if file.path.endswith(".parquet")]

    def _keys_in(self, path: str) -> tuple[list[tuple[object, ...]], NDArray[np.bool_]]:
        """Read all of a file, verified; return its keys, and which of them have an answer rather than a fallback."""
        keys: list[tuple[object, ...]] = []
        answered = [np.empty(0, dtype=np.bool_)]
        file = self._files.open(path)
        for group in range(len(file.group_sizes)):
            rows = file.read_group(group)
            keys += _tuples(rows.select(self.keys.column_names))
            marked = IS_FALLBACK in rows.column_names
            answered.append(~rows[IS_FALLBACK].to_numpy() if marked else np.ones(rows.num_rows, dtype=np.bool_))
        return keys, np.concatenate(answered)


def _tuples(keys: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() for column in keys.columns), strict=True))


class _OpenFiles:
    """Files of one schema, opened when first read; beyond a number the least recently read are closed."""

    def __init__(self, storage: Storage, schema: pa.Schema) -> None:
        self._storage, self._schema = storage, schema
        self._open: dict[str, UnrecordedParquet] = {}  # the most recently read is the last

    def open(self, path: str) -> UnrecordedParquet:
        """Return an open file. Raises what UnrecordedParquet does."""
        file = self._open.pop(path, None) or UnrecordedParquet(self._storage, path, self._schema)
        self._open[path] = file
        while len(self._open) > _OPEN_FILES:
            self._open.pop(next(iter(self._open))).close()
        return file

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()


def _merged(files: _OpenFiles, parts: list[_PartFile]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all parts in the order of their keys, holding only the row groups that are being read."""
    part_of = np.repeat(np.arange(len(parts)), [len(part.positions) for part in parts])
    row_of = np.concatenate([np.arange(len(part.positions)) for part in parts])
    position = np.concatenate([part.positions for part in parts])
    order = np.argsort(position, kind="stable")[np.count_nonzero(position < 0) :]
    held: dict[tuple[str, int], pa.Table] = {}
    for start in range(0, len(order), _MERGED_ROWS):
        rows = order[start : start + _MERGED_ROWS]
        before, held = held, {}
        tables, places = [], []
        for number in np.unique(part_of[rows]).tolist():
            here = np.flatnonzero(part_of[rows] == number)
            path = parts[number].path
            for group, chosen, row in _by_group(files.open(path).group_sizes, row_of[rows[here]]):
                table = before.get((path, group))
                held[path, group] = files.open(path).read_group(group).combine_chunks() if table is None else table
                tables.append(held[path, group].take(row))
                places.append(here[chosen])
        table = pa.concat_tables(tables)
        yield from (table.take(np.argsort(np.concatenate(places))) if len(tables) > 1 else table).to_batches()


def _by_group(sizes: list[int], rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each row group that has any of these rows of a file, which rows they are, and their places in the group."""
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, rows, side="right")
    for group in np.unique(group_of).tolist():
        chosen = np.flatnonzero(group_of == group)
        yield group, chosen, rows[chosen] - (ends[group] - sizes[group])

"""Finds for each label row the state of a service or a global element as of its own time, and reads just that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.as_of import as_of_rows
from delorean.generation.rules import AsOf
from delorean.generation.shared_array import shared_array
from delorean.generation.sources import GlobalSource
from delorean.labels import TIME_COLUMN
from encoders.data_map import ABSENT, Element
from schemas.data_keys import DataKey
from schemas.tables import TIME
from snapshotter.global_elements import read_global_version
from snapshotter.records import DataFile, GlobalVersion, to_micros
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import ParquetReader

CAPTURED_COLUMN = "captured_at"
VALUE_COLUMN = "value"


@dataclass(frozen=True)
class Matched:
    """An element for each label row.

    captured_at: (rows,) microseconds of its capture, 0 where it is absent
    file: (rows,) which of the files given it came from, −1 where it is absent
    """

    element: Element
    captured_at: NDArray[np.int64]
    file: NDArray[np.int64]

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Which rows have no such element."""
        absent: NDArray[np.bool_] = self.element.rows == ABSENT
        return absent

    def where(self, kept: NDArray[np.bool_]) -> Matched:
        """Leave rows out."""
        return Matched(Element(self.element.values, self.element.rows[kept]), self.captured_at[kept], self.file[kept])

    def without(self, rows: NDArray[np.bool_]) -> Matched:
        """Make the element absent from rows."""
        return Matched(
            Element(self.element.values, np.where(rows, ABSENT, self.element.rows)),
            np.where(rows, 0, self.captured_at),
            np.where(rows, -1, self.file),
        )

    def captured_times(self) -> pa.Array:
        """`captured_at` as Arrow times, null where the element is absent."""
        return pa.array(self.captured_at, mask=self.absent).cast(TIME)


@dataclass(frozen=True)
class FoundCaptures:
    """Which capture serves each row.

    capture: (rows,) its position among the captures of all files, −1 for none
    captured_at, file: as in `Matched`
    ends: (files,) where the captures of each file end
    """

    capture: NDArray[np.int64]
    captured_at: NDArray[np.int64]
    file: NDArray[np.int64]
    ends: NDArray[np.int64]


def match_files(
    rows: pa.Table, key: Sequence[DataKey], element: DataKey, rule: AsOf, files: Sequence[DataFile], storage: Storage
) -> Matched:
    """Match rows with snapshot files by the as-of rule.

    rows: the key's columns and `time`
    files: of equal captures the row of the later file wins

    Keys and times of all files are read first, values only where a row matched.
    """
    with opened_files(files, storage) as readers:
        found = find_captures(rows, key, rule, readers)
        values, positions = _values(readers, found, element)
    return Matched(Element(values, positions), found.captured_at, found.file)


@contextmanager
def opened_files(files: Sequence[DataFile], storage: Storage) -> Iterator[list[ParquetReader]]:
    """Open files together, in their order."""
    with ExitStack() as opened:
        yield [opened.enter_context(ParquetReader(storage, file)) for file in files]


def find_captures(
    rows: pa.Table, key: Sequence[DataKey], rule: AsOf, readers: Sequence[ParquetReader]
) -> FoundCaptures:
    """Find by the as-of rule which capture serves each row, reading keys and times only; see `match_files`."""
    names = [variable.name for variable in key]
    parts = [reader.read([*names, CAPTURED_COLUMN]) for reader in readers]
    schema = pa.schema([*((v.name, v.type) for v in key), (CAPTURED_COLUMN, TIME)])
    captures = pa.concat_tables(parts) if parts else schema.empty_table()
    found = as_of_rows(
        [rows[name] for name in names],
        rows[TIME_COLUMN],
        [captures[name] for name in names],
        captures[CAPTURED_COLUMN],
        max_age=rule.max_age,
        lag=rule.lag,
        allow_exact=rule.allow_exact,
    )
    ends = np.cumsum([part.num_rows for part in parts], dtype=np.int64)
    times = captures[CAPTURED_COLUMN].cast(pa.int64()).to_numpy()
    captured = np.where(found >= 0, times[found] if len(times) else 0, 0)
    file = np.where(found >= 0, np.searchsorted(ends, found, side="right"), -1)
    return FoundCaptures(found, captured, file, ends)


def match_versions(times: pa.ChunkedArray, source: GlobalSource, storage_uri: str) -> Matched:
    """Match times with the versions of a global element by the as-of rule; each version used is read once."""
    found, captured = find_versions(times, source)
    used = np.unique(found[found >= 0])
    values = _versions(storage_uri, source.element, tuple(source.versions[i] for i in used))
    positions = np.where(found >= 0, np.searchsorted(used, found), ABSENT)
    return Matched(Element(values, positions), captured, found)


def find_versions(times: pa.ChunkedArray, source: GlobalSource) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find for each time the version that is valid, −1 for none, and its valid_from in microseconds, 0 for none."""
    nobody = pa.chunked_array([pa.nulls(len(times), pa.int8()).fill_null(0)])
    starts = pa.array([to_micros(start) for start in source.starts()], pa.int64())
    found = as_of_rows(
        [nobody],
        times,
        [pa.chunked_array([pa.nulls(len(starts), pa.int8()).fill_null(0)])],
        pa.chunked_array([starts.cast(TIME)]),
        max_age=source.rule.max_age,
        lag=source.rule.lag,
        allow_exact=source.rule.allow_exact,
    )
    return found, np.where(found >= 0, starts.to_numpy()[found] if len(starts) else 0, 0)


@lru_cache(maxsize=4)
def _versions(storage_uri: str, element: DataKey, versions: tuple[GlobalVersion, ...]) -> pa.ListArray:
    """Give versions of a global element, shared by the workers of an executor: for each version a list of its rows.

    Neighbouring buckets use the same ones, and encoders index an array only once while it is the same.
    """
    content = [storage_uri, [[file.path for file in version.files] for version in versions]]  # paths are never reused
    name = sha256(repr(content).encode()).hexdigest()
    return shared_array(name, lambda: _read_versions(storage_uri, element, versions))


def _read_versions(storage_uri: str, element: DataKey, versions: Sequence[GlobalVersion]) -> pa.ListArray:
    storage = open_storage(storage_uri)
    tables = [read_global_version(version, storage) for version in versions]
    offsets = np.cumsum([0, *(table.num_rows for table in tables)])
    rows = pa.concat_tables([pa.schema(list(element.type)).empty_table(), *tables]).combine_chunks()
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), rows.to_struct_array().combine_chunks())


def _values(
    readers: Sequence[ParquetReader], captures: FoundCaptures, element: DataKey
) -> tuple[pa.Array, NDArray[np.int64]]:
    """Read the values that were found, and where each row's value is among them."""
    found, ends = captures.capture, captures.ends
    used = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=bool)
    used[found[found >= 0]] = True
    kept = np.zeros(len(used), dtype=bool)
    parts: list[pa.Array] = []
    start = 0
    for reader, end in zip(readers, ends, strict=True):
        wanted = used[start:end]
        share = wanted.mean() if len(wanted) else 0.0
        if share:
            column = reader.read([VALUE_COLUMN])[VALUE_COLUMN]
            if share < _KEEP_WHOLE:
                column = column.filter(pa.array(wanted))
            kept[start:end] = wanted if share < _KEEP_WHOLE else True
            parts += column.chunks
        start = int(end)
    values = pa.concat_arrays(parts) if parts else pa.array([], element.type)
    positions = np.cumsum(kept) - 1
    return values, np.where(found >= 0, positions[found] if len(positions) else ABSENT, ABSENT)


_KEEP_WHOLE = 0.6  # above this share of rows used, copying nested values costs more than the unused ones do

"""Reads two sides in parts: each part has all rows of its contexts, and fits into memory."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.comparison.feature_source import ComparedSide
from schemas.errors import ConfigError, StorageError
from schemas.hashing import bucket_of

_MOST_PARTS = 4096
_BucketSizes: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]  # the fine buckets in a file, and their items
_Reader: TypeAlias = Callable[[int], pa.Table]


def parts_of(
    sides: Sequence[ComparedSide], context: Sequence[str], columns: Sequence[str], at_once: int, lists: str
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Read columns of both sides, all rows of a context in one part.

    lists: the column of lists by whose lengths items are counted
    at_once: values in a part, of both sides; a single context may have more. Raises ConfigError for missing columns
    """
    for side in sides:
        for name in columns:
            if name not in side.schema.names:
                raise ConfigError.unknown(f"column of {side.name}", name, side.schema.names)
    variables = [name for name in context if _can_partition(name, sides)]
    if not variables:
        before, after = (_table(side, columns, range(len(side.files()))) for side in sides)
        yield before, after
        return
    sizes_of_sides = [_bucket_sizes(side, variables, lists) for side in sides]
    # The variable that distributes items most evenly: nearly always the bucket variable, so that a file is in one part.
    sizes = {name: _total([file for of_side in sizes_of_sides for file in of_side[name]]) for name in variables}
    variable = min(variables, key=lambda name: int(sizes[name].max()))
    count = _part_count(sizes[variable] * len(columns), at_once)
    with ExitStack() as opened:
        readers: list[_Reader] = []
        for side, of_side in zip(sides, sizes_of_sides, strict=True):
            parts_of_files = [np.unique(buckets % count) for buckets, _ in of_side[variable]]
            if all(len(parts) <= 1 for parts in parts_of_files):
                readers.append(_file_reader(side, columns, parts_of_files))
            else:
                readers.append(opened.enter_context(_sorted_reader(side, columns, variable, count, at_once)))
        for part in np.unique(np.flatnonzero(sizes[variable]) % count).tolist():
            yield readers[0](part), readers[1](part)


def _can_partition(name: str, sides: Sequence[ComparedSide]) -> bool:
    """Return whether a variable can be hashed into the same buckets on both sides."""
    types = [side.schema.field(name).type for side in sides]
    integers = [pa.types.is_integer(type) and type != pa.uint64() for type in types]  # noqa: A001
    texts = [pa.types.is_string(type) or pa.types.is_large_string(type) for type in types]  # noqa: A001
    return all(integers) or all(texts)


def _bucket_sizes(side: ComparedSide, variables: Sequence[str], lists: str) -> dict[str, list[_BucketSizes]]:
    """Count for each variable and file the items in each fine bucket, and one more for each row."""
    sizes: dict[str, list[_BucketSizes]] = {name: [] for name in variables}
    for file in side.files():
        counts = {name: np.zeros(_MOST_PARTS, dtype=np.int64) for name in variables}
        for batch in side.read(file, [*variables, lists]):
            lengths = pc.fill_null(pc.list_value_length(batch.column(lists)), 0).to_numpy()
            for name in variables:
                buckets = bucket_of(batch.column(name), _MOST_PARTS)
                counts[name] += np.bincount(buckets, weights=lengths + 1, minlength=_MOST_PARTS).astype(np.int64)
        for name, items in counts.items():
            filled = np.flatnonzero(items)
            sizes[name].append((filled, items[filled]))
    return sizes


def _total(files: Sequence[_BucketSizes]) -> NDArray[np.int64]:
    total = np.zeros(_MOST_PARTS, dtype=np.int64)
    for buckets, counts in files:
        total[buckets] += counts
    return total


def _part_count(values: NDArray[np.int64], most: int) -> int:
    """Return the least power of two whose largest part is small enough. values: of each fine bucket."""
    parts = 1
    while parts < _MOST_PARTS and int(values.reshape(-1, parts).sum(axis=0).max()) > most:
        parts *= 2
    return parts


def _file_reader(side: ComparedSide, columns: Sequence[str], parts_of_files: Sequence[NDArray[np.int64]]) -> _Reader:
    """Read a part as the files that have its rows. parts_of_files: the part of each file, empty without rows."""
    return lambda part: _table(side, columns, [number for number, parts in enumerate(parts_of_files) if part in parts])


@contextmanager
def _sorted_reader(
    side: ComparedSide, columns: Sequence[str], variable: str, count: int, at_once: int
) -> Iterator[_Reader]:
    """Write all rows into a temporary file, in chunks sorted by part, so that each part can be read alone."""
    batches: dict[int, list[int]] = defaultdict(list)
    schema = _schema(side, columns)
    with tempfile.TemporaryFile() as file:
        try:
            with pa.ipc.new_file(file, schema) as writer:
                count_written = 0
                for chunk in _chunks(side, columns, 4 * at_once):
                    parts = bucket_of(chunk[variable], count)
                    chunk = chunk.take(np.argsort(parts, kind="stable")).combine_chunks()
                    filled, starts = np.unique(np.sort(parts), return_index=True)
                    for part, (start, end) in zip(filled.tolist(), pairwise([*starts, len(parts)]), strict=True):
                        writer.write_table(chunk.slice(start, end - start))
                        batches[part].append(count_written)
                        count_written += 1
            file.seek(0)
        except OSError as error:
            raise StorageError.because(
                f"{side.name} cannot be sorted into parts in {tempfile.gettempdir()}: {error}",
                "set TMPDIR to a larger disk",
            ) from error
        reader = pa.ipc.open_file(file)
        yield lambda part: pa.Table.from_batches([reader.get_batch(i) for i in batches[part]], schema).combine_chunks()


def _chunks(side: ComparedSide, columns: Sequence[str], size: int) -> Iterator[pa.Table]:
    """Gather batches into tables of about a number of bytes."""
    waiting: list[pa.RecordBatch] = []
    for file in side.files():
        for batch in side.read(file, columns):
            waiting.append(batch)
            if sum(part.nbytes for part in waiting) >= size:
                yield pa.Table.from_batches(waiting)
                waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _table(side: ComparedSide, columns: Sequence[str], files: Sequence[int]) -> pa.Table:
    every = side.files()
    batches = [batch for number in files for batch in side.read(every[number], columns)]
    return pa.Table.from_batches(batches, _schema(side, columns)).combine_chunks()


def _schema(side: ComparedSide, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([side.schema.field(name) for name in columns])

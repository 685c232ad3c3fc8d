"""Reads two sides part by part: each part holds all rows of its contexts, and is small enough for memory."""

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

from delorean.audit.comparison.side import Side
from delorean.labels import LABEL_COLUMN
from schemas.errors import ConfigError, StorageError
from schemas.hashing import bucket_of

_MOST_PARTS = 4096
_Spread: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]  # fine buckets that a file has rows of, their items
_Reader: TypeAlias = Callable[[int], pa.Table]


def parts_of(
    sides: Sequence[Side], context: Sequence[str], columns: Sequence[str], at_once: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Read columns of both sides, all rows of a context in one part.

    at_once: values in a part, of both sides; a single context may have more. Raises ConfigError for missing columns
    """
    for side in sides:
        for name in columns:
            if name not in side.schema.names:
                raise ConfigError.unknown(f"column of {side.name}", name, side.schema.names)
    variables = [name for name in context if _divides(name, sides)]
    if not variables:
        before, after = (_table(side, columns, range(len(side.files()))) for side in sides)
        yield before, after
        return
    spreads = [_spreads(side, variables) for side in sides]
    # The variable that spreads items most evenly: the bucket variable nearly always, so that files line up with parts.
    sizes = {name: _total([file for spread in spreads for file in spread[name]]) for name in variables}
    variable = min(variables, key=lambda name: int(sizes[name].max()))
    count = _part_count(sizes[variable] * len(columns), at_once)
    with ExitStack() as opened:
        readers: list[_Reader] = []
        for side, spread in zip(sides, spreads, strict=True):
            held = [np.unique(buckets % count) for buckets, _ in spread[variable]]
            if all(len(parts) <= 1 for parts in held):
                readers.append(_lined_up(side, columns, held))
            else:
                readers.append(opened.enter_context(_dealt(side, columns, variable, count, at_once)))
        for part in np.unique(np.flatnonzero(sizes[variable]) % count).tolist():
            yield readers[0](part), readers[1](part)


def _divides(name: str, sides: Sequence[Side]) -> bool:
    """Tell whether a variable can be hashed into buckets, alike on both sides."""
    types = [side.schema.field(name).type for side in sides]
    whole = [pa.types.is_integer(type) and type != pa.uint64() for type in types]  # noqa: A001
    text = [pa.types.is_string(type) or pa.types.is_large_string(type) for type in types]  # noqa: A001
    return all(whole) or all(text)


def _spreads(side: Side, variables: Sequence[str]) -> dict[str, list[_Spread]]:
    """Count, for each variable and file, how many items fall into each fine bucket; a row counts as one besides."""
    spreads: dict[str, list[_Spread]] = {name: [] for name in variables}
    for file in side.files():
        counts = {name: np.zeros(_MOST_PARTS, dtype=np.int64) for name in variables}
        for batch in side.read(file, [*variables, LABEL_COLUMN]):
            lengths = pc.fill_null(pc.list_value_length(batch.column(LABEL_COLUMN)), 0).to_numpy()
            for name in variables:
                of = bucket_of(batch.column(name), _MOST_PARTS)
                counts[name] += np.bincount(of, weights=lengths + 1, minlength=_MOST_PARTS).astype(np.int64)
        for name, found in counts.items():
            filled = np.flatnonzero(found)
            spreads[name].append((filled, found[filled]))
    return spreads


def _total(files: Sequence[_Spread]) -> NDArray[np.int64]:
    total = np.zeros(_MOST_PARTS, dtype=np.int64)
    for buckets, counts in files:
        total[buckets] += counts
    return total


def _part_count(values: NDArray[np.int64], most: int) -> int:
    """Choose the least power of two whose largest part is small enough. values: of each fine bucket."""
    parts = 1
    while parts < _MOST_PARTS and int(values.reshape(-1, parts).sum(axis=0).max()) > most:
        parts *= 2
    return parts


def _lined_up(side: Side, columns: Sequence[str], held: Sequence[NDArray[np.int64]]) -> _Reader:
    """Read a part as the files that hold its rows and no others. held: the part of each file, if it has rows."""
    return lambda part: _table(side, columns, [number for number, parts in enumerate(held) if part in parts])


@contextmanager
def _dealt(side: Side, columns: Sequence[str], variable: str, count: int, at_once: int) -> Iterator[_Reader]:
    """Write all rows into a temporary file, chunk by chunk and each in the order of parts, to read a part alone."""
    places: dict[int, list[int]] = defaultdict(list)
    schema = _schema(side, columns)
    with tempfile.TemporaryFile() as file:
        try:
            with pa.ipc.new_file(file, schema) as writer:
                written = 0
                for chunk in _chunks(side, columns, 4 * at_once):
                    of = bucket_of(chunk[variable], count)
                    chunk = chunk.take(np.argsort(of, kind="stable")).combine_chunks()
                    filled, starts = np.unique(np.sort(of), return_index=True)
                    for part, (start, end) in zip(filled.tolist(), pairwise([*starts, len(of)]), strict=True):
                        writer.write_table(chunk.slice(start, end - start))
                        places[part].append(written)
                        written += 1
            file.seek(0)
        except OSError as error:
            raise StorageError.because(
                f"{side.name} cannot be dealt into parts at {tempfile.gettempdir()}: {error}",
                "set TMPDIR to a larger disk",
            ) from error
        dealt = pa.ipc.open_file(file)
        yield lambda part: pa.Table.from_batches([dealt.get_batch(at) for at in places[part]], schema).combine_chunks()


def _chunks(side: Side, columns: Sequence[str], size: int) -> Iterator[pa.Table]:
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


def _table(side: Side, columns: Sequence[str], files: Sequence[int]) -> pa.Table:
    every = side.files()
    batches = [batch for number in files for batch in side.read(every[number], columns)]
    return pa.Table.from_batches(batches, _schema(side, columns)).combine_chunks()


def _schema(side: Side, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([side.schema.field(name) for name in columns])

"""Rows of a bucket in ranges of their sort key, so that a bucket of any size is sorted in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MOST_BYTES = 256 << 20  # of rows in memory at a time; sorting and grouping take about three times as much
_SAMPLED_ROWS = 100  # of each table


def sorted_ranges(
    read: Callable[[], Iterable[pa.Table]], key: Sequence[str], most_bytes: int = MOST_BYTES
) -> Iterator[pa.Table]:
    """Yield all rows in tables of about `most_bytes`, each with greater keys than the one before, unsorted in itself.

    read: returns the same rows whenever it is called: once, or once more for each range if they are too many
    key: columns without nulls; rows with equal keys are never separated, however many they are
    """
    kept, samples, size = _read_up_to(read(), key, most_bytes)
    if kept:
        yield pa.concat_tables(kept)
    if not samples:
        return
    bounds = [None, *_bounds(pa.concat_tables(samples), key, -(-2 * size // most_bytes)), None]
    for first, end in pairwise(bounds):
        parts = [_between(table, first, end) for table in read()]
        yield pa.concat_tables(part for part in parts if part.num_rows)


def _read_up_to(
    tables: Iterable[pa.Table], key: Sequence[str], most_bytes: int
) -> tuple[list[pa.Table], list[pa.Table], int]:
    """Return the tables, a sample of their keys if they are too many to keep, and the number of bytes of all."""
    kept: list[pa.Table] = []
    samples: list[pa.Table] = []
    size = 0
    for table in tables:
        kept.append(table)
        size += table.nbytes
        if size > most_bytes:
            samples += [_sample(each.select(list(key))) for each in kept]
            kept = []
    return ([] if samples else kept), samples, size


def _sample(table: pa.Table) -> pa.Table:
    return table.take(pa.array(range(0, table.num_rows, -(-table.num_rows // _SAMPLED_ROWS))))


def _bounds(sample: pa.Table, key: Sequence[str], ranges: int) -> list[dict[str, pa.Scalar]]:
    """Return the distinct keys at the quantiles of a sample, except its first key: no range is empty then."""
    sample = sample.sort_by([(name, "ascending") for name in key])
    keys = [{name: sample[name][sample.num_rows * at // ranges] for name in key} for at in range(ranges)]
    return [after for before, after in pairwise(keys) if before != after]


def _between(table: pa.Table, first: dict[str, pa.Scalar] | None, end: dict[str, pa.Scalar] | None) -> pa.Table:
    if first is not None:
        table = table.filter(_not_before(table, first))
    return table if end is None else table.filter(pc.invert(_not_before(table, end)))


def _not_before(table: pa.Table, bound: dict[str, pa.Scalar]) -> Any:
    """Return a mask of the rows whose key is not less than a bound, compared column by column."""
    mask: Any = pa.scalar(True)
    for name, value in reversed(bound.items()):
        mask = pc.or_(pc.greater(table[name], value), pc.and_(pc.equal(table[name], value), mask))
    return mask

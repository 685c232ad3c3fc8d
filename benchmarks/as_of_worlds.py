"""Random worlds for the as-of join, made to go wrong in.

Keys that are equal once joined into text or hashed, the ends of integers, equal times, ages and lags met exactly, the
hours when clocks jump, odd encodings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from functools import cache, partial
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.as_of.kernel import hash_rows

ROWS = 500  # left rows of a world
Rng = np.random.Generator
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """Two tables, the join's options, and what the tables were made of, as Python values."""

    left: pa.Table
    right: pa.Table
    options: dict[str, Any]
    left_keys: list[tuple[Any, ...]]
    right_keys: list[tuple[Any, ...]]
    left_times: list[int | None]  # nanoseconds
    right_times: list[int | None]
    ties: list[tuple[Any, ...]]


def worlds(queries: int, seed: int) -> Iterator[World]:
    """Make worlds until they hold so many left rows."""
    rng = np.random.default_rng(seed)
    while queries > 0:
        yield (world := make_world(rng, min(ROWS, queries)))
        queries -= world.left.num_rows


def make_world(rng: Rng, rows: int) -> World:
    """Make one world: each of its columns, encodings and options is drawn."""
    others = int(rng.choice([0, 1, 2, 30, 200, 300]))
    pools = [POOLS[n] for n in rng.integers(0, len(POOLS), rng.choice([1, 1, 2, 3]))]
    if rng.random() < 0.1:
        pools = [(partial(list, pool), [pa.int64()]) for pool in same_hash()]
    columns = [_key_column(rng, rows, others, pool) for pool in pools]
    names = [f"k{number}" for number in range(len(columns))]
    moments, spans = _moments(rng)
    left_time, left_times = _time_column(rng, moments, rows)
    right_time, right_times = _time_column(rng, moments, others)
    ties = [_tie_column(rng, others) for _ in range(rng.choice([0, 0, 1, 2]))]
    lag = int(rng.choice([0, 0, *spans]))
    max_age = rng.choice([None, lag, *(lag + span for span in spans)])
    options = {
        "by": names,
        "lag": lag * MICROSECOND,
        "max_age": None if max_age is None else int(max_age) * MICROSECOND,
        "allow_exact": bool(rng.random() < 0.7),
        "tie_break": [f"t{number}" for number in range(len(ties))],
    }
    left = pa.table({**{n: c[0] for n, c in zip(names, columns, strict=True)}, "time": left_time})
    right = {**{n: c[1] for n, c in zip(names, columns, strict=True)}, "captured_at": right_time}
    right |= {name: column for name, (column, _) in zip(options["tie_break"], ties, strict=True)}
    return World(
        left,
        pa.table(right),
        options,
        list(zip(*(c[2] for c in columns), strict=True)),
        list(zip(*(c[3] for c in columns), strict=True)),
        left_times,
        right_times,
        list(zip(*(values for _, values in ties), strict=True)) if ties else [()] * others,
    )


@cache
def _colliding() -> list[int]:
    """Integers that the kernel's hash puts into one slot of its first table."""
    numbers = np.arange(-40_000, 40_000).reshape(-1, 1)
    return [int(n) for n in numbers[hash_rows(numbers) % np.uint64(1024) == 7, 0]]


@cache
def same_hash() -> tuple[list[int], list[int]]:
    """Two columns of which the first rows, the second rows and so on have one hash, in all its 64 bits."""
    first = np.arange(6).reshape(-1, 1)
    second = hash_rows(first) ^ np.uint64(12345)
    numbers = second.view(np.int64)
    assert len(set(hash_rows(np.column_stack([first, numbers])).tolist())) == 1, "the kernel's hash has changed"
    return [int(n) for n in first[:, 0]], [int(n) for n in numbers]


DAY = date(2026, 3, 29)
INSTANT = datetime(2026, 3, 29, 1, tzinfo=UTC)
# Values that a careless join would take for one another, and the types that hold them.
Pool = tuple[Callable[[], Sequence[Any]], list[pa.DataType]]
POOLS: list[Pool] = [
    (lambda: [0, 1, -1, 11, 111, 127, -128], [pa.int8(), pa.int16(), pa.int32(), pa.int64()]),
    (lambda: [0, 1, 11, 255, 2], [pa.uint8(), pa.int16(), pa.uint32(), pa.uint64(), pa.int64()]),
    (lambda: [0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**32), 2**31, 2**53, 2**53 + 1], [pa.int64()]),
    (lambda: [0, 2**64 - 1, 2**63, 2**63 - 1], [pa.uint64()]),
    (_colliding, [pa.int32(), pa.int64()]),
    (lambda: list(range(300)), [pa.int64(), pa.uint16()]),
    (
        lambda: ["a", "ab", "b", "b1", "1", "11", "", "a|b", "a\x00", "a\x1fb", "ä", "a\u0308", "null", "None"],
        [pa.string(), pa.large_string(), pa.string_view()],
    ),
    (
        lambda: [b"a", b"", b"\x00", b"\x00\x00", b"ab", b"b"],
        [pa.binary(), pa.large_binary(), pa.binary_view()],
    ),
    (lambda: [b"ab", b"ba", b"\x00\x00"], [pa.binary(2), pa.binary()]),
    (lambda: [True, False], [pa.bool_()]),
    (lambda: [DAY + timedelta(n) for n in (0, 1, -1, 10**5)], [pa.date32(), pa.date64()]),
    (
        lambda: [Decimal(text) for text in ("1.1", "1.01", "11", "-1.1", "0", "110")],
        [pa.decimal32(6, 2), pa.decimal64(9, 3), pa.decimal128(20, 2), pa.decimal128(38, 4), pa.decimal256(50, 9)],
    ),
    (
        lambda: [time_of_day(1), time_of_day(0, 1), time_of_day(0, 0, 1)],
        [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")],
    ),
    (
        lambda: [timedelta(seconds=n) for n in (0, 1, -1, 1000, 10**6)],
        [pa.duration("s"), pa.duration("ms"), pa.duration("us"), pa.duration("ns")],
    ),
    (
        lambda: [INSTANT + timedelta(hours=n) for n in (-1, 0, 1, 24)],
        [pa.timestamp("s", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ns", "America/New_York")],
    ),
]


def _key_column(
    rng: Rng, left: int, right: int, pool: Pool
) -> tuple[pa.ChunkedArray, pa.ChunkedArray, list[Any], list[Any]]:
    """A key's column on both sides, of types drawn for each, and the values in it; a third are skewed."""
    make, types = pool
    values = [*make()]
    skew = rng.choice([1.0, 1.0, 4.0])
    sides = []
    for rows in (left, right):
        numbers = (len(values) * rng.random(rows) ** skew).astype(int)
        drawn = [values[n] if keep else None for n, keep in zip(numbers, rng.random(rows) > 0.03, strict=True)]
        if rng.random() < 0.02:
            sides.append((_encoded(rng, pa.nulls(rows)), [None] * rows))
        else:
            sides.append((_encoded(rng, pa.array(drawn, types[rng.integers(len(types))])), drawn))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _encoded(rng: Rng, array: pa.Array) -> pa.ChunkedArray:
    """Write an array in one of the ways that say the same: chunks, slices, a dictionary, runs."""
    way = rng.integers(6)
    if way == 0 and len(array) > 2:
        cuts = [0, *sorted(rng.integers(0, len(array), 2)), len(array)]
        return pa.chunked_array([array[a:b] for a, b in pairwise(cuts)], array.type)
    if way == 1:
        return pa.chunked_array([pa.concat_arrays([array, array])[len(array) :]])
    narrow = pa.types.is_decimal32(array.type) or pa.types.is_decimal64(array.type)
    if way == 2 and not narrow:
        return pa.chunked_array([array.dictionary_encode()])
    if way == 3 and not (pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type)):
        return pa.chunked_array([pc.run_end_encode(array)])
    return pa.chunked_array([array])


@cache
def _jumps() -> list[tuple[int, pa.Scalar]]:
    """Quarters of hours on clocks as they jump: nanoseconds by zoneinfo, instants by Arrow."""
    found = []
    for zone, days in (
        ("Europe/Berlin", [(2026, 3, 29), (2026, 10, 25)]),
        ("America/New_York", [(2026, 3, 8), (2026, 11, 1)]),
    ):
        for fold in (0, 1):
            walls = [datetime(*day) + timedelta(minutes=15 * n) for day in days for n in range(16)]  # noqa: DTZ001
            exist = [w for w in walls if _utc(w, zone, fold).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == w]
            ambiguous = "latest" if fold else "earliest"
            instants = pc.assume_timezone(pa.array(exist, pa.timestamp("us")), zone, ambiguous=ambiguous)
            found += zip([(_utc(w, zone, fold) - EPOCH) // MICROSECOND * 1000 for w in exist], instants, strict=True)
    return found


def _utc(wall: datetime, zone: str, fold: int) -> datetime:
    return wall.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def _moments(rng: Rng) -> tuple[list[int] | None, list[int]]:
    """Moments to draw times from (nanoseconds; None: as clocks jump), and spans between them (microseconds)."""
    way = rng.integers(4)
    start = (INSTANT - EPOCH) // MICROSECOND * 1000
    if way == 0:
        return None, [15 * 60 * 10**6 * n for n in (1, 2, 4, 5, 96)]
    if way == 1:  # nanoseconds around whole microseconds
        return [start + n for n in (-1001, -1000, -999, -1, 0, 1, 999, 1000, 1001, 2000)], [1, 2]
    if way == 2:
        return [start + 10**9 * int(n) for n in range(-10, 11)], [10**6 * n for n in (1, 2, 5)]
    return [start + 1000 * int(n) for n in rng.integers(-300, 300, 400)], [1, 20, 100]


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "+05:30"]


def _time_column(rng: Rng, moments: list[int] | None, rows: int) -> tuple[pa.ChunkedArray, list[int | None]]:
    """Times drawn from moments, of a unit that holds all of them; some are null."""
    keep = rng.random(rows) > 0.03
    if moments is None:
        jumps = _jumps()
        drawn = [
            jumps[n] if ok else (None, None) for n, ok in zip(rng.integers(0, len(jumps), rows), keep, strict=True)
        ]
        zoned = pa.array([None if s is None else s.value for _, s in drawn], pa.int64())
        array = zoned.cast(pa.timestamp("us", str(rng.choice(ZONES))))
        return _encoded(rng, array), [nanos for nanos, _ in drawn]
    nanos = [moments[n] if ok else None for n, ok in zip(rng.integers(0, len(moments), rows), keep, strict=True)]
    units = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
    fitting = [unit for unit, size in units.items() if all(moment % size == 0 for moment in moments)]
    if moments[0] % 1000 and rng.random() < 0.5:  # one side in whole microseconds
        nanos, fitting = [None if n is None else n // 1000 * 1000 for n in nanos], ["us"]
    unit = str(rng.choice(fitting))
    counted = pa.array([None if n is None else n // units[unit] for n in nanos], pa.int64())
    array = counted.cast(pa.timestamp(unit, str(rng.choice(ZONES))))
    return _encoded(rng, array), nanos


def _tie_column(rng: Rng, rows: int) -> tuple[pa.ChunkedArray, list[Any]]:
    values, kind = [
        ([1, 2, -1, None], pa.int8()),
        ([0.5, float("nan"), float("-inf"), None, 1.5], pa.float64()),
        (["a", "b", "", None], pa.string()),
        ([0.5, float("nan"), 2.0, None], pa.float16()),
        ([Decimal("1.5"), Decimal(-1), None], pa.decimal64(9, 2)),
        ([None], pa.null()),
    ][rng.integers(6)]
    drawn = [values[n] for n in rng.integers(0, len(values), rows)]
    return _encoded(rng, pa.array(drawn, kind)) if kind != pa.float16() else pa.chunked_array(
        [pa.array(drawn, kind)]
    ), drawn

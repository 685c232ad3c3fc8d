"""The as-of rule: one definition, one implementation, used by time travel and by generation alike.

For a key and a time t it picks the row with exactly that key and the greatest captured_at in [t − max_age, t − lag].
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from schemas.errors import DataKeyError, NaiveTimeError

_NEVER = np.iinfo(np.int64).min
_MICROSECOND = timedelta(microseconds=1)
_HASHABLE = (
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_decimal,
)


def as_of_join(
    left: pa.Table,
    right: pa.Table,
    *,
    by: str | Sequence[str],
    left_on: str = "time",
    right_on: str = "captured_at",
    max_age: timedelta | None = None,
    lag: timedelta = timedelta(0),
    allow_exact: bool = True,
    tie_break: str | Sequence[str] | None = None,
) -> pa.Table:
    """Give each left row the latest right row of its key that was captured in [time − max_age, time − lag].

    left: its rows come back in their order and number, with all their columns
    right: its columns other than `by` are added, null where nothing matches; it need not be sorted
    by: columns that both sides have, compared value by value; a null in any of them never matches
    left_on, right_on: times with a zone, of any unit; a null time never matches
    max_age: how old a match may be, both ends included; None: any age
    lag: how long before the left time a row must have been captured at the latest
    allow_exact: whether a row captured exactly at time − lag matches
    tie_break: columns of right that decide among equal times, the greater wins; then, or without it, the later row

    Raises NaiveTimeError for times without a zone, DataKeyError for columns that are missing, ambiguous, of different
    types or not comparable by value.

    >>> from datetime import UTC, datetime
    >>> day = [datetime(2026, 1, d, tzinfo=UTC) for d in range(1, 5)]
    >>> plays = pa.table({"profile": [7, 8], "time": [day[2], day[2]]})
    >>> states = pa.table({"profile": [7, 7, 8], "captured_at": [day[0], day[1], day[3]], "minutes": [10, 20, 30]})
    >>> as_of_join(plays, states, by="profile")["minutes"].to_pylist()
    [20, None]
    """
    keys = [by] if isinstance(by, str) else list(by)
    _check_names(left, right, keys, left_on, right_on)
    order = _tie_break_order(right, tie_break)
    ordered = right if order is None else right.take(pa.array(order))
    rows = as_of_rows(
        [left[key] for key in keys],
        left[left_on],
        [ordered[key] for key in keys],
        ordered[right_on],
        max_age=max_age,
        lag=lag,
        allow_exact=allow_exact,
    )
    taken = ordered.drop_columns(keys).take(pa.array(rows, mask=rows < 0))
    for field, column in zip(taken.schema, taken.columns, strict=True):
        left = left.append_column(field.with_nullable(True), column)
    return left


def as_of_rows(
    left_keys: Sequence[pa.ChunkedArray],
    left_times: pa.ChunkedArray,
    right_keys: Sequence[pa.ChunkedArray],
    right_times: pa.ChunkedArray,
    *,
    max_age: timedelta | None = None,
    lag: timedelta = timedelta(0),
    allow_exact: bool = True,
) -> NDArray[np.int64]:
    """Give for each left row the number of the right row that `as_of_join` would join to it, −1 for none."""
    if lag < timedelta(0) or (max_age is not None and max_age < lag):
        raise DataKeyError.because(
            f"lag is {lag} and max_age {max_age}, expected 0 ≤ lag ≤ max_age", "a negative lag would read the future"
        )
    ltimes, rtimes, tick = _instants(left_times, right_times)
    lcodes, rcodes, groups = _codes(left_keys, right_keys)
    rcodes = np.where(rtimes == _NEVER, -1, rcodes)
    order, starts = _sort_groups(rcodes, rtimes, groups)
    oldest = -1 if max_age is None else _ticks(max_age, tick)
    found: NDArray[np.int64] = _match(
        lcodes, ltimes, order, rtimes[order], starts, oldest, _ticks(lag, tick), 0 if allow_exact else 1
    )
    return found


def _ticks(span: timedelta, tick: int) -> int:
    return min(span // _MICROSECOND * tick, 2**62)


def _check_names(left: pa.Table, right: pa.Table, keys: list[str], left_on: str, right_on: str) -> None:
    if not keys:
        raise DataKeyError.because("as_of_join: by names no columns", 'name the key: by="profile_id"')
    for side, table, needed in (("left", left, [*keys, left_on]), ("right", right, [*keys, right_on])):
        names = table.column_names
        for name in needed:
            if name not in names:
                raise DataKeyError.unknown(f"column of the {side} table", name, names)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataKeyError.because(f"the {side} table has columns named twice: {', '.join(twice)}", "rename one")
    clash = sorted((set(right.column_names) - set(keys)) & set(left.column_names))
    if clash:
        raise DataKeyError.because(f"both tables have the columns {', '.join(clash)}", "rename them on one side")


def _tie_break_order(right: pa.Table, tie_break: str | Sequence[str] | None) -> NDArray[np.int64] | None:
    if not tie_break:
        return None
    names = [tie_break] if isinstance(tie_break, str) else list(tie_break)
    for name in names:
        if name not in right.column_names:
            raise DataKeyError.unknown("tie_break column of the right table", name, right.column_names)
    # Stable, so rows that are equal even here keep their order: the later still wins.
    keys = [(name, "ascending", "at_start") for name in names]
    order: NDArray[np.int64] = pc.sort_indices(right, sort_keys=keys).to_numpy()
    return order


def _instants(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Both sides' times as integers of one unit, and how many of that unit make a microsecond."""
    for side, times in (("left", left), ("right", right)):
        if not pa.types.is_timestamp(times.type):
            raise DataKeyError.because(f"the {side} time is {times.type}, expected a timestamp with a zone")
        if times.type.tz is None:
            raise NaiveTimeError.because(
                f"the {side} time has no zone ({times.type}), so it names no instant",
                'say which: table.set_column(…, pc.assume_timezone(times, "UTC"))',
            )
    # Rounding nanoseconds to microseconds would make a later capture look simultaneous: compare in the finer unit.
    unit = "ns" if "ns" in (left.type.unit, right.type.unit) else "us"
    try:
        as_numbers = [
            pc.fill_null(times.cast(pa.timestamp(unit, "UTC")).cast(pa.int64()), _NEVER).to_numpy()
            for times in (left, right)
        ]
    except pa.ArrowInvalid as error:
        raise DataKeyError.because(f"times cannot be compared in {unit}: {error}", "use timestamp[us, UTC]") from error
    return as_numbers[0], as_numbers[1], 1000 if unit == "ns" else 1


def _codes(
    left: Sequence[pa.ChunkedArray], right: Sequence[pa.ChunkedArray]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Number the distinct keys of both sides together; −1 where a part of the key is null."""
    rows = len(left[0])
    codes: NDArray[np.int64] | None = None
    distinct = 1
    for lcolumn, rcolumn in zip(left, right, strict=True):
        encoded = _together(lcolumn, rcolumn).dictionary_encode()
        column = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        size = max(1, len(encoded.dictionary))
        if codes is None:
            codes, distinct = column, size
            continue
        if distinct * size > 2**62:  # renumber before the pairs could overflow
            dense = pa.array(codes).dictionary_encode()
            renumbered = dense.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            codes, distinct = np.where(codes < 0, -1, renumbered), len(dense.dictionary)
        codes = np.where((codes < 0) | (column < 0), -1, codes * size + column)
        distinct *= size
    assert codes is not None
    if len(left) > 1:
        dense = pa.array(codes).dictionary_encode()
        renumbered = dense.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        codes, distinct = np.where(codes < 0, -1, renumbered), len(dense.dictionary)
    return codes[:rows], codes[rows:], distinct


def _together(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Array:
    """Both sides of a key column in one array of one type that compares by value."""
    left, right = _plain(left), _plain(right)
    for side, column in (("left", left), ("right", right)):
        if not any(fits(column.type) for fits in _HASHABLE):
            raise DataKeyError.because(
                f"the {side} key is {column.type}, which cannot be compared by value",
                "use integers, text, booleans, dates, decimals or times with a zone",
            )
    if left.type != right.type:
        common = _common_type(left.type, right.type)
        try:
            left, right = left.cast(common), right.cast(common)
        except pa.ArrowInvalid as error:
            raise DataKeyError.because(f"keys of {left.type} and {right.type}: {error}", "cast one side") from error
    return pa.chunked_array([*left.chunks, *right.chunks], type=left.type).combine_chunks()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo encodings that change nothing about the values, as pandas' categories and Polars' texts come in."""
    if pa.types.is_dictionary(column.type):
        return _plain(column.cast(column.type.value_type))
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column


def _common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(left) and pa.types.is_integer(right):
        return pa.int64()
    if all(pa.types.is_string(t) or pa.types.is_large_string(t) for t in (left, right)):
        return pa.large_string()
    if all(pa.types.is_timestamp(t) and t.tz is not None for t in (left, right)):
        return pa.timestamp("ns" if "ns" in (left.unit, right.unit) else "us", "UTC")
    raise DataKeyError.because(f"the left key is {left} and the right {right}", "cast one side: they never match")


@njit(cache=True)
def _sort_groups(codes, times, groups):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Order rows by (code, time, position), leaving out negative codes; also where each group starts."""
    starts = np.zeros(groups + 1, dtype=np.int64)
    for code in codes:
        if code >= 0:
            starts[code + 1] += 1
    for g in range(groups):
        starts[g + 1] += starts[g]
    order = np.empty(starts[groups], dtype=np.int64)
    filled = starts[:-1].copy()
    for i in range(len(codes)):
        if codes[i] >= 0:
            order[filled[codes[i]]] = i
            filled[codes[i]] += 1
    for g in range(groups):
        first, end = starts[g], starts[g + 1]
        for k in range(first + 1, end):
            if times[order[k]] < times[order[k - 1]]:
                rows = order[first:end].copy()
                order[first:end] = rows[np.argsort(times[rows], kind="mergesort")]
                break
    return order, starts


@njit(cache=True)
def _match(codes, times, order, sorted_times, starts, max_age, lag, open_end):  # type: ignore[no-untyped-def]
    """Find for each row the last of its group in [time − max_age, time − lag]; max_age < 0 means any age."""
    found = np.full(len(codes), -1, dtype=np.int64)
    for i in range(len(codes)):
        code, time = codes[i], times[i]
        if code < 0 or time < _NEVER + lag + open_end + 1:  # a null time, or none can be earlier
            continue
        latest = time - lag - open_end
        first, end = starts[code], starts[code + 1]
        low, high = first, end
        while low < high:
            middle = (low + high) // 2
            if sorted_times[middle] <= latest:
                low = middle + 1
            else:
                high = middle
        if low > first:
            age = np.uint64(time) - np.uint64(sorted_times[low - 1])  # unsigned: centuries apart cannot overflow
            if max_age < 0 or age <= np.uint64(max_age):
                found[i] = order[low - 1]
    return found

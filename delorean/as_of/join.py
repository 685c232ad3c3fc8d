"""The as-of join of Arrow tables: the one implementation of the as-of rule, used wherever state is resolved.

For a key and a time t the rule selects the row with exactly that key and the greatest captured_at in
[t − max_age, t − lag].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.as_of.columns import Instants, Keys, instants_of_both, keys_of_both, plain, without_views
from delorean.as_of.kernel import any_tied, find_groups, group_rows, match_rows, sort_groups
from schemas.errors import DataKeyError

_MICROSECOND = timedelta(microseconds=1)
_FURTHEST = 2**64 - 1  # no two times are further apart, in any unit
_ROWS_FOR_A_THREAD = 50_000  # fewer are matched sooner than a thread starts
_UNSORTABLE = "is {}, which has no order → use numbers, text, bytes, booleans, times, dates, durations or decimals"
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


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
    """Join to each left row the latest right row of its key that was captured in [time − max_age, time − lag].

    left: the result has all its rows and columns, in their order
    right: its columns other than `by` are added, null where nothing matches; it need not be sorted
    by: columns that both sides have, compared value by value whatever their widths, units and encodings: integers,
        text, bytes, booleans, dates, times of day, durations, decimals, times with a zone. A null in any of them never
        matches. Nested values and floats are refused
    left_on, right_on: times with a zone, compared as instants whatever their units and zones; a null never matches
    max_age: how old a match may be, both ends included; None: any age
    lag: how long before the left time a row must have been captured at the latest
    allow_exact: whether a row captured exactly at time − lag matches
    tie_break: columns of right that decide among equal times, the first that differs, and the greater wins; null is
        less than NaN, and NaN less than anything else. Among rows that are still equal the later one wins

    Uses as many threads as Arrow has (`pyarrow.set_cpu_count`). Run-end encoded columns are decoded.

    Raises NaiveTimeError for times without a zone, DataKeyError for columns that are missing, ambiguous, of types that
    do not compare, and for an impossible lag or max_age.

    >>> from datetime import UTC, datetime
    >>> day = [datetime(2026, 1, d, tzinfo=UTC) for d in range(1, 5)]
    >>> plays = pa.table({"profile": [7, 8], "time": [day[2], day[2]]})
    >>> states = pa.table({"profile": [7, 7, 8], "captured_at": [day[0], day[1], day[3]], "minutes": [10, 20, 30]})
    >>> as_of_join(plays, states, by="profile")["minutes"].to_pylist()
    [20, None]
    """
    for side, table in (("left", left), ("right", right)):
        if not isinstance(table, pa.Table):
            raise DataKeyError.because(f"{side} is a {type(table).__name__}, expected a pyarrow.Table", "pa.table(…)")
    keys, ties = _names(by), _names(tie_break)
    check_columns(left.column_names, right.column_names, keys, left_on, right_on, ties)
    rows = as_of_rows(
        [left[key] for key in keys],
        left[left_on],
        [right[key] for key in keys],
        right[right_on],
        max_age=max_age,
        lag=lag,
        allow_exact=allow_exact,
        tie_break=[right[name] for name in ties],
        names=keys,
    )
    return _append_rows(left, right.drop_columns(list(set(keys))), rows)


def as_of_rows(
    left_keys: Sequence[pa.ChunkedArray],
    left_times: pa.ChunkedArray,
    right_keys: Sequence[pa.ChunkedArray],
    right_times: pa.ChunkedArray,
    *,
    max_age: timedelta | None = None,
    lag: timedelta = timedelta(0),
    allow_exact: bool = True,
    tie_break: Sequence[pa.ChunkedArray] = (),
    names: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Return for each left row the number of the right row that `as_of_join` would join to it, −1 for none.

    names: of the keys, for error messages
    """
    check_spans(max_age, lag)
    left, right, tick = instants_of_both(left_times, right_times, allow_exact)
    names = names or [str(number) for number in range(len(left_keys))]
    left_key, right_key = keys_of_both(left_keys, right_keys, names)
    # An open end is a lag of one tick more.
    least = lag // _MICROSECOND * tick + (0 if allow_exact else 1)
    most = _FURTHEST if max_age is None else min(max_age // _MICROSECOND * tick, _FURTHEST)
    ties = [_sortable(plain(column)) for column in tie_break]
    if least > _FURTHEST:
        return np.full(len(left_times), -1, dtype=np.int64)
    return _match(left_key, left, right_key, right, ties, np.uint64(least), np.uint64(most))


def _match(
    left_key: Keys,
    left: Instants,
    right_key: Keys,
    right: Instants,
    ties: Sequence[pa.ChunkedArray],
    least: np.uint64,
    most: np.uint64,
) -> NDArray[np.int64]:
    codes, groups, codes_of_left = _group(
        Keys(left_key.numbers, left_key.valid & left.valid), Keys(right_key.numbers, right_key.valid & right.valid)
    )
    in_row_order = np.empty(0, dtype=np.int64)
    order, starts, times = sort_groups(codes, groups, right.raw, in_row_order)
    if ties and any_tied(starts, times):
        order, starts, times = sort_groups(codes, groups, right.raw, _tie_break_order(ties))
    if right.near is not right.raw:
        times = right.near[order]
    matches = np.empty(len(left.valid), dtype=np.int64)

    def match(part: slice) -> None:
        near, far = left.near[part], left.far[part]
        match_rows(codes_of_left(part), near, far, order, starts, times, right.far, least, most, matches[part])

    ends = np.linspace(0, len(matches), 1 + max(1, min(pa.cpu_count(), len(matches) // _ROWS_FOR_A_THREAD)))
    _map(match, [slice(start, end) for start, end in pairwise(ends.astype(int))], len(matches))
    return matches


def _group(left: Keys, right: Keys) -> tuple[NDArray[np.int64], int, Callable[[slice], NDArray[np.int64]]]:
    """Number the groups of equal keys: the right rows' groups, how many groups, and a look-up of left rows' groups."""
    if right.numbers.shape[1] == 1:
        left_codes, codes = (np.where(key.valid, key.numbers[:, 0], 0) for key in (left, right))
        lowest, highest = (pick([pick(left_codes, initial=0), pick(codes, initial=0)]) for pick in (np.min, np.max))
        if lowest >= 0 and highest < 2 * (len(left_codes) + len(codes)):  # dense numbers, as of texts, need no table
            codes[~right.valid] = left_codes[~left.valid] = -1
            return codes, int(highest) + 1, lambda part: left_codes[part]
    codes, *table = group_rows(right.numbers, right.valid)
    return codes, len(table[-1]), lambda part: find_groups(left.numbers[part], left.valid[part], *table)


def _map(work: Callable[[_Part], _Result], parts: Iterable[_Part], rows: int) -> list[_Result]:
    """Do the parts of some work over rows, by threads where it pays: Arrow and the kernel release the lock."""
    if pa.cpu_count() == 1 or rows < 2 * _ROWS_FOR_A_THREAD:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        return list(pool.map(work, parts))


def _names(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names or ()))


def check_spans(max_age: timedelta | None, lag: timedelta) -> None:
    """Raise DataKeyError unless 0 ≤ lag ≤ max_age, both in whole microseconds."""
    for name, span in (("lag", lag), ("max_age", max_age)):
        if span is None and name == "max_age":
            continue
        if not isinstance(span, timedelta):
            raise DataKeyError.because(f"{name} is {span!r}, expected a timedelta", "write timedelta(hours=1)")
        if span % _MICROSECOND:  # as pandas' Timedelta may
            raise DataKeyError.because(f"{name} is {span!r}, finer than a microsecond", "round it")
    if lag < timedelta(0) or (max_age is not None and max_age < lag):
        raise DataKeyError.because(
            f"lag is {lag} and max_age {max_age}, expected 0 ≤ lag ≤ max_age", "a negative lag would read the future"
        )


def check_columns(
    left: Sequence[str], right: Sequence[str], by: Sequence[str], left_on: str, right_on: str, tie_break: Sequence[str]
) -> None:
    """Raise DataKeyError for columns that are missing, repeated, or on both sides."""
    if not by:
        raise DataKeyError.because("as_of_join: `by` is empty", 'name the key: by="profile_id"')
    for side, names, needed in (("left", left, [*by, left_on]), ("right", right, [*by, right_on])):
        for name in needed:
            if name not in names:
                raise DataKeyError.unknown(f"column of the {side} table", name, names)
        repeated = sorted({name for name in names if list(names).count(name) > 1})
        if repeated:
            raise DataKeyError.because(f"the {side} table repeats the columns {', '.join(repeated)}", "rename one")
    for name in tie_break:
        if name not in right:
            raise DataKeyError.unknown("tie_break column of the right table", name, right)
    clash = sorted((set(right) - set(by)) & set(left))
    if clash:
        renamed = ", ".join(f'"{name}": "{name}_then"' for name in clash)
        raise DataKeyError.because(
            f"both tables have the columns {', '.join(clash)}", f"rename them: right.rename_columns({{{renamed}}})"
        )


def _append_rows(left: pa.Table, right: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Append to each left row the columns of a right row. rows: its number, for each left row; −1: nulls."""
    indices = pa.array(rows, mask=rows < 0)
    columns = _map(lambda name: _take(right[name], indices, name), right.column_names, len(rows))
    for field, column in zip(right.schema, columns, strict=True):
        left = left.append_column(pa.field(field.name, column.type, metadata=field.metadata), column)
    return left


def _tie_break_order(columns: Sequence[pa.ChunkedArray]) -> NDArray[np.int64]:
    """Return the right rows in order of preference, the preferred last."""
    table = pa.table({str(number): column for number, column in enumerate(columns)})
    # Stable, so that of rows which are equal even here the later still wins.
    order = pc.sort_indices(table, sort_keys=[(name, "ascending", "at_start") for name in table.column_names])
    return order.to_numpy().astype(np.int64)  # type: ignore[no-any-return]  # pyarrow has no types


def _sortable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return column.cast(pa.decimal128(kind.precision, kind.scale))
    if pa.types.is_nested(kind) or pa.types.is_interval(kind):
        raise DataKeyError(f"a tie_break column {_UNSORTABLE.format(kind)}")
    return column


def _take(column: pa.ChunkedArray, rows: pa.Array, name: str) -> pa.ChunkedArray:
    """Take rows of a column, null where a row is null."""
    kind = column.type
    takeable = without_views(kind)
    if takeable != kind:
        return column.cast(takeable).take(rows).cast(kind)
    if pa.types.is_run_end_encoded(kind):
        column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type)
    try:
        return column.take(rows)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:  # such as 2 GiB of text in 32-bit offsets
        raise DataKeyError.because(f"rows of the right column '{name}' cannot be taken: {error}", "cast it") from error

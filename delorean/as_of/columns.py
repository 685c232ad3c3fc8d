"""Columns converted for the as-of kernel: keys to integers that are equal where the values are, times to instants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from encoders.columns import one_array
from schemas.errors import DataKeyError, NaiveTimeError
from schemas.nested_types import with_leaves

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MS_PER_DAY = 86_400_000
_FAMILIES = {
    "an integer": pa.types.is_integer,
    "a boolean": pa.types.is_boolean,
    "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
    "bytes": lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_fixed_size_binary(t),
    "a date": pa.types.is_date,
    "a time of day": pa.types.is_time,
    "a duration": pa.types.is_duration,
    "an instant": pa.types.is_timestamp,
    "a decimal": pa.types.is_decimal,
}


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode dictionaries, runs, views and extension types, which do not change the values."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        return plain(pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type))
    if pa.types.is_dictionary(kind):
        parts = [plain(pa.chunked_array([c.dictionary])).take(c.indices) for c in column.chunks]
        values = plain(pa.chunked_array([], kind.value_type)).type
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], values)
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.large_binary())
    return column


def without_views(kind: pa.DataType) -> pa.DataType:
    """Replace views of text and bytes, whose rows Arrow cannot take, by the large types with the same values."""
    takeable = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return with_leaves(kind, lambda leaf: takeable.get(leaf, leaf))


@dataclass(frozen=True)
class Keys:
    """One side's keys.

    numbers: (rows, columns) int64, equal where the values are
    valid: (rows,) bool, false where a part of the key is null, or equals no value that the other side can hold
    """

    numbers: NDArray[np.int64]
    valid: NDArray[np.bool_]


def keys_of_both(
    left: Sequence[pa.ChunkedArray], right: Sequence[pa.ChunkedArray], names: Sequence[str]
) -> tuple[Keys, Keys]:
    """Convert key columns to numbers that compare across both sides.

    Raises DataKeyError, NaiveTimeError for a column that does not compare by value with its counterpart.
    """
    pairs = [_key_columns(plain(a), plain(b), name) for a, b, name in zip(left, right, names, strict=True)]
    sides = []
    for side in zip(*pairs, strict=True):
        numbers, valid = zip(*side, strict=True)
        matrix = numbers[0].reshape(-1, 1) if len(numbers) == 1 else np.stack(numbers, axis=1)
        sides.append(Keys(np.ascontiguousarray(matrix), np.logical_and.reduce(valid)))
    return sides[0], sides[1]


_IntegerColumn = tuple[NDArray[np.int64], NDArray[np.bool_]]  # values, and which are not null


def _key_columns(left: pa.ChunkedArray, right: pa.ChunkedArray, name: str) -> tuple[_IntegerColumn, _IntegerColumn]:
    family = _common_family(left.type, right.type, name)
    left, right = (c.cast(o.type) if pa.types.is_null(c.type) else c for c, o in ((left, right), (right, left)))
    if family in ("text", "bytes"):
        if left.type == right.type and left.nbytes + right.nbytes < 2**31:  # the limit of 32-bit offsets
            return _codes(left, right, left.type)
        return _codes(left, right, pa.large_string() if family == "text" else pa.large_binary())
    if family == "a decimal":
        return _codes(left, right, _common_decimal(left.type, right.type, name))
    if family == "an integer":
        if left.type != right.type:  # 2**63 and more equals no signed integer, and must not wrap onto one
            left, right = (_above_int64_as_null(c) for c in (left, right))
        return _integers(left), _integers(right)
    if family in ("a boolean", ""):
        return _integers(left.cast(pa.int8())), _integers(right.cast(pa.int8()))
    ticks = [_ticks(c.type) for c in (left, right)]
    converted = [_coarser(_integers(c), n // min(ticks)) for c, n in zip((left, right), ticks, strict=True)]
    return converted[0], converted[1]


def _common_family(left: pa.DataType, right: pa.DataType, name: str) -> str:
    """Return what both types are, "" where both are null types. Raises DataKeyError, NaiveTimeError."""
    families = []
    for side, kind in (("left", left), ("right", right)):
        if pa.types.is_null(kind):
            continue
        family = next((family for family, fits in _FAMILIES.items() if fits(kind)), None)
        if family is None:
            raise DataKeyError.because(
                f"the {side} key '{name}' is {kind}, which cannot be compared by value",
                "use integers, text, bytes, booleans, dates, times, durations or decimals",
            )
        if family == "an instant" and kind.tz is None:
            raise NaiveTimeError.because(
                f"the {side} key '{name}' is {kind}: without a zone it is ambiguous, so equal values may differ",
                'set one: pc.assume_timezone(times, "UTC")',
            )
        families.append(family)
    if len(set(families)) > 1:
        raise DataKeyError.because(
            f"the key '{name}' is {left} on the left and {right} on the right",
            "cast one side: as they are, they never match",
        )
    return families[0] if families else ""


def _integers(column: pa.ChunkedArray) -> _IntegerColumn:
    """Return the stored integers of a column as int64."""
    array = one_array(column)
    valid = np.ones(len(array), dtype=bool)
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
    buffer = array.buffers()[1]
    width = array.type.bit_width // 8
    stored = np.dtype(f"{'u' if pa.types.is_unsigned_integer(array.type) else 'i'}{width}")
    if buffer is None:
        return np.zeros(len(array), dtype=np.int64), valid
    values = np.frombuffer(buffer, stored)[array.offset : array.offset + len(array)]
    return (values.view(np.int64) if width == 8 else values.astype(np.int64)), valid


def _above_int64_as_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type != pa.uint64():
        return column
    return pc.if_else(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())), pa.scalar(None, pa.uint64()), column)


def _codes(left: pa.ChunkedArray, right: pa.ChunkedArray, common: pa.DataType) -> tuple[_IntegerColumn, _IntegerColumn]:
    """Number the distinct values of both sides together."""
    together = pa.chunked_array([*left.cast(common).chunks, *right.cast(common).chunks], common)
    indices = [chunk.indices for chunk in together.dictionary_encode().chunks]
    numbers, valid = _integers(pa.chunked_array(indices, pa.int32()))
    return (numbers[: len(left)], valid[: len(left)]), (numbers[len(left) :], valid[len(left) :])


def _common_decimal(left: pa.DataType, right: pa.DataType, name: str) -> pa.DataType:
    scale = max(left.scale, right.scale)
    precision = max(left.precision - left.scale, right.precision - right.scale) + scale
    if precision > 76:
        raise DataKeyError.because(
            f"the key '{name}' is {left} on the left and {right} on the right: no decimal holds both", "cast one side"
        )
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _ticks(kind: pa.DataType) -> int:
    if pa.types.is_date(kind):
        return _MS_PER_DAY if pa.types.is_date64(kind) else 1
    return PER_SECOND[kind.unit]


def _coarser(column: _IntegerColumn, factor: int) -> _IntegerColumn:
    """Convert to the coarser unit, since the finer could overflow; fractions of it equal nothing and become invalid."""
    values, valid = column
    return column if factor == 1 else (values // factor, valid & (values % factor == 0))


@dataclass(frozen=True)
class Instants:
    """One side's times as integers, rounded for each end of the interval so that comparisons are exact.

    raw: (rows,) in the column's own unit, for sorting
    near: (rows,) to compare at the end towards the left time; far: (rows,) at the end that `max_age` sets
    valid: (rows,) false where the time is null
    """

    raw: NDArray[np.int64]
    near: NDArray[np.int64]
    far: NDArray[np.int64]
    valid: NDArray[np.bool_]


def instants_of_both(
    left: pa.ChunkedArray, right: pa.ChunkedArray, allow_exact: bool
) -> tuple[Instants, Instants, int]:
    """Convert both sides' times to integers of one unit; the third value is the number of those units in a microsecond.

    Where only one side is in nanoseconds, its times are rounded to microseconds, each end in the direction that changes
    no match: the other side cannot be cast to nanoseconds, which end in the year 2262.
    """
    left, right = _zoned(plain(left), "left"), _zoned(plain(right), "right")
    if left.type.unit == right.type.unit == "ns":
        a, b = (Instants(n, n, n, valid) for n, valid in (_integers(left), _integers(right)))
        return a, b, 1000
    rounded_up = {"left": (not allow_exact, True), "right": (allow_exact, False)}
    sides = []
    for side, times in (("left", left), ("right", right)):
        raw, valid = _integers(times)
        near, far = raw, raw
        if times.type.unit == "ns":
            down, up = raw // 1000, raw // 1000 + (raw % 1000 != 0)
            near, far = (up if upwards else down for upwards in rounded_up[side])
        sides.append(Instants(raw, near, far, valid))
    return sides[0], sides[1], 1


def _zoned(times: pa.ChunkedArray, side: str) -> pa.ChunkedArray:
    """Require a zone, and convert to microseconds unless in nanoseconds."""
    if pa.types.is_null(times.type):  # an empty or all-null column has no time without a zone
        return times.cast(pa.timestamp("us", "UTC"))
    if not pa.types.is_timestamp(times.type):
        raise DataKeyError.because(f"the {side} time is {times.type}, expected a timestamp with a zone")
    if times.type.tz is None:
        raise NaiveTimeError.because(
            f"the {side} time has no zone ({times.type}), so it is ambiguous",
            'set one: table.set_column(…, pc.assume_timezone(times, "UTC"))',
        )
    if times.type.unit in ("us", "ns"):
        return times
    try:
        return times.cast(pa.timestamp("us", times.type.tz))
    except pa.ArrowInvalid as error:
        raise DataKeyError.because(f"a {side} time does not fit microseconds: {error}", "drop such rows") from error

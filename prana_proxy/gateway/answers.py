"""Strict decoding: a service's answer becomes Arrow of exactly its data key's type, or a reason why not.

The rule for nulls is that of `schemas.nulls`: inside a value, floats and strings may be null and
nothing else may; a field may never be missing. A value that is null as a whole is not an answer, hence invalid: a
service without data for a context answers with an empty list, or with an error.

Integers must be written as integers and fit the type's width; those of uint64 must fit int64 too, which encoders have.
Floats must fit the type's range when they are rounded to it, and be numbers: neither NaN nor infinite. Times are RFC
3339 texts with a zone, without leap seconds, rounded to microseconds, or integer microseconds since the epoch; either
within the years 1 to 9999 in UTC. Dates are `2026-01-31`, binary is base64. Fields that the type does not name are
ignored. All this holds for every protocol: each decodes into what `python_type` describes.
"""

from __future__ import annotations

import builtins
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from itertools import accumulate, chain
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from schemas.errors import DataKeyError
from schemas.nulls import may_be_null
from schemas.services import Service, Status
from schemas.tables import answers_schema
from schemas.times import EPOCH, FIRST_MICROS, LAST_MICROS

LONGEST_REASON = 300
_FLUSH_AT = 256  # decoded values converted at a time: bounds memory and how long the event loop is held
_class_of = builtins.type
_FLOAT32_MAX = 3.4028235677973362e38  # the greatest double that is rounded to a float32 and not to infinity
_FLOAT64_MAX = sys.float_info.max
_OUTSIDE = "a time is outside the years 1 to 9999 in UTC"


class Cause(Enum):
    """What caused a failure; retries and the breaker depend on it."""

    SERVICE = "service"  # it answered with an error, not as its type requires, or too late
    CONNECTION = "connection"  # it could not be reached: its instance may be down
    KEPT_CONNECTION = "kept connection"  # one kept from an earlier call was closed: says nothing about the service
    REQUEST = "request"  # it rejected the request: says nothing about its health
    DEADLINE = "deadline"  # the caller's deadline passed before the service's timeout


class Reply(msgspec.Struct, frozen=True, gc=False):  # created per context, seven times as fast as a dataclass
    """The outcome of a request for one context.

    value: as `python_type` decodes it, None unless the status is ok or fallback
    captured_at: when the answer was received, microseconds since the epoch, UTC; None without a value, and for a
        fixed fallback without a time
    reason: why there is no value, or only a fallback; a short text without any of the answer
    cause: of a failure
    """

    status: Status
    value: Any = None
    captured_at: int | None = None
    reason: str | None = None
    cause: Cause = Cause.SERVICE

    @classmethod
    def failed(cls, status: Status, reason: str, cause: Cause = Cause.SERVICE) -> Reply:
        """Build a reply without a value."""
        text = "".join(letter if letter.isprintable() else " " for letter in reason)
        text = text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
        return cls(status, reason=text, cause=cause)


def python_type(
    type: pa.DataType,  # noqa: A002  # the field's own name
    beside: Mapping[str, str] = {},  # never changed
) -> Any:
    """Build the type that msgspec decodes strictly, into values that `to_arrow` turns into Arrow.

    beside: of a struct, further attributes of any type, each with its name in the answer

    Raises DataKeyError for an Arrow type that JSON cannot carry.
    """
    if pa.types.is_list(type):
        return list[_element_type(type.value_type)]  # type: ignore[misc]  # a type built at run time
    if pa.types.is_struct(type):
        _refuse_names_that_json_escapes(type)
        fields = [(f"f{i}", _element_type(type.field(i).type)) for i in range(type.num_fields)]
        names = {f"f{i}": type.field(i).name for i in range(type.num_fields)}
        others: list[Any] = [(attribute, Any, None) for attribute in beside]
        return msgspec.defstruct("Row", [*fields, *others], rename={**names, **beside}, gc=False)
    if pa.types.is_integer(type):
        return _integer_type(type)
    if pa.types.is_timestamp(type):
        micros = msgspec.Meta(ge=FIRST_MICROS, le=LAST_MICROS)
        return Annotated[int, micros] | Annotated[datetime, msgspec.Meta(tz=True)]
    if pa.types.is_float32(type) or pa.types.is_float64(type):
        most = float_max(type)
        return Annotated[float, msgspec.Meta(ge=-most, le=most)]  # which NaN is not either
    plain = {"bool": bool, "string": str, "large_string": str, "binary": bytes, "date32[day]": date}
    if str(type) not in plain:
        raise DataKeyError.because(f"no service can answer with {type}", "use a type that schemas/arrow_types.py reads")
    return plain[str(type)]


def _element_type(type: pa.DataType) -> Any:  # noqa: A002
    inner = python_type(type)
    return inner | None if may_be_null(type) else inner


def _refuse_names_that_json_escapes(type: pa.DataType) -> None:  # noqa: A002
    for field in type:
        if any(letter in '"\\' or letter < " " for letter in field.name):  # msgspec compares names as they are escaped
            raise DataKeyError.because(f"no service can answer with a field named {field.name!r}", "rename it")


def _integer_type(type: pa.DataType) -> Any:  # noqa: A002
    bits = type.bit_width
    if pa.types.is_signed_integer(type):
        return Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
    return Annotated[int, msgspec.Meta(ge=0, le=2 ** min(bits, 63) - 1)]  # encoders have 63 bits of a uint64


def float_max(type: pa.DataType) -> float:  # noqa: A002
    """Return the largest double that is rounded to a finite value of a float type."""
    return _FLOAT32_MAX if pa.types.is_float32(type) else _FLOAT64_MAX


def has_times(type: pa.DataType) -> bool:  # noqa: A002
    """Whether a type contains times, which `python_type` cannot bound."""
    if pa.types.is_list(type):
        return has_times(type.value_type)
    if pa.types.is_struct(type):
        return any(has_times(type.field(i).type) for i in range(type.num_fields))
    return bool(pa.types.is_timestamp(type))


def refuse_times_outside(reply: Reply, type: pa.DataType) -> Reply:  # noqa: A002
    """Return the reply, or an invalid one if its value has a time outside the years 1 to 9999 in UTC."""
    unfit = _try_arrow([reply.value], type) if reply.status is Status.OK else None
    return Reply.failed(Status.INVALID, unfit) if isinstance(unfit, str) else reply


def to_arrow(values: Sequence[Any], type: pa.DataType) -> pa.Array:  # noqa: A002
    """Turn decoded values into Arrow, column by column, without a Python object per field.

    >>> import msgspec
    >>> rows = msgspec.json.decode('[[1, 2], []]', type=list[python_type(pa.list_(pa.int8()))])
    >>> to_arrow(rows, pa.list_(pa.int8())).to_pylist()
    [[1, 2], []]
    """
    if pa.types.is_list(type):
        offsets = pa.array([0, *accumulate(map(len, values))], pa.int32())
        flat = to_arrow(list(chain.from_iterable(values)), type.value_type)
        return pa.ListArray.from_arrays(offsets, flat, type=type)
    if pa.types.is_struct(type) and type.num_fields:
        columns = [to_arrow(list(map(attrgetter(f"f{i}"), values)), type.field(i).type) for i in range(type.num_fields)]
        return pa.StructArray.from_arrays(columns, fields=list(type))
    if pa.types.is_struct(type):
        return pa.array([{}] * len(values), type)
    return _times(values, type) if pa.types.is_timestamp(type) else pa.array(values, type)


def _times(values: Sequence[Any], type: pa.DataType) -> pa.Array:  # noqa: A002
    if int in set(map(_class_of, values)):
        times = pa.array(values, type)
    else:  # seven times as fast as Arrow's own reading of times with a zone, and times are most of a history's cost
        times = pa.array([value - EPOCH for value in values], pa.duration("us")).view(type)
    microseconds = times.view(pa.int64()).to_numpy()
    if len(times) and not FIRST_MICROS <= microseconds.min() <= microseconds.max() <= LAST_MICROS:
        raise OverflowError(_OUTSIDE)
    return times


class Answers:
    """The replies for a number of keys, added in any order, turned into Arrow as they arrive."""

    def __init__(self, service: Service, count: int) -> None:
        self.service = service
        self._status = [Status.TIMEOUT.value] * count
        self._captured_at: list[int | None] = [None] * count
        self._reason: list[str | None] = [None] * count
        self._place: list[int | None] = [None] * count  # index of each key's value
        self._arrays: list[pa.Array] = []
        self._built = 0
        self._waiting: list[tuple[int, Any]] = []

    def add(self, keys: Sequence[int], replies: Sequence[Reply]) -> None:
        """Add the replies for some keys, given by number."""
        for key, reply in zip(keys, replies, strict=True):
            self._status[key] = reply.status._value_  # `value` is the same by way of a slow property
            self._captured_at[key] = reply.captured_at
            self._reason[key] = reply.reason
            if reply.status in (Status.OK, Status.FALLBACK):
                self._waiting.append((key, reply.value))
        if len(self._waiting) >= _FLUSH_AT:
            self._flush()

    def counts(self) -> Counter[str]:
        """Count the keys by status, after converting all values, which may turn out invalid."""
        self._flush()
        return Counter(self._status)

    def batch(self, rows: Sequence[int]) -> pa.RecordBatch:
        """Return the answers in `schemas.tables.answers_schema`: row i is the reply for key rows[i]."""
        self._flush()
        type = self.service.element.type  # noqa: A001
        values = pa.concat_arrays(self._arrays) if self._arrays else pa.nulls(0, type)
        places = [self._place[key] for key in rows]
        if places != list(range(len(values))):
            values = values.take(pa.array(places, pa.int64()))
        columns = [
            pa.array([column[key] for key in rows], field.type)  # type: ignore[index]  # lists of different items
            for column, field in zip(
                (self._status, self._captured_at, self._reason), answers_schema(self.service), strict=False
            )
        ]
        return pa.RecordBatch.from_arrays([*columns, values], schema=answers_schema(self.service))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        array = _try_arrow([value for _, value in waiting], self.service.element.type)
        if isinstance(array, str):  # a value that msgspec accepts and Arrow does not, such as half a surrogate
            waiting, array = self._without_unfit(waiting)
        for key, _ in waiting:
            self._place[key] = self._built
            self._built += 1
        self._arrays.append(array)

    def _without_unfit(self, waiting: list[tuple[int, Any]]) -> tuple[list[tuple[int, Any]], pa.Array]:
        type = self.service.element.type  # noqa: A001
        kept, arrays = [], [pa.nulls(0, type)]
        for key, value in waiting:
            array = _try_arrow([value], type)
            if isinstance(array, str):
                self.add([key], [Reply.failed(Status.INVALID, array)])
            else:
                kept.append((key, value))
                arrays.append(array)
        return kept, pa.concat_arrays(arrays)


def _try_arrow(values: list[Any], type: pa.DataType) -> pa.Array | str:  # noqa: A002
    """Return the array, or why there is none."""
    try:
        return to_arrow(values, type)
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError) as error:
        outside = str(error) == _OUTSIDE
        return f"the answer does not fit {type}: {_OUTSIDE if outside else error.__class__.__name__}"

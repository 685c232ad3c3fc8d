"""Replies to requests, and the answers to a number of keys as one Arrow batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prana_proxy.gateway.decoded_values import OUTSIDE, AnswerType
from schemas.services import Service, Status
from schemas.tables import answers_schema, lacking_reason

LONGEST_REASON = 300
_FLUSH_AT = 256  # decoded values converted at a time: bounds memory and how long the event loop is held


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


def refuse_times_outside(reply: Reply, type: AnswerType) -> Reply:  # noqa: A002
    """Return the reply, or an invalid one if its value has a time outside the years 1 to 9999 in UTC."""
    unfit = _try_arrow([reply.value], type) if reply.status is Status.OK else None
    return Reply.failed(Status.INVALID, unfit) if isinstance(unfit, str) else reply


class Answers:
    """The replies for a number of keys, added in any order, turned into Arrow as they arrive."""

    def __init__(self, service: Service, count: int, type: AnswerType | None = None) -> None:  # noqa: A002
        self.service = service
        self._type = type or AnswerType.of(service.element)
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
        converted = _try_arrow([value for _, value in waiting], self._type)
        if isinstance(converted, str):  # a value that msgspec accepts and Arrow does not, such as half a surrogate
            self._flush_each(waiting)
        else:
            self._append([key for key, _ in waiting], *converted)

    def _flush_each(self, waiting: list[tuple[int, Any]]) -> None:
        for key, value in waiting:
            converted = _try_arrow([value], self._type)
            if isinstance(converted, str):
                self.add([key], [Reply.failed(Status.INVALID, converted)])
            else:
                self._append([key], *converted)

    def _append(self, keys: Sequence[int], array: pa.Array, lacking: dict[str, NDArray[np.bool_]]) -> None:
        for key in keys:
            self._place[key] = self._built
            self._built += 1
        self._arrays.append(array)
        for i, key in enumerate(keys if lacking else ()):
            paths = [path for path, mask in lacking.items() if mask[i]]
            if paths and self._status[key] == Status.OK.value:
                self._reason[key] = lacking_reason(paths)


def _try_arrow(values: list[Any], type: AnswerType) -> tuple[pa.Array, dict[str, NDArray[np.bool_]]] | str:  # noqa: A002
    """Return the array and which values lack fields, or the reason why the values do not fit."""
    try:
        return type.to_arrow(values)
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError) as error:
        outside = str(error) == OUTSIDE
        return f"the answer does not fit {type.type}: {OUTSIDE if outside else error.__class__.__name__}"

"""Decodes JSON answers, single or in batches, strictly by a service's type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from prana_proxy.gateway.answers import Reply, refuse_times_outside
from prana_proxy.gateway.decoded_values import AnswerType, has_times
from prana_proxy.gateway.error_fields import USUAL_NAMES, JsonPath, error_at, error_paths, pointer_names
from schemas.services import Status

_EDGES = (b"9999-12-31", b"0001-01-01")  # where a time zone may lead out of the years 1 to 9999
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class JsonDecoder:
    """Decodes the answers of one service.

    type: of its values; pointer: JSON pointer to the value within an answer; most: bytes of an answer
    error: JSON pointer to an error within an answer, as `error_paths` takes it
    """

    def __init__(
        self,
        type: AnswerType,  # noqa: A002
        pointer: str,
        most: int,
        error: str | None = None,
    ) -> None:
        self._type, self._has_times = type, has_times(type.type)
        self._most, self._names = most, pointer_names(pointer)
        self._paths = error_paths(type.type, pointer, error)
        self._paths_if_unfit = [] if error == "" else [*self._paths, *_USUAL_PATHS]
        self._error_fields: list[tuple[int, str, JsonPath]] = []  # depth, attribute, path below it
        answer = self._answer_type(type, 0, self._paths)
        # A missing value in a batch is UNSET, not None: null is not an answer.
        in_batch = msgspec.defstruct(
            "BatchAnswer",
            [("value", answer | msgspec.UnsetType, msgspec.UNSET), *((name, Any, None) for name in USUAL_NAMES)],
        )
        batch: Any = list[in_batch]  # type: ignore[valid-type]  # built at run time
        self._single: msgspec.json.Decoder[Any] = msgspec.json.Decoder(answer)
        self._in_batch: msgspec.json.Decoder[Any] = msgspec.json.Decoder(in_batch)
        self._batch: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct("Batch", [("answers", batch), *((name, Any, None) for name in USUAL_NAMES)])
        )

    def decode(self, body: bytes, received_at: int) -> Reply:
        """Decode the answer for one context."""
        try:
            return self._within_time([self._ok(self._single.decode(body), received_at)], body)[0]
        except _UNDECODABLE as error:
            return _error_in(body, self._paths_if_unfit) or _unfit(error)

    def decode_batch(self, body: bytes, count: int, received_at: int) -> list[Reply]:
        """Decode the answers for some contexts: an invalid one does not affect the others."""
        if len(body) <= self._most:
            try:
                batch = self._batch.decode(body)
                if (failed := _usual_error(batch)) is not None:
                    return [failed] * count
                replies = [self._reply(answer, received_at) for answer in batch.answers]
            except _UNDECODABLE:
                replies = []
            if len(replies) == count:
                return self._within_time(replies, body)
        return self._decode_each(body, count, received_at)

    def _answer_type(self, type: AnswerType, depth: int, paths: Sequence[JsonPath]) -> Any:  # noqa: A002
        """Build the type of an answer: the value, the structs around it, and their fields that may hold errors."""
        name = self._names[depth] if depth < len(self._names) else None
        beside = [path for path in paths if path[0] != name]
        if name is None and not pa.types.is_struct(type.type):
            return type.python()
        attributes = {f"e{i}": path[0] for i, path in enumerate(beside)}
        self._error_fields += [(depth, f"e{i}", path[1:]) for i, path in enumerate(beside)]
        if name is None:
            return type.python(attributes)
        inside = self._answer_type(type, depth + 1, [path[1:] for path in paths if path[0] == name])
        fields: list[Any] = [("inside", inside), *((attribute, Any, None) for attribute in attributes)]
        return msgspec.defstruct("Answer", fields, rename={"inside": name, **attributes})

    def _decode_each(self, body: bytes, count: int, received_at: int) -> list[Reply]:
        try:
            batch = msgspec.json.decode(body, type=_RawBatch)
        except _UNDECODABLE as error:
            return [_error_in(body, _USUAL_PATHS) or _unfit(error)] * count
        if (failed := _usual_error(batch)) is not None:
            return [failed] * count
        if len(batch.answers) != count:
            reason = f"the batch has {len(batch.answers)} answers, expected {count}"
            return [Reply.failed(Status.INVALID, reason)] * count
        return [self._decode_in_batch(bytes(answer), received_at) for answer in batch.answers]

    def _decode_in_batch(self, answer: bytes, received_at: int) -> Reply:
        if len(answer) > self._most:
            return Reply.failed(Status.INVALID, f"the answer is larger than {self._most} bytes")
        try:
            return self._within_time([self._reply(self._in_batch.decode(answer), received_at)], answer)[0]
        except _UNDECODABLE as error:
            paths = [*_USUAL_PATHS, *(("value", *path) for path in self._paths_if_unfit)]
            return _error_in(answer, paths) or _unfit(error)

    def _within_time(self, replies: list[Reply], body: bytes) -> list[Reply]:
        """Reject times outside the years 1 to 9999, checking only bodies with a time on the first or last day."""
        if self._has_times and any(day in body for day in _EDGES):
            return [refuse_times_outside(reply, self._type) for reply in replies]
        return replies

    def _reply(self, answer: Any, received_at: int) -> Reply:
        if (failed := _usual_error(answer)) is not None:
            return failed
        if answer.value is msgspec.UNSET:
            return Reply.failed(Status.INVALID, "the answer has neither value nor error")
        return self._ok(answer.value, received_at)

    def _ok(self, answer: Any, received_at: int) -> Reply:
        """Return the reply for an answer that fits, unless it contains an error."""
        for depth, attribute, path in self._error_fields:
            struct = answer
            for _ in range(depth):
                struct = struct.inside
            if (held := getattr(struct, attribute)) is not None and (failed := error_at(held, path)) is not None:
                return failed
        for _ in self._names:
            answer = answer.inside
        return Reply(Status.OK, answer, received_at)


_USUAL_PATHS: Sequence[JsonPath] = [(name,) for name in USUAL_NAMES]


class _RawBatch(msgspec.Struct):
    answers: list[msgspec.Raw]
    error: Any = None
    errors: Any = None


def _usual_error(batch: Any) -> Reply | None:
    """Return the error beside the values of a batch, or of one of its answers."""
    if batch.error is None and batch.errors is None:
        return None
    return error_at(batch.error, ()) or error_at(batch.errors, ())


def _error_in(body: bytes, paths: Sequence[JsonPath]) -> Reply | None:
    """Return the error in an answer that does not fit, if it contains one."""
    try:
        answer = msgspec.json.decode(body)
    except _UNDECODABLE:
        return None
    return next((reply for path in paths if (reply := error_at(answer, path)) is not None), None)


def _unfit(error: Exception) -> Reply:
    """Describe the problem; msgspec names types and paths, never values."""
    if isinstance(error, msgspec.ValidationError):
        return Reply.failed(Status.INVALID, str(error))
    if isinstance(error, RecursionError):
        return Reply.failed(Status.INVALID, "the answer nests too deeply")
    return Reply.failed(Status.INVALID, f"the answer is not JSON: {error.__class__.__name__}")

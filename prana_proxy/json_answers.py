"""Decodes JSON answers, single or in batches, strictly against a service's type."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from prana_proxy.answers import Reply, python_type
from schemas.services import Status

_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class JsonAnswer:
    """The answers of one service.

    type: of its element; pointer: JSON pointer to the value within an answer; most: bytes of an answer
    """

    def __init__(self, type: pa.DataType, pointer: str, most: int) -> None:  # noqa: A002  # the field's own name
        self._most = most
        type = python_type(type)  # noqa: A001
        names = [name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:]]
        for name in reversed(names):
            type = msgspec.defstruct("Answer", [("inside", type)], rename={"inside": name})  # noqa: A001
        self._depth = len(names)
        # What an answer of a batch lacks is UNSET, not None: a null value is no answer.
        in_batch = msgspec.defstruct(
            "BatchAnswer",
            [
                ("value", type | msgspec.UnsetType, msgspec.UNSET),
                ("error", str | None | msgspec.UnsetType, msgspec.UNSET),
            ],
        )
        self._single: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type)
        self._in_batch: msgspec.json.Decoder[Any] = msgspec.json.Decoder(in_batch)
        self._batch: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct("Batch", [("answers", list[in_batch])])  # type: ignore[valid-type]  # built at run time
        )

    def decode(self, body: bytes, received_at: int) -> Reply:
        """Decode the answer for one context."""
        try:
            return self._ok(self._single.decode(body), received_at)
        except _UNDECODABLE as error:
            return _said_error(body) or _unfit(error)

    def decode_batch(self, body: bytes, count: int, received_at: int) -> list[Reply]:
        """Decode the answers for some contexts: one that does not fit leaves the others as they are."""
        if len(body) <= self._most:
            try:
                replies = [self._reply(answer, received_at) for answer in self._batch.decode(body).answers]
            except _UNDECODABLE:
                replies = []
            if len(replies) == count:
                return replies
        return self._decode_each(body, count, received_at)

    def _decode_each(self, body: bytes, count: int, received_at: int) -> list[Reply]:
        try:
            answers = msgspec.json.decode(body, type=_RawBatch).answers
        except _UNDECODABLE as error:
            return [_said_error(body) or _unfit(error)] * count
        if len(answers) != count:
            return [Reply.failed(Status.INVALID, f"the batch has {len(answers)} answers, expected {count}")] * count
        return [self._decode_in_batch(bytes(answer), received_at) for answer in answers]

    def _decode_in_batch(self, answer: bytes, received_at: int) -> Reply:
        if len(answer) > self._most:
            return Reply.failed(Status.INVALID, f"the answer is larger than {self._most} bytes")
        try:
            return self._reply(self._in_batch.decode(answer), received_at)
        except _UNDECODABLE as error:
            return _said_error(answer) or _unfit(error)

    def _reply(self, answer: Any, received_at: int) -> Reply:
        if isinstance(answer.error, str):
            return _service_said(answer.error)
        if answer.value is msgspec.UNSET:
            return Reply.failed(Status.INVALID, "the answer has neither value nor error")
        return self._ok(answer.value, received_at)

    def _ok(self, value: Any, received_at: int) -> Reply:
        for _ in range(self._depth):
            value = value.inside
        return Reply(Status.OK, value, received_at)


class _RawBatch(msgspec.Struct):
    answers: list[msgspec.Raw]


class _Said(msgspec.Struct):
    error: msgspec.Raw


def _said_error(body: bytes) -> Reply | None:
    """Give the error that an answer reports instead of a value, if it does."""
    try:
        said = msgspec.json.decode(msgspec.json.decode(body, type=_Said).error)
    except _UNDECODABLE:
        return None
    if said is None or said is False:
        return None
    return _service_said(said if isinstance(said, str) else "without a text")


def _service_said(text: str) -> Reply:
    return Reply.failed(Status.ERROR, f"the service answered with an error: {text}")


def _unfit(error: Exception) -> Reply:
    """Say what is wrong; msgspec names types and places, never values."""
    if isinstance(error, msgspec.ValidationError):
        return Reply.failed(Status.INVALID, str(error))
    if isinstance(error, RecursionError):
        return Reply.failed(Status.INVALID, "the answer nests too deeply")
    return Reply.failed(Status.INVALID, f"the answer is not JSON: {error.__class__.__name__}")

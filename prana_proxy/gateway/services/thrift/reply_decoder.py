"""Decodes a method's result, for one context or for a batch, strictly by a service's type.

A declared exception whose name contains BadRequest, IllegalArgument, InvalidArgument, InvalidRequest or NotFound has
the cause REQUEST: it says nothing about the service's health. Of Thrift's own exceptions these are UNKNOWN_METHOD,
INVALID_MESSAGE_TYPE, WRONG_METHOD_NAME and PROTOCOL_ERROR; the others have the cause SERVICE, such as INTERNAL_ERROR,
which an undeclared exception becomes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from thriftpy2.thrift import TApplicationException as Refusal

from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.error_fields import service_error
from prana_proxy.gateway.services import Key
from prana_proxy.gateway.services.thrift.answer_reader import answer_reader
from prana_proxy.gateway.services.thrift.binary_protocol import (
    ENDS_EARLY,
    ENTRIES,
    FIELD,
    LIST,
    MAP,
    SMALLEST,
    STRING,
    STRUCT,
    MessageKind,
    UnfitError,
    read_message_head,
    skip,
    unexpected,
)
from prana_proxy.gateway.services.thrift.idl import IdlMethod, IdlType
from prana_proxy.gateway.services.thrift.scalar_readers import Reader
from prana_proxy.gateway.services.thrift.value_readers import StructField, StructReader, read_list_head, reader
from schemas.errors import ConfigError
from schemas.services import Status

_REQUEST_ERRORS = ("badrequest", "illegalargument", "invalidargument", "invalidrequest", "notfound")
_REFUSED = (*(Refusal.UNKNOWN_METHOD, Refusal.INVALID_MESSAGE_TYPE, Refusal.WRONG_METHOD_NAME, Refusal.PROTOCOL_ERROR),)
_TEXT_FIELDS = ("message", "msg", "reason", "description", "error")  # the first that an exception has


class ReplyDecoder:
    """Decodes the answers of one service. Raises ConfigError when the method's result cannot be its type."""

    def __init__(self, method: IdlMethod, config: ServiceConfig) -> None:
        self._method, self._most = method, config.max_answer_bytes
        self._throws = {number: exception_reader(exception) for number, exception in method.throws.items()}
        if not config.batched:
            self._read = answer_reader(method.result, config)
        elif method.result.wire == LIST:
            self._read = answer_reader(method.result.element, config)
        elif method.result.wire == MAP:
            key, value = method.result.entry
            self._read_key, self._variable = _key_reader(key, config), config.service.key[0].name
            self._read = answer_reader(value, config)
        else:
            raise ConfigError.because(
                f"{method} returns {method.result}, expected a list of answers, or a map of them by key",
                "name such a method, or write url instead of batch_url",
            )

    def decode(self, message: bytes, received_at: int) -> Reply:
        """Decode the answer for one context."""
        answer = self._content(message, self._read)
        return answer if isinstance(answer, Reply) else Reply(Status.OK, answer, received_at)

    def decode_batch(self, message: bytes, keys: Sequence[Key], received_at: int) -> Sequence[Reply]:
        """Decode the answers for some contexts: an invalid one does not affect the others."""
        read = self._read_list if self._method.result.wire == LIST else self._read_map
        answers = self._content(message, partial(read, keys, received_at))
        return [answers] * len(keys) if isinstance(answers, Reply) else answers

    def _content(self, message: bytes, read: Reader) -> Any:
        """Return a message's content as `read` returns it, or the reply for a failure."""
        try:
            kind, _, at = read_message_head(message)
            if kind == MessageKind.EXCEPTION:
                return application_error_reader(message, at)[0]
            if kind != MessageKind.REPLY:
                raise UnfitError(f"the answer is a message of kind {kind}, expected a reply")
            return self._result(message, at, read)
        except UnfitError as error:
            return Reply.failed(Status.INVALID, str(error))
        except (struct.error, IndexError):
            return Reply.failed(Status.INVALID, ENDS_EARLY)

    def _result(self, data: bytes, at: int, read: Reader) -> Any:
        success, thrown = None, None
        while code := data[at]:
            number, at = FIELD.unpack_from(data, at)[1], at + FIELD.size
            if number == 0:
                if code != self._method.result.wire:
                    raise unexpected(self._method.result.wire, code)
                success, at = read(data, at)
            elif code != STRUCT:
                raise unexpected(STRUCT, code)
            elif number in self._throws:
                thrown, at = self._throws[number](data, at)
            else:
                thrown = service_error(f"exception {number}, which the interface file does not declare")
                at = skip(data, at, code)
        if at + 1 != len(data):
            raise UnfitError("the answer goes on after its end")
        if thrown is not None:
            return thrown
        if success is None:
            raise UnfitError("the answer has neither a value nor an exception")
        return success

    def _read_list(self, keys: Sequence[Key], received_at: int, data: bytes, at: int) -> tuple[list[Reply], int]:
        count, at = read_list_head(data, at, self._method.result.element.wire)
        if count != len(keys):
            raise UnfitError(f"the batch has {count} answers, expected {len(keys)}")
        replies = []
        for _ in keys:
            reply, at = self._reply(data, at, self._method.result.element.wire, received_at)
            replies.append(reply)
        return replies, at

    def _read_map(self, keys: Sequence[Key], received_at: int, data: bytes, at: int) -> tuple[list[Reply], int]:
        key_type, type = self._method.result.entry  # noqa: A001
        key_code, code, count = ENTRIES.unpack_from(data, at)
        at += ENTRIES.size
        for expected, actual in ((key_type.wire, key_code), (type.wire, code)):
            if count and actual != expected:
                raise unexpected(expected, actual)
        if count < 0 or count * (SMALLEST[key_type.wire] + SMALLEST[type.wire]) > len(data) - at:
            raise UnfitError(ENDS_EARLY)
        replies: dict[Any, Reply] = {}
        for _ in range(count):
            key, at = self._read_key(data, at)
            replies[key], at = self._reply(data, at, type.wire, received_at)
        return [replies.get(key[self._variable], _NOT_IN_BATCH) for key in keys], at

    def _reply(self, data: bytes, at: int, code: int, received_at: int) -> tuple[Reply, int]:
        """Read one answer of a batch."""
        try:
            value, end = self._read(data, at)
        except UnfitError as error:
            return Reply.failed(Status.INVALID, str(error)), skip(data, at, code)
        if end - at > self._most:
            return Reply.failed(Status.INVALID, f"the answer is larger than {self._most} bytes"), end
        return value if isinstance(value, Reply) else Reply(Status.OK, value, received_at), end


_NOT_IN_BATCH = Reply.failed(Status.INVALID, "the batch has no answer for this key")


def _key_reader(idl: IdlType, config: ServiceConfig) -> Reader:
    first, *more = config.service.key
    if more or pa.types.is_timestamp(first.type):
        raise ConfigError.because(
            f"answers are a map by {idl}, so the key must be one variable, and not a time", "name a method with a list"
        )
    return reader(idl, first.type)


def exception_reader(exception: Any) -> Reader:
    """Build the reader of a declared exception, one of thriftpy2's classes, into a reply."""
    name, idl = exception.__name__, IdlType(STRUCT, exception)
    plain = name.replace("_", "").lower()
    cause = Cause.REQUEST if any(word in plain for word in _REQUEST_ERRORS) else Cause.SERVICE

    def build(text: str | None = None) -> Reply:
        return service_error(f"{name}: {text}" if text else name, cause)

    texts = [field for field in _TEXT_FIELDS if field in idl.fields and idl.fields[field].type.code == STRING]
    return StructReader([_optional(idl, field, pa.string()) for field in texts[:1]], build)


def _application_error(text: str | None, kind: int | None) -> Reply:
    cause = Cause.REQUEST if kind in _REFUSED else Cause.SERVICE
    return service_error(text or str(Refusal(kind or Refusal.UNKNOWN)), cause)


def _optional(idl: IdlType, name: str, type: pa.DataType) -> StructField:  # noqa: A002  # the field's own name
    field = idl.fields[name]
    return StructField(name, field, reader(field.type, type), required=False)


_IDL = IdlType(STRUCT, Refusal)
application_error_reader: Reader = StructReader(
    [_optional(_IDL, "message", pa.string()), _optional(_IDL, "type", pa.int32())], _application_error
)
"""Reads Thrift's own exception into a reply."""

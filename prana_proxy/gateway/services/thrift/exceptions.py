"""What a service throws, as replies.

A declared exception says by its name whether it is about the question: one with BadRequest, IllegalArgument,
InvalidArgument, InvalidRequest or NotFound in it has the cause REQUEST, and says nothing of the service's health. Of
Thrift's own exceptions these are UNKNOWN_METHOD, INVALID_MESSAGE_TYPE, WRONG_METHOD_NAME and PROTOCOL_ERROR; the
others, such as INTERNAL_ERROR, which an undeclared exception becomes, are the service's doing.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from thriftpy2.thrift import TApplicationException as Refusal

from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.service_errors import service_error
from prana_proxy.gateway.services.thrift.idl import IdlType
from prana_proxy.gateway.services.thrift.scalars import Read
from prana_proxy.gateway.services.thrift.values import Structs, Wanted, reader
from prana_proxy.gateway.services.thrift.wire import STRING, STRUCT

_ABOUT_THE_QUESTION = ("badrequest", "illegalargument", "invalidargument", "invalidrequest", "notfound")
_REFUSED = (*(Refusal.UNKNOWN_METHOD, Refusal.INVALID_MESSAGE_TYPE, Refusal.WRONG_METHOD_NAME, Refusal.PROTOCOL_ERROR),)
_TOLD_IN = ("message", "msg", "reason", "description", "error")  # the first of them that an exception has


def exception_reader(exception: Any) -> Read:
    """Build the reader of a declared exception, one of thriftpy2's classes, that gives a reply."""
    name, idl = exception.__name__, IdlType(STRUCT, exception)
    plain = name.replace("_", "").lower()
    cause = Cause.REQUEST if any(word in plain for word in _ABOUT_THE_QUESTION) else Cause.SERVICE

    def build(text: str | None = None) -> Reply:
        return service_error(f"{name}: {text}" if text else name, cause)

    told = [field for field in _TOLD_IN if field in idl.fields and idl.fields[field].type.code == STRING]
    return Structs([_optional(idl, field, pa.string()) for field in told[:1]], build)


def _refused(text: str | None, kind: int | None) -> Reply:
    cause = Cause.REQUEST if kind in _REFUSED else Cause.SERVICE
    return service_error(text or str(Refusal(kind or Refusal.UNKNOWN)), cause)


def _optional(idl: IdlType, name: str, type: pa.DataType) -> Wanted:  # noqa: A002  # the field's own name
    field = idl.fields[name]
    return Wanted(name, field, reader(field.type, type), required=False)


_IDL = IdlType(STRUCT, Refusal)
refusal_reader: Read = Structs([_optional(_IDL, "message", pa.string()), _optional(_IDL, "type", pa.int32())], _refused)
"""Reads Thrift's own exception, and gives a reply."""

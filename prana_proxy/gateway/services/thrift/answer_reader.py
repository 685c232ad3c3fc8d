"""Builds the reader of one answer: the value to which `answer` leads, or the reply for an error beside it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from prana_proxy.gateway.answers import Reply
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.decoded_values import AnswerType
from prana_proxy.gateway.error_fields import (
    NO_TEXT,
    TEXT_NAMES,
    JsonPath,
    error_paths,
    error_text,
    pointer_names,
    service_error,
)
from prana_proxy.gateway.services.thrift.binary_protocol import (
    ENTRIES,
    LIST,
    MAP,
    SET,
    SIZES,
    STRING,
    STRUCT,
    UnfitError,
    skip,
)
from prana_proxy.gateway.services.thrift.idl import IdlField, IdlType
from prana_proxy.gateway.services.thrift.scalar_readers import Reader, plain_reader
from prana_proxy.gateway.services.thrift.value_readers import (
    StructField,
    StructReader,
    find_field,
    read_list_head,
    reader,
    struct_fields,
)
from schemas.errors import ConfigError


def answer_reader(idl: IdlType, config: ServiceConfig) -> Reader:
    """Build the reader of an answer, which returns its value or a reply. Raises ConfigError."""
    type, names = config.answer_type, pointer_names(config.answer)  # noqa: A001  # the field's own name
    paths = error_paths(type.type, config.answer, config.error)
    if config.error is None:
        paths = [path for path in paths if idl.wire == STRUCT and path[0] in idl.fields]
    if not paths:
        return _value_reader(idl, names, type)
    read, read_error = _beside_errors(idl, names, type, paths), _error_within(idl, paths)

    def read_either(data: bytes, at: int) -> tuple[Any, int]:
        try:
            return read(data, at)
        except UnfitError as unfit:
            try:
                failed, end = read_error(data, at)
            except (UnfitError, struct.error, IndexError):
                raise unfit from None
            if failed is None:
                raise
            return failed, end

    return read_either


def _value_reader(idl: IdlType, names: JsonPath, type: AnswerType, _: Sequence[JsonPath] = ()) -> Reader:  # noqa: A002
    """Build the reader of the value that a pointer leads to, without errors beside it."""
    if not names:
        return reader(idl, type.type, type.optional)
    field = _field_on_path(idl, names[0])
    return StructReader([StructField(names[0], field, _value_reader(field.type, names[1:], type))], _the_value)


def _beside_errors(idl: IdlType, names: JsonPath, type: AnswerType, paths: Sequence[JsonPath]) -> Reader:  # noqa: A002
    """Build the reader of the value that a pointer leads to, with the errors beside it and on the way."""
    name = names[0] if names else None
    errors = [_error_field(idl, path) for path in paths if path[0] != name]
    if name is not None:
        field = _field_on_path(idl, name)
        inner = [path[1:] for path in paths if path[0] == name]
        build = _beside_errors if inner else _value_reader
        value = StructField(name, field, build(field.type, names[1:], type, inner), required=False)
        return StructReader([*errors, value], _error_or_value)
    if not pa.types.is_struct(type.type):
        return reader(idl, type.type)  # which raises the ConfigError
    fields = struct_fields(idl, type.type, type.optional)
    values = [StructField(one.name, one.field, one.read, False, one.absent) for one in fields]
    return StructReader([*errors, *values], _row(len(errors), fields, type.python()))


def _the_value(value: Any) -> Any:
    return value


def _error_or_value(*read: Any) -> Any:
    """Return the first error, or else the value, which comes last."""
    for failed in read[:-1]:
        if failed is not None:
            return failed
    if read[-1] is None:
        raise UnfitError("the answer has neither value nor error")
    return read[-1]


def _row(errors: int, fields: Sequence[StructField], build_row: Callable[..., Any]) -> Callable[..., Any]:
    """Return the first error, or else the row of the values after them."""

    def build(*read: Any) -> Any:
        for failed in read[:errors]:
            if failed is not None:
                return failed
        for field, value in zip(fields, read[errors:], strict=True):
            if field.required and value is None:
                raise UnfitError(f"Object missing required field `{field.name}`")
        return build_row(*read[errors:])

    return build


def _error_within(idl: IdlType, paths: Sequence[JsonPath]) -> Reader:
    """Build the reader of the errors in a struct alone: a reply, or None."""
    return StructReader([_error_field(idl, path) for path in paths], lambda *read: next(filter(None, read), None))


def _error_field(idl: IdlType, path: JsonPath) -> StructField:
    field = _field_on_path(idl, path[0])
    if len(path) > 1:
        return StructField(path[0], field, _error_within(field.type, [path[1:]]), required=False)
    return StructField(path[0], field, _as_reply(_error_reader(field.type)), required=False)


def _as_reply(read: Reader) -> Reader:
    def read_reply(data: bytes, at: int) -> tuple[Reply | None, int]:
        error, end = read(data, at)
        text = error_text(error)
        return None if text is None else service_error(text), end

    return read_reply


def _error_reader(idl: IdlType) -> Reader:
    """Build the reader of an error of any type: what JSON would hold, as far as its text needs it."""
    if idl.wire == STRING or idl.wire in SIZES:
        return plain_reader(idl.code)
    if idl.wire == STRUCT:
        names = sorted(idl.fields, key=lambda name: (*TEXT_NAMES, name).index(name))
        plain = [name for name in names if idl.fields[name].type.wire == STRING or idl.fields[name].type.wire in SIZES]
        plain_fields = [
            StructField(name, idl.fields[name], plain_reader(idl.fields[name].type.code), False) for name in plain
        ]
        return StructReader(plain_fields, lambda *read: dict(zip(plain, read, strict=True)) if plain else NO_TEXT)
    return _container_reader(idl)


def _container_reader(idl: IdlType) -> Reader:
    """Read a list of errors; of a map, and of a list of lists, whether it has any."""
    read_one = (
        _error_reader(idl.element) if idl.wire in (LIST, SET) and idl.element.wire not in (LIST, SET, MAP) else None
    )

    def read(data: bytes, at: int) -> tuple[Any, int]:
        if read_one is None:
            count = (
                ENTRIES.unpack_from(data, at)[2] if idl.wire == MAP else read_list_head(data, at, idl.element.wire)[0]
            )
            return count > 0, skip(data, at, idl.wire)
        count, at = read_list_head(data, at, idl.element.wire)
        errors = []
        for _ in range(count):
            error, at = read_one(data, at)
            errors.append(error)
        return errors, at

    return read


def _field_on_path(idl: IdlType, name: str) -> IdlField:
    if idl.wire != STRUCT:
        raise ConfigError.because(f"answer leads to '{name}' of a {idl}, expected a struct", "change answer")
    return find_field(idl, name)

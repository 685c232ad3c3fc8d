"""Writes a method's arguments: each is a variable of the service's key, of the same name.

| variable | argument |
|---|---|
| integer | i8, i16, i32 or i64 that holds all its values |
| string | string |
| bool | bool |
| date32 | string: 2026-01-31 |
| timestamp[us, UTC] | i64: microseconds since the epoch; string: RFC 3339 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from thriftpy2.protocol.cybin import TCyBinaryProtocol  # type: ignore[attr-defined]  # compiled
from thriftpy2.transport.memory import TCyMemoryBuffer  # type: ignore[attr-defined]  # compiled

from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.services import Key
from prana_proxy.gateway.services.thrift.binary_protocol import BOOL, BYTE, I16, I32, I64, LIST, STRING, STRUCT
from prana_proxy.gateway.services.thrift.idl import IdlField, IdlMethod, IdlType, fields_of
from schemas.data_keys import DataKey
from schemas.errors import ConfigError
from schemas.times import to_micros

Write = Callable[[Sequence[Key]], bytes]
"""Writes the arguments of a call for some contexts."""

_BITS = {BYTE: 8, I16: 16, I32: 32, I64: 64}
_Write = Callable[[Any], Any]


def arguments_of(method: IdlMethod, config: ServiceConfig) -> Write:
    """Build the writer of a method's arguments. Raises ConfigError when they are not the service's key."""
    key, fields = config.service.key, fields_of(method.arguments)
    if config.batched:
        return _batch(method, key, fields)
    fill = _filler(f"{method} takes", method.arguments, fields, key)
    return lambda keys: _serialized(fill(keys[0]))


def _batch(method: IdlMethod, key: Sequence[DataKey], fields: Mapping[str, IdlField]) -> Write:
    (name, field), *more = fields.items() or [("", None)]
    if more or field is None or field.type.wire != LIST:
        declared = ", ".join(f"{field.type} {name}" for name, field in fields.items())
        raise ConfigError.because(
            f"{method} takes ({declared}), expected one list of contexts", "name such a method, or write url"
        )
    element = field.type.element
    fill: Callable[[Key], Any]
    if element.wire == STRUCT:
        fill = _filler(f"{element} has", element.inside, element.fields, key)
    elif len(key) == 1:
        convert, variable = _converter(key[0], element), key[0].name
        fill = lambda one: convert(one[variable])  # noqa: E731
    else:
        raise ConfigError.because(
            f"{method} takes a {field.type}, expected structs of {', '.join(v.name for v in key)}"
        )
    return lambda keys: _serialized(method.arguments(**{name: [fill(one) for one in keys]}))


def _filler(whose: str, struct: Any, fields: Mapping[str, IdlField], key: Sequence[DataKey]) -> Callable[[Key], Any]:
    """Build the function that makes a struct of a key."""
    variables = {variable.name: variable for variable in key}
    for name in fields:
        if name not in variables:
            raise ConfigError.unknown(f"variable of the key, which {whose},", name, variables)
    for name in variables:
        if name not in fields:
            raise ConfigError.because(f"{whose} no '{name}', so answers cannot depend on it", "remove it from key")
    converters = [(name, _converter(variable, fields[name].type)) for name, variable in variables.items()]
    return lambda one: struct(**{name: convert(one[name]) for name, convert in converters})


def _converter(variable: DataKey, idl: IdlType) -> _Write:
    type, code = variable.type, idl.code  # noqa: A001  # the field's own name
    if pa.types.is_integer(type) and code in _BITS:
        if _BITS[code] >= type.bit_width + pa.types.is_unsigned_integer(type):
            return _unchanged
    elif (pa.types.is_string(type) and code == STRING) or (pa.types.is_boolean(type) and code == BOOL):
        return _unchanged
    elif (pa.types.is_date32(type) or pa.types.is_timestamp(type)) and code == STRING:
        return lambda moment: moment.isoformat()
    elif pa.types.is_timestamp(type) and code == I64:
        return to_micros
    raise ConfigError.because(
        f"'{variable.name}' is {type}, which a {idl} cannot hold", "change the key's type, or name another method"
    )


def _unchanged(value: Any) -> Any:
    return value


def _serialized(struct: Any) -> bytes:
    buffer = TCyMemoryBuffer()
    TCyBinaryProtocol(buffer).write_struct(struct)
    data: bytes = buffer.getvalue()
    return data

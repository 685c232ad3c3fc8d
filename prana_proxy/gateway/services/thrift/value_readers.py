"""Reads values along their Arrow type, strictly, into exactly what `python_type` describes.

The data must match the interface file, and fit the Arrow type:

| Arrow | Thrift |
|---|---|
| bool | bool |
| integers | i8, i16, i32, i64, enums; each value must fit |
| float, double | double; each value must fit |
| string, large_string | string |
| binary | binary, string |
| timestamp[us, UTC] | i64: microseconds since the epoch; string: RFC 3339 with a zone |
| date32 | string: 2026-01-31 |
| list | list; set, in the order of the data |
| struct | struct, union: each field by name; others are skipped |

A missing field has its default of the interface file, if that is a scalar; or is null, if it is a float or a string; or
has the default that the service's declaration names; otherwise the answer is invalid. A field that the interface file
lacks has that default too. A field of another type than in the interface file never counts as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec import UNSET

from prana_proxy.gateway.decoded_values import fields_in_order, python_type
from prana_proxy.gateway.services.thrift.binary_protocol import (
    ELEMENTS,
    ENDS_EARLY,
    FIELD,
    LIST,
    SET,
    SIZES,
    SMALLEST,
    STRUCT,
    UnfitError,
    skip,
    unexpected,
)
from prana_proxy.gateway.services.thrift.idl import IdlField, IdlType
from prana_proxy.gateway.services.thrift.scalar_readers import NumberReader, Reader, checked, scalar_reader
from schemas.errors import ConfigError
from schemas.nulls import may_be_null

_ROWS_WORTH_A_TABLE = 12  # below that, reading row by row is faster


def reader(
    idl: IdlType,
    type: pa.DataType,  # noqa: A002  # the field's own name
    optional: frozenset[str] = frozenset(),
    path: str = "",
) -> Reader:
    """Build the reader of an Arrow type. Raises ConfigError when the interface file's type cannot be that.

    optional, path: as `python_type` takes them
    """
    if pa.types.is_list(type) and idl.wire in (LIST, SET):
        return _list_reader(idl, reader(idl.element, type.value_type, optional, path))
    if pa.types.is_struct(type) and idl.wire == STRUCT:
        return StructReader(struct_fields(idl, type, optional, path), python_type(type, {}, optional, path))
    read = scalar_reader(idl.code, type)
    if read is None:
        raise ConfigError.because(
            f"{type} cannot be read from a {idl}", "change type, or name another method or answer"
        )
    return read


@dataclass(frozen=True)
class StructField:
    """A field that is read from a struct. absent: its value when it is missing; required: it must not be missing.

    field: None: the interface file lacks it, so it is always missing
    """

    name: str
    field: IdlField | None
    read: Reader
    required: bool = True
    absent: Any = None


def find_field(idl: IdlType, name: str) -> IdlField:
    """Return a struct's field. Raises ConfigError."""
    fields = idl.fields
    if name not in fields:
        raise ConfigError.unknown(f"field of {idl}", name, fields)
    return fields[name]


def struct_fields(
    idl: IdlType,
    type: pa.DataType,  # noqa: A002
    optional: frozenset[str] = frozenset(),
    path: str = "",
) -> list[StructField]:
    """Return how the fields of an Arrow struct are read from a struct of the interface file, as its class takes them.

    Raises ConfigError.
    """
    in_order = (type.field(i) for i in fields_in_order(type, optional, path))
    return [_struct_field(idl, field, optional, path) for field in in_order]


def _struct_field(idl: IdlType, arrow: pa.Field, optional: frozenset[str], path: str) -> StructField:
    may_lack = f"{path}{arrow.name}" in optional
    if may_lack and arrow.name not in idl.fields:
        return StructField(arrow.name, None, _never_read, False, UNSET)
    field = find_field(idl, arrow.name)
    read = reader(field.type, arrow.type, optional, f"{path}{arrow.name}.")
    if isinstance(field.default, bool | int | float | str):
        return StructField(arrow.name, field, read, False, _default(idl, arrow, field.default))
    if may_be_null(arrow.type):  # which a missing field stands for: it never says that its service is older than it
        return StructField(arrow.name, field, read, False)
    return StructField(arrow.name, field, read, not may_lack, UNSET if may_lack else None)


def _never_read(_: bytes, at: int) -> tuple[Any, int]:
    return UNSET, at


def _default(idl: IdlType, arrow: pa.Field, default: Any) -> Any:
    if pa.types.is_binary(arrow.type):
        return default.encode()
    try:
        return checked(bool(default) if pa.types.is_boolean(arrow.type) else default, python_type(arrow.type))
    except UnfitError as error:
        raise ConfigError.because(f"{idl}.{arrow.name}: its default is not a {arrow.type}: {error}") from error


class StructReader:
    """Reads structs: passes the requested fields to `build`, in the order requested."""

    def __init__(self, fields: Sequence[StructField], build: Callable[..., Any]) -> None:
        self._requested, self._build = fields, build
        self._absent = [one.absent for one in fields]
        self._required = [i for i, one in enumerate(fields) if one.required]
        sent = [(i, one.field, one) for i, one in enumerate(fields) if one.field is not None]
        self._fields = {FIELD.pack(field.type.wire, field.id): (i, one.read, one.name) for i, field, one in sent}
        self._expected = {field.id: (field.type.wire, one.name) for _, field, one in sent}

    def __call__(self, data: bytes, at: int) -> tuple[Any, int]:
        """Read one."""
        values, find = self._absent.copy(), self._fields.get
        while code := data[at]:
            match = find(data[at : at + 3])
            if match is None:
                at = self._skip_field(data, at, code)
                continue
            i, read, name = match
            try:
                values[i], at = read(data, at + 3)
            except UnfitError as error:
                raise error.within(f".{name}") from None
        for i in self._required:
            if values[i] is None:
                raise UnfitError(f"Object missing required field `{self._requested[i].name}`")
        return self._build(*values), at + 1

    def _skip_field(self, data: bytes, at: int, code: int) -> int:
        """Skip a field that is not requested; raise UnfitError for a requested one of another type."""
        expected, name = self._expected.get(FIELD.unpack_from(data, at)[1], (code, ""))
        if code != expected:
            raise unexpected(expected, code).within(f".{name}")
        return at + 3 + SIZES[code] if code in SIZES else skip(data, at + 3, code)

    def many(self, data: bytes, at: int, count: int) -> tuple[list[Any], int] | None:
        """Read consecutive structs as one table; None unless all have the same fields, of fixed sizes, and all fit."""
        places, heads, size = self._layout(data, at)
        if not size or at + count * size > len(data):
            return None
        table = np.frombuffer(data, np.uint8, count * size, at).reshape(count, size)[:, heads]
        if (table != table[0]).any():
            return None
        columns = []
        for i, field in enumerate(self._requested):
            if i in places:
                column = field.read.many(data, at + places[i], count, size)  # type: ignore[attr-defined]  # NumberReader
            else:
                column = None if field.required else [field.absent] * count
            if column is None:
                return None
            columns.append(column)
        return list(map(self._build, *columns)) if columns else [self._build()] * count, at + count * size

    def _layout(self, data: bytes, start: int) -> tuple[dict[int, int], list[int], int]:
        """Return the offsets of requested values and of all other bytes in a struct, and its size; 0 if it varies."""
        places, heads, at = dict[int, int](), list[int](), start
        while code := data[at]:
            heads += range(at - start, at - start + 3)
            match = self._fields.get(data[at : at + 3])
            if match is not None:
                places[match[0]] = at + 3 - start
            elif self._expected.get(FIELD.unpack_from(data, at)[1]):
                return {}, [], 0
            if code not in SIZES:
                return {}, [], 0
            at += 3 + SIZES[code]
        return places, [*heads, at - start], at - start + 1


def _list_reader(idl: IdlType, read_one: Reader) -> Reader:
    expected = idl.element.wire

    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        count, at = read_list_head(data, at, expected)
        if isinstance(read_one, NumberReader):
            values = read_one.many(data, at, count, read_one.size)
            if values is not None:
                return values, at + count * read_one.size
        if isinstance(read_one, StructReader) and count >= _ROWS_WORTH_A_TABLE:
            rows = read_one.many(data, at, count)
            if rows is not None:
                return rows
        values = []
        for i in range(count):
            try:
                value, at = read_one(data, at)
            except UnfitError as error:
                raise error.within(f"[{i}]") from None
            values.append(value)
        return values, at

    return read


def read_list_head(data: bytes, at: int, expected: int) -> tuple[int, int]:
    """Return a list's or set's count and where its elements start. Raises UnfitError."""
    code, count = ELEMENTS.unpack_from(data, at)
    at += ELEMENTS.size
    if count == 0:  # some services write no type for an empty list
        return 0, at
    if code != expected:
        raise unexpected(expected, code).within("[0]")
    if count < 0 or count * SMALLEST[code] > len(data) - at:
        raise UnfitError(ENDS_EARLY)
    return count, at

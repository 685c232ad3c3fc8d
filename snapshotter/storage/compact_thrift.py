"""Reads and writes any struct in Thrift's compact protocol, as Parquet footers are, without knowing its definition."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeAlias

Struct: TypeAlias = dict[int, tuple[int, Any]]  # field's id → its kind and value; a list's value: (kind, values)


class Kind(IntEnum):
    """The kinds of values, by their codes in the protocol."""

    TRUE = 1
    FALSE = 2
    BYTE = 3
    I16 = 4
    I32 = 5
    I64 = 6
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    STRUCT = 12


_INTEGERS = (Kind.I16, Kind.I32, Kind.I64)
_LONG_LIST = 15


def read_struct(text: bytes) -> Struct:
    """Decode a struct. Raises ValueError or IndexError for anything else.

    >>> read_struct(write_struct({1: (Kind.I64, -3), 40: (Kind.LIST, (Kind.BINARY, [b"a", b""]))}))
    {1: (6, -3), 40: (9, (8, [b'a', b'']))}
    """
    return _Reader(text).struct()


class _Reader:
    def __init__(self, text: bytes) -> None:
        self._text, self._at = text, 0

    def struct(self) -> Struct:
        fields: Struct = {}
        last = 0
        while header := self._byte():
            step = header >> 4
            last = last + step if step else self._integer()
            kind = header & 15
            fields[last] = (kind, None if kind in (Kind.TRUE, Kind.FALSE) else self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == Kind.BINARY:
            return self._bytes(self._varint())
        if kind == Kind.STRUCT:
            return self.struct()
        if kind == Kind.LIST:
            header = self._byte()
            size, element = header >> 4, header & 15
            size = self._varint() if size == _LONG_LIST else size
            return element, [self._value(element) for _ in range(size)]
        if kind in (Kind.BYTE, Kind.TRUE, Kind.FALSE):
            return self._bytes(1)
        if kind == Kind.DOUBLE:
            return self._bytes(8)
        raise ValueError(f"values of kind {kind} are not known")

    def _byte(self) -> int:
        self._at += 1
        return self._text[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._text):
            raise IndexError("the text ends within a value")
        return self._text[start : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def write_struct(struct: Struct) -> bytes:
    """Encode a struct that `read_struct` returned, or a changed one."""
    text = bytearray()
    _append_struct(text, struct)
    return bytes(text)


def _append_struct(text: bytearray, struct: Struct) -> None:
    last = 0
    for field in sorted(struct):
        kind, value = struct[field]
        if 0 < field - last < 16:
            text.append((field - last) << 4 | kind)
        else:
            text.append(kind)
            _append_varint(text, _zigzag(field))
        last = field
        if kind not in (Kind.TRUE, Kind.FALSE):
            _append(text, kind, value)
    text.append(0)


def _append(text: bytearray, kind: int, value: Any) -> None:
    if kind in _INTEGERS:
        _append_varint(text, _zigzag(value))
    elif kind == Kind.BINARY:
        _append_varint(text, len(value))
        text += value
    elif kind == Kind.STRUCT:
        _append_struct(text, value)
    elif kind == Kind.LIST:
        element, values = value
        text.append(min(len(values), _LONG_LIST) << 4 | element)
        if len(values) >= _LONG_LIST:
            _append_varint(text, len(values))
        for each in values:
            _append(text, element, each)
    else:
        text += value


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _append_varint(text: bytearray, value: int) -> None:
    while value >= 128:
        text.append(value & 127 | 128)
        value >>= 7
    text.append(value)

"""Thrift's binary protocol without an interface file: the heads of messages, and where a value ends.

thriftpy2's own reader is for trusted services: it silently drops fields of another type than the interface file has,
reads beyond the end of the data, and a few crafted bytes can occupy it for hours.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import IntEnum
from struct import Struct

BOOL, BYTE, DOUBLE, I16, I32, I64, STRING, STRUCT, MAP, SET, LIST = 2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15
STOP = 0
_NAMES = "bool i8 double i16 i32 i64 string struct map set list"
NAMES = dict(zip((BOOL, BYTE, DOUBLE, I16, I32, I64, STRING, STRUCT, MAP, SET, LIST), _NAMES.split(), strict=True))
SIZES = {BOOL: 1, BYTE: 1, DOUBLE: 8, I16: 2, I32: 4, I64: 8}
SMALLEST = {**SIZES, STRING: 4, STRUCT: 1, MAP: 6, SET: 5, LIST: 5}
"""Bytes of the smallest value of each type."""

FIELD, ELEMENTS, ENTRIES, LENGTH = Struct(">bh"), Struct(">bi"), Struct(">bbi"), Struct(">i")
_MESSAGE = Struct(">Ii")  # version and kind, length of the name
_VERSION, _VERSION_MASK, _KIND_MASK = 0x80010000, 0xFFFF0000, 0x000000FF
_DEEPEST = 64

ENDS_EARLY = "the answer ends within a value"


class MessageKind(IntEnum):
    """The kind of a message."""

    CALL = 1
    REPLY = 2
    EXCEPTION = 3
    ONEWAY = 4


class UnfitError(Exception):  # only within this package, where it becomes a reply
    """The received data does not match the interface file or the Arrow type."""

    def __init__(self, problem: str, place: str = "") -> None:
        super().__init__(problem)
        self.problem, self.place = problem, place

    def __str__(self) -> str:
        """Format it as msgspec does for JSON."""
        return f"{self.problem} - at `${self.place}`" if self.place else self.problem

    def within(self, step: str) -> UnfitError:
        """Add a step of the path, from the inside out."""
        self.place = step + self.place
        return self


def unexpected(expected: int, actual: int) -> UnfitError:
    """Build the error about a value of another type."""
    return UnfitError(f"Expected `{NAMES[expected]}`, got `{NAMES.get(actual, actual)}`")


def message_head(name: str, kind: MessageKind, sequence: int) -> bytes:
    """Write the bytes before a call's arguments."""
    text = name.encode()
    return _MESSAGE.pack(_VERSION | kind, len(text)) + text + LENGTH.pack(sequence)


def read_message_head(data: bytes | bytearray) -> tuple[int, int, int]:
    """Return a message's kind, its sequence id and where its content starts. Raises UnfitError."""
    if len(data) < _MESSAGE.size:
        raise UnfitError(ENDS_EARLY)
    version, length = _MESSAGE.unpack_from(data)
    end = _MESSAGE.size + length
    if version & _VERSION_MASK != _VERSION or length < 0:
        raise UnfitError("the answer is not of Thrift's binary protocol, or of another transport")
    if end + 4 > len(data):
        raise UnfitError(ENDS_EARLY)
    return version & _KIND_MASK, LENGTH.unpack_from(data, end)[0], end + 4


def skip(data: bytes, at: int, code: int) -> int:
    """Return where a value ends. Raises UnfitError."""
    try:
        next(end_of(data, at, code))
    except StopIteration as stop:
        end: int = stop.value
        if end <= len(data):
            return end
    raise UnfitError(ENDS_EARLY)


def end_of_message(data: bytes | bytearray) -> Generator[int, None, int]:
    """Find the end of a message that arrives piece by piece.

    Yields how many bytes it needs to continue, and continues when `data` has grown. Raises UnfitError.
    """
    yield _MESSAGE.size
    version, length = _MESSAGE.unpack_from(data)
    if version & _VERSION_MASK == _VERSION and length >= 0:
        yield _MESSAGE.size + length + 4
    _, _, at = read_message_head(data)
    return (yield from end_of(data, at, STRUCT))


def end_of(
    data: bytes | bytearray,
    at: int,
    code: int,
    deepest: int = _DEEPEST,
) -> Generator[int, None, int]:
    """Find the end of a value, as `end_of_message` does; it may lie beyond the data. Raises UnfitError."""
    if code in SIZES:
        return at + SIZES[code]
    if deepest == 0:
        raise UnfitError("the answer nests too deeply")
    if code == STRUCT:
        return (yield from _end_of_struct(data, at, deepest - 1))
    if code == STRING:
        if at + 4 > len(data):
            yield at + 4
        return at + 4 + _count(data, at)
    if code in (LIST, SET, MAP):
        head = ENTRIES if code == MAP else ELEMENTS
        if at + head.size > len(data):
            yield at + head.size
        *inner, count = head.unpack_from(data, at)
        return (yield from _end_of_elements(data, at + head.size, inner, count, deepest - 1))
    raise UnfitError(f"the answer has a value of type {code}, which Thrift does not have")


def _end_of_struct(data: bytes | bytearray, at: int, deepest: int) -> Generator[int, None, int]:
    while True:
        if at + 1 > len(data):
            yield at + 1
        code = data[at]
        if code == STOP:
            return at + 1
        at += FIELD.size
        at = at + SIZES[code] if code in SIZES else (yield from end_of(data, at, code, deepest))


def _end_of_elements(
    data: bytes | bytearray, at: int, types: list[int], count: int, deepest: int
) -> Generator[int, None, int]:
    if count <= 0:
        if count < 0:
            raise UnfitError("the answer has a container of negative size")
        return at
    if all(code in SIZES for code in types):
        return at + count * sum(SIZES[code] for code in types)
    least = at + count * sum(SMALLEST.get(code, 1) for code in types)
    if least > len(data):
        yield least
    for _ in range(count):
        for code in types:
            at = yield from end_of(data, at, code, deepest)
    return at


def _count(data: bytes | bytearray, at: int) -> int:
    count: int = LENGTH.unpack_from(data, at)[0]
    if count < 0:
        raise UnfitError("the answer has a string of negative size")
    return count

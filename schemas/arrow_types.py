"""Reads Arrow types from text, so that configuration files speak Arrow and nothing else."""

from __future__ import annotations

import re

import pyarrow as pa

from schemas.errors import DataKeyError

_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z_0-9]*|\d+|[<>\[\]():,=])")
_PLAIN = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float",
    "double",
    "string",
    "large_string",
    "binary",
    "date32",
]
_ALIASES = {"float32": "float", "float64": "double", "date": "date32", "utf8": "string"}
_DEEPEST = 16


def parse_type(text: str) -> pa.DataType:
    """Read an Arrow type as Arrow itself prints it, in shorter forms too.

    >>> parse_type("list<struct<video_id: int64, minutes: float>>")
    ListType(list<item: struct<video_id: int64, minutes: float>>)
    >>> parse_type("timestamp[us, UTC]") == parse_type(str(parse_type("timestamp[us, tz=UTC]")))
    True

    Raises DataKeyError with the place in the text where it stops making sense.
    """
    parser = _Parser(text)
    parsed = parser.type(0)
    parser.end()
    return parsed


class _Parser:
    """Recursive descent over a type's text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error("a type", at)
            self.tokens.append((match[1], match.start(1)))
            at = match.end()
        self.next = 0

    def type(self, depth: int) -> pa.DataType:
        if depth > _DEEPEST:
            raise DataKeyError.because(f"Arrow type nests deeper than {_DEEPEST}: {self.text[:60]}…")
        name = self.take("a type")
        name = _ALIASES.get(name, name)
        if name == "date32" and self.peek() == "[":
            self.next += 1  # Arrow prints the unit, of which there is one
            self.take_exactly("day")
            self.take_exactly("]")
        if name in _PLAIN:
            return pa.type_for_alias(name)
        if name == "decimal128":
            return self.decimal()
        if name == "timestamp":
            return self.timestamp()
        if name == "list":
            self.take_exactly("<")
            if self.peek(1) == ":":
                self.next += 2  # Arrow prints the child's name, which means nothing
            child = self.type(depth + 1)
            self.take_exactly(">")
            return pa.list_(child)
        if name == "struct":
            return self.struct(depth)
        self.next -= 1
        raise self.error("one of " + ", ".join([*_PLAIN, "timestamp[us, UTC]", "list<…>", "struct<name: …>"]))

    def struct(self, depth: int) -> pa.DataType:
        self.take_exactly("<")
        fields: list[pa.Field] = []
        while self.peek() != ">":
            if fields:
                self.take_exactly(",")
            name = self.take("a field's name")
            self.take_exactly(":")
            if any(field.name == name for field in fields):
                raise DataKeyError.because(f"Arrow type '{self.text}' names the field '{name}' twice")
            fields.append(pa.field(name, self.type(depth + 1)))
        self.take_exactly(">")
        return pa.struct(fields)

    def timestamp(self) -> pa.DataType:
        self.take_exactly("[")
        unit = self.take("us")
        if unit != "us":
            self.next -= 1
            raise self.error("us: times are microseconds everywhere")
        zone = None
        if self.peek() == ",":
            self.next += 1
            if self.peek() == "tz":
                self.next += 1
                self.take_exactly("=")
            zone = self.take("UTC")
            if zone != "UTC":
                self.next -= 1
                raise self.error("UTC")
        self.take_exactly("]")
        return pa.timestamp("us", zone)

    def decimal(self) -> pa.DataType:
        self.take_exactly("(")
        precision = self.take("a precision")
        self.take_exactly(",")
        scale = self.take("a scale")
        self.take_exactly(")")
        if not (precision.isdigit() and scale.isdigit() and 1 <= int(precision) <= 38 and int(scale) <= int(precision)):
            raise DataKeyError.because(f"Arrow type '{self.text}': expected decimal128(1…38, 0…precision)")
        return pa.decimal128(int(precision), int(scale))

    def peek(self, ahead: int = 0) -> str | None:
        at = self.next + ahead
        return self.tokens[at][0] if at < len(self.tokens) else None

    def take(self, expected: str) -> str:
        token = self.peek()
        if token is None:
            raise self.error(expected)
        self.next += 1
        return token

    def take_exactly(self, token: str) -> None:
        if self.take(f"'{token}'") != token:
            self.next -= 1
            raise self.error(f"'{token}'")

    def end(self) -> None:
        if self.peek() is not None:
            raise self.error("the end")

    def error(self, expected: str, at: int | None = None) -> DataKeyError:
        if at is None:
            at = self.tokens[self.next][1] if self.next < len(self.tokens) else len(self.text)
        return DataKeyError.because(f"Arrow type '{self.text}' at character {at + 1}: expected {expected}")

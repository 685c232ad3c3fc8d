"""Reads types from records that hold only Arrow's printed form, of any type and with any field names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa

from schemas.arrow_types import TypeParser
from schemas.errors import DataKeyError

_MOST_COLONS = 8  # in a field's name
_NUMBER = re.compile(r"-?\d+")
_UNIT = re.compile(r"(?:s|ms|us|ns)\b")
_ZONE = re.compile(r"[^\]]+")
_EXTENSION = re.compile(r"[^>]+")
_PLAIN = ("null", "halffloat", "large_binary", "string_view", "binary_view", "month_day_nano_interval")
_WITH_UNIT = ("date64", "time32", "time64", "duration")
_DECIMALS = ("decimal32", "decimal64", "decimal128", "decimal256")
_LISTS: dict[str, Callable[[pa.Field], pa.DataType]] = {
    "list": pa.list_,
    "large_list": pa.large_list,
    "list_view": pa.list_view,
    "large_list_view": pa.large_list_view,
}
_EXTENSIONS = {"arrow.uuid": pa.uuid, "arrow.json": pa.json_, "arrow.bool8": pa.bool8}


def parse_printed_type(text: str) -> pa.DataType:
    """Read any type as Arrow prints it. Raises DataKeyError.

    >>> parse_printed_type("struct<id: int64 not null, seen: timestamp[ms, tz=CET], a: b: list<element: string>>").names
    ['id', 'seen', 'a: b']
    """
    try:
        return _PrintedParser(text).whole()
    except (pa.ArrowException, ValueError, OverflowError) as error:  # a width or a unit that Arrow does not have
        raise DataKeyError.because(f"Arrow type '{text}': {error}") from error


class _PrintedParser(TypeParser):
    """Arrow prints names without quotes, so the parser tries each colon as the end of a name."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._parsed: dict[tuple[int, int], tuple[pa.DataType | DataKeyError, int]] = {}

    def type(self, depth: int) -> pa.DataType:
        """Read a type, once for each position, however often it is tried."""
        start = (self.at, depth)
        if start not in self._parsed:
            try:
                self._parsed[start] = (super().type(depth), self.at)
            except DataKeyError as error:
                self._parsed[start] = (error, self.at)
        parsed, self.at = self._parsed[start]
        if isinstance(parsed, DataKeyError):
            raise parsed
        return parsed

    def named(self, name: str, depth: int) -> pa.DataType | None:
        """Read the rest of a type whose name has been read."""
        if name in _PLAIN:
            return pa.type_for_alias(name)
        if name in _WITH_UNIT:
            return pa.type_for_alias(f"{name}[{self._in_brackets(_UNIT)}]")
        if name in _DECIMALS:
            constructor: Callable[[int, int], pa.DataType] = getattr(pa, name)
            return constructor(*self._precision_and_scale())
        if name in _LISTS:
            return _LISTS[name](self.child(depth))
        if name == "fixed_size_binary":
            return pa.binary(int(self._in_brackets(_NUMBER)))
        if name == "fixed_size_list":
            child = self.child(depth)
            return pa.list_(child, int(self._in_brackets(_NUMBER)))
        others = {"map": self._map, "dictionary": self._dictionary, "extension": self._extension}
        return others[name](depth) if name in others else super().named(name, depth)

    def field(self, depth: int) -> pa.Field:
        """Read a field, trying each colon as the end of its name."""
        if self.text.startswith(" ", self.at):
            self.at += 1  # after a comma
        start, end, first_error = self.at, self.at, None
        for _ in range(_MOST_COLONS):
            end = self.text.find(":", end) + 1
            if end == 0:
                break
            self.at = end
            try:
                field = self.field_type(self.text[start : end - 1], depth)
                if self.peek() in (",", ">"):
                    return field
                raise self.error("',' or '>'")
            except DataKeyError as error:
                first_error = first_error or error
        raise first_error or self.error("a field's name and ':'", start)

    def field_type(self, name: str, depth: int) -> pa.Field:
        """Read a field's type, and whether it may be null."""
        parsed, nullable = self.type(depth + 1), True
        if self.skip("not"):
            self.take_exactly("null")
            nullable = False
        return pa.field(name, parsed, nullable)

    def timestamp(self) -> pa.DataType:
        """Read any unit and zone."""
        self.take_exactly("[")
        unit, zone = self._match(_UNIT, "a unit"), None
        if self.skip(","):
            self.take_exactly("tz", "=")
            zone = self._match(_ZONE, "a zone")
        self.take_exactly("]")
        return pa.timestamp(unit, zone)

    def _map(self, depth: int) -> pa.DataType:
        self.take_exactly("<")
        key = self.type(depth + 1)
        self.take_exactly(",")
        value = self.field_type("value", depth)
        if self.skip("("):  # Arrow prints unusual names of keys and values
            self.at = self.text.find(")", self.at) + 1 or len(self.text)
        self.take_exactly(">")
        return pa.map_(key, value)

    def _dictionary(self, depth: int) -> pa.DataType:
        self.take_exactly("<", "values", "=")
        values = self.type(depth + 1)
        self.take_exactly(",", "indices", "=")
        indices = self.type(depth + 1)
        self.take_exactly(",", "ordered", "=")
        ordered = self.take("0 or 1") == "1"
        self.take_exactly(">")
        return pa.dictionary(indices, values, ordered)

    def _extension(self, _: int) -> pa.DataType:
        self.take_exactly("<")
        start, name = self.at, self._match(_EXTENSION, "an extension's name")
        self.take_exactly(">")
        if name not in _EXTENSIONS:
            raise self.error("one of " + ", ".join(_EXTENSIONS), start)
        return _EXTENSIONS[name]()

    def _precision_and_scale(self) -> tuple[int, int]:
        self.take_exactly("(")
        precision = int(self._match(_NUMBER, "a precision"))
        self.take_exactly(",")
        scale = int(self._match(_NUMBER, "a scale"))
        self.take_exactly(")")
        return precision, scale

    def _in_brackets(self, pattern: re.Pattern[str]) -> str:
        self.take_exactly("[")
        text = self._match(pattern, "a unit or a number")
        self.take_exactly("]")
        return text

    def _match(self, pattern: re.Pattern[str], expected: str) -> str:
        match = pattern.match(self.text, self.skip_spaces())
        if match is None:
            raise self.error(expected)
        self.at = match.end()
        return match[0]

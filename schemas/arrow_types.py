"""Arrow types as text, for configuration files."""

from __future__ import annotations

import json
import re

import pyarrow as pa

from schemas.errors import DataKeyError

_TOKEN = re.compile(r"[A-Za-z_][A-Za-z_0-9]*|\d+|[<>\[\]():,=]")
_SPACES = re.compile(r"\s*")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_BARE_NAME = re.compile(r'[^:<>,"]+')
_CHILD_NAME = re.compile(r'\s*[^:<>,"]*:')
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
_IN_MICROSECONDS = {"time64": pa.time64("us"), "duration": pa.duration("us")}
_DEEPEST = 16
_JSON = json.JSONDecoder()


def parse_type(text: str) -> pa.DataType:
    """Read an Arrow type from text: as Arrow prints it, or in shorter forms.

    A field's name that contains one of `:<>,"` is written as a JSON string.

    >>> parse_type("list<struct<video_id: int64, minutes: float>>")
    ListType(list<item: struct<video_id: int64, minutes: float>>)
    >>> parse_type("timestamp[us, UTC]") == parse_type(str(parse_type("timestamp[us, tz=UTC]")))
    True
    >>> parse_type('struct<release-year: int64, "a, b": string>').names
    ['release-year', 'a, b']

    Raises DataKeyError that names the position of the first unexpected character.
    """
    return TypeParser(text).whole()


def type_text(type: pa.DataType) -> str:  # noqa: A002  # the field's own name
    """Write a type so that `parse_type` reads it, as Arrow prints it if the field names allow that.

    >>> type_text(pa.struct({"video_id": pa.int64(), "release: year": pa.int64()}))
    'struct<video_id: int64, "release: year": int64>'
    """
    if pa.types.is_struct(type):
        return f"struct<{', '.join(f'{_name_text(field.name)}: {_field_text(field)}' for field in type)}>"
    if pa.types.is_list(type):
        return f"list<item: {_field_text(type.value_field)}>"
    return str(type)


def _field_text(field: pa.Field) -> str:
    return type_text(field.type) + ("" if field.nullable else " not null")


def _name_text(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)


class TypeParser:
    """A recursive descent parser of Arrow types."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0  # position of the next character to read

    def whole(self) -> pa.DataType:
        """Read a type that fills the whole text."""
        parsed = self.type(0)
        rest = self.peek()
        if rest is not None:
            raise self.error("the end" if _TOKEN.fullmatch(rest) else "a type")
        return parsed

    def type(self, depth: int) -> pa.DataType:
        """Read a type. depth: the number of types around it."""
        if depth > _DEEPEST:
            raise DataKeyError.because(f"Arrow type nests deeper than {_DEEPEST}: {self.text[:60]}…")
        start = self.skip_spaces()
        name = self.take("a type")
        parsed = self.named(_ALIASES.get(name, name), depth)
        if parsed is None:
            others = ["timestamp[us, UTC]", "time64[us]", "duration[us]", "decimal128(…, …)", "list<…>"]
            raise self.error("one of " + ", ".join([*_PLAIN, *others, "struct<name: …>"]), start)
        return parsed

    def named(self, name: str, depth: int) -> pa.DataType | None:
        """Read the rest of a type whose name has been read. None if no type has this name."""
        if name == "date32" and self.skip("["):
            self.take_exactly("day", "]")  # Arrow prints the unit, although it has only one
        if name in _PLAIN:
            return pa.type_for_alias(name)
        if name == "decimal128":
            return self.decimal()
        if name == "timestamp":
            return self.timestamp()
        if name in _IN_MICROSECONDS:
            self.take_exactly("[")
            self.unit()
            self.take_exactly("]")
            return _IN_MICROSECONDS[name]
        if name == "list":
            return pa.list_(self.child(depth))
        return self.struct(depth) if name == "struct" else None

    def child(self, depth: int) -> pa.Field:
        """Read the type of a list's elements."""
        self.take_exactly("<")
        named = _CHILD_NAME.match(self.text, self.at)  # Arrow prints the child's name, which has no meaning
        if named:
            self.at = named.end()
        child = self.field_type("item", depth)
        self.take_exactly(">")
        return child

    def struct(self, depth: int) -> pa.DataType:
        """Read a struct's fields."""
        self.take_exactly("<")
        fields: list[pa.Field] = []
        while self.peek() != ">":
            if fields:
                self.take_exactly(",")
            field = self.field(depth)
            if any(other.name == field.name for other in fields):
                raise DataKeyError.because(f"Arrow type '{self.text}' names the field '{field.name}' twice")
            fields.append(field)
        self.take_exactly(">")
        return pa.struct(fields)

    def field(self, depth: int) -> pa.Field:
        """Read a field: its name, a colon, its type."""
        name = self.name()
        self.take_exactly(":")
        return self.field_type(name, depth)

    def field_type(self, name: str, depth: int) -> pa.Field:
        """Read a field's type."""
        return pa.field(name, self.type(depth + 1))

    def name(self) -> str:
        """Read a field's name."""
        start = self.skip_spaces()
        if self.text.startswith('"', start):
            return self.quoted_name()
        bare = _BARE_NAME.match(self.text, start)
        if bare is None:
            raise self.error("a field's name")
        plain = _PLAIN_NAME.match(self.text, start)
        self.at = bare.end()
        if plain and self.peek() != ":":
            self.at = plain.end()  # report the missing colon here, not further on
            raise self.error("':'")
        return bare[0].strip()

    def quoted_name(self) -> str:
        """Read a field's name in quotes."""
        try:
            name, self.at = _JSON.raw_decode(self.text, self.at)
        except ValueError:
            raise self.error("a field's name in quotes") from None
        return str(name)

    def timestamp(self) -> pa.DataType:
        """Read a timestamp's unit and zone."""
        self.take_exactly("[")
        self.unit()
        zone = None
        if self.skip(","):
            if self.skip("tz"):
                self.take_exactly("=")
            start, zone = self.skip_spaces(), self.take("UTC")
            if zone != "UTC":
                raise self.error("UTC", start)
        self.take_exactly("]")
        return pa.timestamp("us", zone)

    def unit(self) -> None:
        """Read the unit of times, which must be microseconds."""
        start = self.skip_spaces()
        if self.take("us") != "us":
            raise self.error("us: times are microseconds everywhere", start)

    def decimal(self) -> pa.DataType:
        """Read a decimal's precision and scale."""
        self.take_exactly("(")
        precision = self.take("a precision")
        self.take_exactly(",")
        scale = self.take("a scale")
        self.take_exactly(")")
        if not (precision.isdigit() and scale.isdigit() and 1 <= int(precision) <= 38 and int(scale) <= int(precision)):
            raise DataKeyError.because(f"Arrow type '{self.text}': expected decimal128(1…38, 0…precision)")
        return pa.decimal128(int(precision), int(scale))

    def skip_spaces(self) -> int:
        """Move to the next character that is not a space, and give its position."""
        spaces = _SPACES.match(self.text, self.at)
        self.at = spaces.end() if spaces else self.at
        return self.at

    def peek(self) -> str | None:
        """Give the next token, or a single character that starts no token; None at the end."""
        start = self.skip_spaces()
        token = _TOKEN.match(self.text, start)
        return token[0] if token else self.text[start : start + 1] or None

    def take(self, expected: str) -> str:
        """Read any token."""
        token = self.peek()
        if token is None or not _TOKEN.fullmatch(token):
            raise self.error(expected)
        self.at += len(token)
        return token

    def skip(self, token: str) -> bool:
        """Read the next token if it equals `token`."""
        if self.peek() != token:
            return False
        self.at += len(token)
        return True

    def take_exactly(self, *tokens: str) -> None:
        """Read exactly these tokens."""
        for token in tokens:
            if not self.skip(token):
                raise self.error(f"'{token}'")

    def error(self, expected: str, at: int | None = None) -> DataKeyError:
        """Build the error for a missing token. at: its position, None for the next character."""
        at = self.skip_spaces() if at is None else at
        return DataKeyError.because(f"Arrow type '{self.text}' at character {at + 1}: expected {expected}")

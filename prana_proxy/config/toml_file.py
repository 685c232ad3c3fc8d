"""Reads TOML files into frozen dataclasses; errors name the file, the line and the field.

Every error reads `homepage.toml, line 14: as_of.viewing_history.max_age: Expected …`.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from itertools import repeat
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from prana_proxy.config.toml_lines import TomlPath, lines_of, unfinished_string
from schemas.errors import ConfigError, DeloreanError

MAX_BYTES = 1 << 20  # files are written by hand
TomlPlace: TypeAlias = "str | TomlPath"
"""A place in a file: `as_of.my_list.max_age`, `encoders[1].rename`; or a tuple of names, which may contain anything."""

_T = TypeVar("_T")
_STEP = re.compile(r'\.?("(?:\\.|[^"\\])*"|[^.\[\]"]+)|\[(\d+)\]')
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_TOML_TYPES = {"object": "table", "str": "string", "int": "integer", "bool": "boolean"}


def read_toml(path: str | Path, kind: type[_T]) -> _T:
    """Read a TOML file as a frozen dataclass. Raises ConfigError that names the file, the line and the field."""
    return TomlFile.read(path).build(kind)


@dataclass(frozen=True)
class TomlContent:
    """The content of a TOML file, without the file: errors name the field.

    >>> TomlContent({"spread": {"limit": "PT5M", "beyond": "dorp"}}).error("spread.beyond", "is 'dorp'", "write 'drop'")
    ConfigError("spread.beyond: is 'dorp' → write 'drop'")
    """

    content: Mapping[str, Any]

    def build(self, kind: type[_T]) -> _T:
        """Convert all of it to a dataclass.

        Raises ConfigError: a field is unknown, missing or of a wrong type, or a dataclass's own check rejects it. The
        place of such a check's error is its table, or a field if the message begins with its name:
        `fraction is 1.5, expected …`.
        """
        self._refuse_unknown(self.content, kind, ())
        try:
            return msgspec.convert(self.content, kind)
        except (msgspec.ValidationError, DeloreanError) as error:
            steps, cause = _innermost(self.content, kind, ()) or ((), error)
            raise self._error_at(steps, cause) from error

    def error(self, place: TomlPlace, problem: object, hint: str | None = None) -> ConfigError:
        """Build an error about a field, which may be missing; () is the file."""
        return ConfigError.because(f"{self._whereabouts(place)}{problem}", hint)

    @contextmanager
    def at(self, place: TomlPlace) -> Iterator[None]:
        """Add a place to the errors of a later check: a field, or a table as in `build`. Do not nest it."""
        try:
            yield
        except DeloreanError as error:
            raise self._error_at(_steps_of(place) if isinstance(place, str) else place, error) from error

    def _whereabouts(self, place: TomlPlace) -> str:
        text = place if isinstance(place, str) else place_of(place)
        return f"{text}: " if text else ""

    def _refuse_unknown(self, value: Any, annotation: Any, steps: TomlPath) -> None:
        for kind in _alternatives(annotation):
            if isinstance(value, Mapping) and is_dataclass(kind):
                names = [field.name for field in fields(kind)]
                for name in value:
                    if name not in names:
                        raise self.error((*steps, name), ConfigError.unknown("field", name, names))
        for step, inner, kind in _inner(value, annotation):
            self._refuse_unknown(inner, kind, (*steps, step))

    def _error_at(self, steps: TomlPath, error: Exception) -> ConfigError:
        if not isinstance(error, msgspec.ValidationError):
            return self.error((*steps, *_subject(error, self.content, steps)), error)
        problem = str(error).partition(" - at ")[0]
        if missing := _MISSING.fullmatch(problem):
            return self.error((*steps, missing[1]), "is missing", "add it")
        return self.error(steps, re.sub(r"`[^`]+`", _toml_types, problem))


@dataclass(frozen=True)
class TomlFile(TomlContent):
    """A TOML file that was read, kept so that later checks can name its lines too.

    path: as the user wrote it
    lines: of each place in it
    """

    path: str | Path
    lines: Mapping[TomlPath, int]

    @classmethod
    def read(cls, path: str | Path) -> TomlFile:
        """Read a file. Raises ConfigError if it cannot be read, is larger than 1 MiB or is not TOML."""
        return cls.of(content_of(path), path)

    @classmethod
    def of(cls, data: bytes, path: str | Path) -> TomlFile:
        """Parse a file's content. Raises ConfigError as `read` does."""
        if len(data) > MAX_BYTES:
            raise ConfigError.because(f"{path}: is larger than {MAX_BYTES} bytes", "name a TOML file")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigError.because(f"{path}, line {line}: is not TOML: is not UTF-8: {error.reason}") from error
        try:
            return cls(tomllib.loads(text), path, lines_of(text))
        except (ValueError, RecursionError) as error:
            raise ConfigError.because(f"{path}, line {_line_of(error, text)}: is not TOML: {error}") from error

    def line(self, place: TomlPlace) -> int:
        """Return the line, from 1, of a field; of a missing one the line of its table.

        place: `as_of."a name".max_age`, `encoders[1]`; names of letters, digits, _ and - need no quotes
        """
        steps = _steps_of(place) if isinstance(place, str) else place
        while steps not in self.lines:
            steps = steps[:-1]
        return self.lines[steps]

    def _whereabouts(self, place: TomlPlace) -> str:
        return f"{self.path}, line {self.line(place)}: {super()._whereabouts(place)}"


def content_of(path: str | Path) -> bytes:
    """Read a TOML file, up to a byte more than its largest size. Raises ConfigError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "name a file that exists" if isinstance(error, FileNotFoundError | IsADirectoryError) else None
        raise ConfigError.because(f"{path}: cannot be read: {error.strerror}", hint) from error


def toml_files_in(folder: str | Path) -> list[Path]:
    """List the TOML files of a folder, sorted. Raises ConfigError if it cannot be listed, unlike `Path.glob`."""
    try:
        return sorted(Path(folder, name) for name in os.listdir(folder) if name.endswith(".toml"))
    except OSError as error:
        raise ConfigError.because(
            f"folder {folder} cannot be listed: {error.strerror}", "name a folder that exists and is readable"
        ) from error


def place_of(steps: TomlPath) -> str:
    """Format a path as users write it.

    >>> place_of(("encoders", 1, "rename", "minutes watched"))
    'encoders[1].rename."minutes watched"'
    """
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _BARE.fullmatch(step) else json.dumps(step, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


def _steps_of(place: str) -> TomlPath:
    return tuple(
        int(index) if index else json.loads(name) if name.startswith('"') else name
        for name, index in _STEP.findall(place)
    )


def _alternatives(annotation: Any) -> Sequence[Any]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _inner(value: Any, annotation: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """Yield each step into a value, the inner value, and its annotation."""
    for kind in _alternatives(annotation):
        arguments, origin = get_args(kind), get_origin(kind)
        if isinstance(value, Mapping) and is_dataclass(kind):
            hints = get_type_hints(kind, include_extras=True)
            yield from ((name, inner, hints[name]) for name, inner in value.items() if name in hints)
        elif isinstance(value, Mapping) and isinstance(origin, type) and issubclass(origin, Mapping):
            yield from ((name, inner, arguments[1]) for name, inner in value.items())
        elif isinstance(value, list) and isinstance(origin, type) and issubclass(origin, Sequence):
            each = arguments if origin is tuple and arguments[1:] != (...,) else repeat(arguments[0])
            yield from ((i, inner, kind) for i, (inner, kind) in enumerate(zip(value, each, strict=False)))


def _innermost(value: Any, annotation: Any, steps: TomlPath) -> tuple[TomlPath, Exception] | None:
    """Find the innermost value that cannot be converted; msgspec reports no place for a dataclass's own check."""
    for step, inner, kind in _inner(value, annotation):
        if innermost := _innermost(inner, kind, (*steps, step)):
            return innermost
    try:
        msgspec.convert(value, annotation)
    except (msgspec.ValidationError, DeloreanError) as error:
        return steps, error
    return None


def _toml_types(types: re.Match[str]) -> str:
    """Replace types' names by TOML's, which has no null."""
    names = types[0].strip("`").split(" | ")
    return f"`{' | '.join(_TOML_TYPES.get(name, name) for name in names if name != 'null')}`"


def _subject(error: Exception, content: Any, steps: TomlPath) -> TomlPath:
    """Find the field of a table that an error's message begins with, possibly after `experiment 'homepage': `."""
    with suppress(LookupError, TypeError):  # the table may be missing
        for step in steps:
            content = content[step]
        for name in content if isinstance(content, Mapping) else ():
            if re.match(rf"(?:[^:→]*: )?'?{re.escape(name)}\b", str(error)):
                return (name,)
    return ()


def _line_of(error: Exception, text: str) -> int:
    """Find the line that `tomllib` rejects: the one in its message, or else the first after which parsing fails."""
    if place := re.search(r"\(at line (\d+), column \d+\)$", str(error)):
        return int(place[1])
    lines = text.removesuffix("\n").split("\n")
    if isinstance(error, tomllib.TOMLDecodeError):  # at the end of the document
        return unfinished_string(text) or len(lines)

    def fails(count: int) -> bool:
        start = "\n".join(lines[:count])
        try:
            tomllib.loads(start)
            lines_of(start)
        except tomllib.TOMLDecodeError:  # a value continues
            return False
        except (ValueError, RecursionError):
            return True
        return False

    return bisect_left(range(len(lines) + 1), True, key=fails)

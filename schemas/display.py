"""How things show themselves: one description each, drawn as HTML in notebooks and written as text elsewhere.

Whatever comes from data is escaped here, and whatever may be long is cut here, so that no display need think of either.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Any, Final, Protocol, runtime_checkable

from schemas.errors import DeloreanError
from schemas.plain_text import escape, plain_text
from schemas.strict_json import json_text

MOST_ROWS: Final = 30  # of a table; how many more there are is said
_LONGEST: Final = 200  # characters of a value
_LONGEST_IN_TEXT: Final = 60
_LONGEST_CODE: Final = 64


@runtime_checkable
class Part(Protocol):
    """What a display is made of. Those of `schemas.drawing` may stand in a table's cell too."""

    def html(self) -> str:
        """Draw it for a page."""

    def text(self) -> str:
        """Write it for a terminal."""


@dataclass(frozen=True)
class Code:
    """Text as it stands in a program."""

    source: str

    def html(self) -> str:
        """Draw it."""
        return f'<span class="dl-code" title="{escape(self.source)}">{escape(_cut(self.source, _LONGEST_CODE))}</span>'

    def text(self) -> str:
        """Write it."""
        return plain_text(self.source)


@dataclass(frozen=True)
class Note:
    """A line for the reader. strong: it must not be missed."""

    said: str
    strong: bool = False

    def html(self) -> str:
        """Draw it."""
        said = escape(self.said)
        return f"<p><strong>{said}</strong></p>" if self.strong else f'<p class="dl-soft">{said}</p>'

    def text(self) -> str:
        """Write it."""
        return plain_text(self.said)


@dataclass(frozen=True)
class Facts:
    """Names, and what is known of each."""

    known: Mapping[str, Any]

    def html(self) -> str:
        """Draw it."""
        rows = "".join(f"<tr><th>{escape(name)}</th>{_cell(value)}</tr>" for name, value in self.known.items())
        return f'<div class="dl-scroll"><table class="dl-facts"><tbody>{rows}</tbody></table></div>'

    def text(self) -> str:
        """Write it."""
        known = {plain_text(name): value for name, value in self.known.items()}
        wide = max(map(len, known), default=0)
        return "\n".join(f"{name.ljust(wide)}  {_in_text(value, _LONGEST)}" for name, value in known.items())


@dataclass(frozen=True)
class Table:
    """Rows of named values, the first ones of many; columns without any value are left out.

    of: how many rows there are, where not all are given
    """

    rows: Sequence[Mapping[str, Any]]
    title: str = ""
    of: int | None = None

    def html(self) -> str:
        """Draw it; of no rows nothing.

        >>> "a&lt;b" in Table([{"name": "a<b"}]).html()
        True
        """
        if not self.rows:
            return ""
        head = "".join(f"<th{self._side(name)}>{escape(name.replace('_', ' '))}</th>" for name in self._names)
        body = "".join(
            "<tr>" + "".join(_cell(row.get(name)) for name in self._names) + "</tr>" for row in self.rows[:MOST_ROWS]
        )
        caption = f'<p class="dl-caption">{escape(self.title)}</p>' if self.title else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'{caption}<div class="dl-scroll">{table}</div>{self._rest and Note(self._rest).html()}'

    def text(self) -> str:
        """Write it; of no rows nothing.

        >>> print(Table([{"name": "ab", "count": 1234}, {"name": "c", "count": 5}]).text())
        name  count
        ab    1,234
        c         5
        """
        if not self.rows:
            return ""
        shown = [{name: _in_text(row.get(name)) for name in self._names} for row in self.rows[:MOST_ROWS]]
        titles = {name: _one_line(name.replace("_", " ")) for name in self._names}
        wide = {name: max(len(titles[name]), *(len(row[name]) for row in shown)) for name in self._names}
        lines = [
            "  ".join(self._aligned(name, row[name], wide[name]) for name in self._names) for row in (titles, *shown)
        ]
        return "\n".join([*filter(None, [self.title]), *(line.rstrip() for line in lines), *filter(None, [self._rest])])

    @property
    def _names(self) -> list[str]:
        rows = self.rows[:MOST_ROWS]
        return list(
            dict.fromkeys(name for row in rows for name, value in row.items() if value is not None and value != "")
        )

    @property
    def _rest(self) -> str:
        more = (len(self.rows) if self.of is None else self.of) - min(len(self.rows), MOST_ROWS)
        return f"… and {more:,} more" if more > 0 else ""

    def _is_number(self, name: str) -> bool:
        return all(_number(row.get(name)) or row.get(name) is None for row in self.rows[:MOST_ROWS])

    def _side(self, name: str) -> str:
        return ' class="dl-n"' if self._is_number(name) else ""

    def _aligned(self, name: str, text: str, wide: int) -> str:
        return text.rjust(wide) if self._is_number(name) else text.ljust(wide)


@dataclass(frozen=True)
class Headline:
    """What a thing is, in a line: `snapshot run 2026-01-05: 3 services, …`."""

    kind: str
    name: str
    said: str

    def text(self) -> str:
        """Write it."""
        return plain_text(f"{self.kind} {self.name}: {self.said}".strip())

    def html(self) -> str:
        """Draw it."""
        kind = f'<span class="dl-kind">{escape(self.kind)}</span> ' if self.kind else ""
        return f'<p class="dl-head">{kind}<strong>{escape(self.name)}</strong> {escape(self.said)}</p>'


class Displayed:
    """What shows itself: as HTML in notebooks, by `print` and in terminals as text, by `repr` in a line.

    Showing never raises an error of ours: what cannot be shown is said. A dataclass that is one has `repr=False`.
    """

    @abstractmethod
    def _headline(self) -> Headline:
        """Say what it is, without reading anything."""

    @abstractmethod
    def _parts(self) -> Iterator[Part]:
        """Give what is shown below the headline, in order."""

    def __repr__(self) -> str:
        """Say what it is in a line."""
        return self._headline().text()

    def __str__(self) -> str:
        """Write all of it."""
        written = (part.text() for part in self._shown())
        return "\n\n".join([self._headline().text(), *filter(None, written)])

    def _repr_html_(self) -> str:
        """Draw it for a notebook."""
        return framed(self._headline(), *self._shown())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Write it for IPython, in a line where it is part of something else."""
        whole = not cycle and len(printer.stack) == 1
        printer.text(str(self) if whole else repr(self))

    def _shown(self) -> Iterator[Part]:
        try:
            yield from self._parts()
        except DeloreanError as error:
            yield Note(f"the rest cannot be shown: {error}", strong=True)


def framed(*parts: Part) -> str:
    """Draw parts as one piece of HTML in the look that all displays have."""
    return f'<div class="dl">{_style()}{"".join(part.html() for part in parts)}</div>'


@cache
def _style() -> str:
    return f"<style>{files('schemas').joinpath('display.css').read_text(encoding='utf-8')}</style>"


def value_text(value: Any, longest: int = _LONGEST) -> str:
    """Write a value for people: numbers with few digits, times in UTC, nested values as JSON; cut where it is long."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Mapping | list | tuple):
        if value and not isinstance(value, Mapping) and all(isinstance(each, str) for each in value):
            return _cut(", ".join(value), longest)
        return _cut(json_text(value), longest)
    return _cut(str(value.value if isinstance(value, Enum) else value), longest)


def _cell(value: Any) -> str:
    if isinstance(value, Part):
        return f"<td>{value.html()}</td>"
    if _number(value):
        return f'<td class="dl-n">{value_text(value)}</td>'
    shown = escape(value_text(value))
    return f'<td class="dl-long">{shown}</td>' if len(shown) > _LONGEST_IN_TEXT else f"<td>{shown}</td>"


def _in_text(value: Any, longest: int = _LONGEST_IN_TEXT) -> str:
    shown = value.text() if isinstance(value, Part) else value_text(value, longest)
    return _cut(_one_line(shown), longest)


def _one_line(text: str) -> str:
    return plain_text(" ".join(text.split("\n")))


def _number(value: Any) -> bool:
    return isinstance(value, int | float | timedelta) and not isinstance(value, bool)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"

"""Renders descriptions as HTML, for notebooks and pages.

Hand-written rather than by a library of tables: everything from data is escaped here, and cells may hold drawings.
"""

from __future__ import annotations

from functools import cache, singledispatch
from importlib.resources import files
from typing import Any

from delorean.display import drawings
from delorean.display.description import describe
from delorean.display.formats import cut, escape, is_number, value_text
from delorean.display.parts import (
    Code,
    Facts,
    Graph,
    Headline,
    HeatMap,
    Histogram,
    Inline,
    IntervalMark,
    Note,
    ShareBar,
    Table,
)

_LONG_CELL = 60  # characters from which on a cell's text may wrap
_LONGEST_CODE = 64

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def to_html(thing: object) -> str:
    """Render a thing's description as one element that brings its own style."""
    return f'<div class="dl">{_style()}{"".join(map(part_html, describe(thing)))}</div>'


def to_page(thing: object, title: str) -> str:
    """Render a thing's description as a page that needs no other file."""
    return _PAGE.format(title=escape(title), body=to_html(thing))


@singledispatch
def part_html(part: Any) -> str:
    """Render one part."""
    raise TypeError(f"{part!r} is not a part of a description")


part_html.register(Graph, drawings.graph_svg)
part_html.register(HeatMap, drawings.heat_map_html)
part_html.register(Histogram, drawings.histogram_svg)
part_html.register(IntervalMark, drawings.interval_svg)
part_html.register(ShareBar, drawings.share_bar_html)


@part_html.register
def _headline(headline: Headline) -> str:
    name, colon, rest = escape(headline.line).partition(": ")
    return f'<p class="dl-head"><strong>{name}</strong>{colon}{rest}</p>'


@part_html.register
def _note(note: Note) -> str:
    sentence = escape(note.sentence)
    return f"<p><strong>{sentence}</strong></p>" if note.strong else f'<p class="dl-soft">{sentence}</p>'


@part_html.register
def _code(code: Code) -> str:
    return f'<span class="dl-code" title="{escape(code.source)}">{escape(cut(code.source, _LONGEST_CODE))}</span>'


@part_html.register
def _facts(facts: Facts) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th>{_cell(value)}</tr>" for name, value in facts.values.items())
    return f'<div class="dl-scroll"><table class="dl-facts"><tbody>{rows}</tbody></table></div>'


@part_html.register
def _table(table: Table) -> str:
    """Render a table; one without rows as nothing."""
    if not table.rows:
        return ""
    head = "".join(f"<th{_alignment(table, name)}>{escape(name.replace('_', ' '))}</th>" for name in table.columns)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in table.columns)}</tr>" for row in table.first)
    caption = f'<p class="dl-caption">{escape(table.title)}</p>' if table.title else ""
    rows = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{caption}<div class="dl-scroll">{rows}</div>{table.remainder and part_html(Note(table.remainder))}'


def _alignment(table: Table, column: str) -> str:
    return ' class="dl-n"' if table.is_numeric(column) else ""


def _cell(value: Any) -> str:
    if isinstance(value, Inline):
        return f"<td>{part_html(value)}</td>"
    if is_number(value):
        return f'<td class="dl-n">{value_text(value)}</td>'
    text = escape(value_text(value))
    return f'<td class="dl-long">{text}</td>' if len(text) > _LONG_CELL else f"<td>{text}</td>"


@cache
def _style() -> str:
    return f"<style>{files('delorean.display').joinpath('display.css').read_text(encoding='utf-8')}</style>"

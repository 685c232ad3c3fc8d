"""Renders descriptions as text, for terminals, logs and plain Python."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from functools import singledispatch
from io import StringIO
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from delorean.display.description import describe
from delorean.display.formats import cut, share_text, value_text
from delorean.display.parts import (
    Code,
    Facts,
    Graph,
    GraphNode,
    Headline,
    HeatMap,
    Inline,
    IntervalMark,
    Note,
    ShareBar,
    Table,
)
from schemas.plain_text import plain_text

_NO_WRAP: Final = 100_000  # columns: into files and pipes a row is one line
_LONGEST_CELL: Final = 80
_LONGEST_FACT: Final = 10_000
_BAR: Final = 10  # columns of a full bar
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SHADES: Final = ((1.0, "█"), (0.9, "▓"), (0.6, "▒"), (0.0, "░"))
_MOST_FIGURES: Final = 14  # columns of a heat map; more are written as shades
_FEW_LABELS: Final = 5


def show(thing: object) -> None:
    """Print all that there is to show of a thing, where `repr` is one line.

    thing: a result, record, view, encoder or anything else of this project; in a notebook the last line of a cell is
        shown without it
    """
    if sys.stdout.isatty():
        _print(thing, Console(highlight=False, force_jupyter=False))
    else:
        sys.stdout.write(to_text(thing) + "\n")


def to_text(thing: object) -> str:
    """Render a thing's description as text without colours."""
    console = Console(file=StringIO(), force_jupyter=False, width=_NO_WRAP, highlight=False, color_system=None)
    with console.capture() as captured:
        _print(thing, console)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def _print(thing: object, console: Console) -> None:
    first = True
    for part in describe(thing):
        rendered = renderables(part)
        if rendered and not first:
            console.print()
        for each in rendered:
            console.print(each, soft_wrap=isinstance(each, Text))
            first = False


@singledispatch
def renderables(part: Any) -> list[RichTable | Text]:
    """What to print of a part, one below the other; nothing of an empty one. Text from data is never markup."""
    raise TypeError(f"{part!r} is not a part of a description")


@renderables.register
def _headline(headline: Headline) -> list[RichTable | Text]:
    return [Text(plain_text(headline.line), style="bold")]


@renderables.register
def _note(note: Note) -> list[RichTable | Text]:
    return [Text(plain_text(note.sentence), style="bold" if note.strong else "")]


@renderables.register
def _facts(facts: Facts) -> list[RichTable | Text]:
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.values.items():
        grid.add_row(_label(name), Text(cell_text(value, _LONGEST_FACT)))
    return [grid] if facts.values else []


@renderables.register
def _table(table: Table) -> list[RichTable | Text]:
    """Render the title and the remainder as lines of their own: rich would wrap them to the table's width."""
    if not table.rows:
        return []
    rendered = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in table.columns:
        rendered.add_column(
            _label(name.replace("_", " ")), justify="right" if table.is_numeric(name) else "left", overflow="fold"
        )
    for row in table.first:
        rendered.add_row(*(Text(cell_text(row.get(name), _LONGEST_CELL)) for name in table.columns))
    title = [_label(table.title)] if table.title else []
    remainder = [Text(table.remainder)] if table.remainder else []
    return [*title, rendered, *remainder]


@renderables.register
def _heat_map(heat: HeatMap) -> list[RichTable | Text]:
    """Render figures, or shades where there are many columns and nothing but shares."""
    if heat.has_details or len(heat.columns) <= _MOST_FIGURES:
        return [Text(_line(heat.caption)), *_table(Table(list(_heat_rows(heat)), most=None))]
    names = [_line(" ".join(filter(None, key))) for key in heat.cells]
    width = max(map(len, names), default=0)
    lines = [
        heat.caption,
        f"{''.ljust(width)} {heat.columns[0]} … {heat.columns[-1]}  █ all ▓ ≥ 90% ▒ ≥ 60% ░ less · none",
    ]
    for name, row in zip(names, heat.cells.values(), strict=True):
        shades = "".join(_shade(row[column].share if column in row else None) for column in heat.columns)
        lines.append(f"{name.ljust(width)} {shades}")
    return [Text(plain_text("\n".join(lines)))]


def _heat_rows(heat: HeatMap) -> Iterator[dict[str, Any]]:
    """A row for each column and group of the map: days are many, services few, and text has more lines than columns."""
    groups = dict.fromkeys(group for _, group in heat.cells)
    for column in heat.columns:
        for group in groups:
            cells = {name: row[column] for (name, of), row in heat.cells.items() if of == group and column in row}
            texts = {name: " · ".join(filter(None, (share_text(c.share), c.detail))) for name, c in cells.items()}
            if texts:
                yield {"": column, **({} if group is None else {" ": group}), **texts}


@renderables.register
def _graph(graph: Graph) -> list[RichTable | Text]:
    """Render a line for each node of the second column, and of those from the fourth: its inputs and outputs."""
    nodes = [node for place, (_, each) in enumerate(graph.columns) if place == 1 or place > 2 for node in each]
    lines = [[_neighbours(graph, node, 1), node.label, _neighbours(graph, node, 0)] for node in nodes]
    return [Text("\n".join(_line(" → ".join(filter(None, line))) for line in lines))] if lines else []


def _neighbours(graph: Graph, node: GraphNode, end: int) -> str:
    """The labels of a node's inputs (end 1) or outputs (end 0), the first few."""
    labels = {each.name: each.label for _, nodes in graph.columns for each in nodes}
    beside = [labels[edge[1 - end]] for edge in graph.edges if edge[end] == node.name and edge[1 - end] in labels]
    return ", ".join(
        beside if len(beside) <= _FEW_LABELS else [*beside[:_FEW_LABELS], f"{len(beside) - _FEW_LABELS} more"]
    )


def cell_text(value: Any, longest: int) -> str:
    """Format a value, or what may stand in its place, as one line.

    >>> from delorean.display.parts import Histogram
    >>> cell_text(ShareBar(0.85), 80), cell_text(Histogram([0, 1, 4, 8]), 80), cell_text(1234, 80)
    ('████████▌  85.0%', ' ▁▄█', '1,234')
    """
    if isinstance(value, Inline):
        value = _inline_text(value)
    return cut(_line(value_text(value, longest)), longest)


def _inline_text(value: Inline) -> str:
    if isinstance(value, Code):
        return value.source
    if isinstance(value, ShareBar):
        if value.value is None:
            return "-"
        halves = round(min(max(value.value, 0), 1) * 2 * _BAR)
        return f"{('█' * (halves // 2) + '▌' * (halves % 2)).ljust(_BAR)} {share_text(value.value)}"
    if isinstance(value, IntervalMark):
        return _interval_text(value)
    most = max(value.counts, default=0)
    if not most:
        return "-"
    return "".join(_BLOCKS[math.ceil(count / most * 8) - 1] if count else " " for count in value.counts)


def _label(name: str) -> Text:
    return Text(_line(name), style="bold")


def _line(text: str) -> str:
    return plain_text(" ".join(text.split("\n")))


def _shade(share: float | None) -> str:
    if share is None:
        return " "
    return next((shade for least, shade in _SHADES if share >= least and share > 0), "·")


def _interval_text(mark: IntervalMark) -> str:
    """Draw a dot and its interval as a line, with 0 marked, on a scale of as many columns as two bars have."""
    columns = 2 * _BAR
    line = [" "] * (columns + 1)
    zero = round(columns * mark.place(0.0)) if mark.start < 0 < mark.end else None
    if zero is not None:
        line[zero] = "·"
    if mark.low is not None and mark.high is not None:
        first, last = (round(columns * mark.place(value)) for value in (mark.low, mark.high))
        line[first : last + 1] = "─" * (last + 1 - first)
        if zero is not None and first <= zero <= last:
            line[zero] = "┼"
    line[round(columns * mark.place(mark.value))] = "●"
    return "".join(line)

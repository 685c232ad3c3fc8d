"""What commands print: one document each, as tables for people or as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any

from snapshotter.progress_bars import progress

_WIDTH = 160  # where no terminal says how wide it is
_LONGEST = 80  # characters of a nested value in a table


@dataclass(frozen=True)
class Output:
    """Renders documents: fields, and under some of them rows.

    as_json: one JSON object on stdout and nothing else there
    """

    as_json: bool

    def show(self, document: Mapping[str, Any]) -> None:
        """Print a document. Lists of mappings, and mappings of mappings, become tables."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, default=_plain, ensure_ascii=False) + "\n")
            return
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
        fields = {name: value for name, value in document.items() if _rows(value) is None}
        if fields:
            console.print(_grid(fields))
        for name, value in document.items():
            rows = _rows(value)
            if rows is not None:
                console.print(_table(name, rows) if rows else f"[bold]{name.replace('_', ' ')}[/]: none")

    def progress(self) -> AbstractContextManager[Callable[[str, int, int], None]]:
        """Give a function of (what, done, all) that tells people on stderr how far it is, whatever stdout is for."""
        return progress()


def _rows(value: Any) -> list[Mapping[str, Any]] | None:
    """See a value as a table's rows, if it is one."""
    if isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
        return [{"": name, **row} for name, row in value.items()]
    if isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value):
        return list(value)
    return None


def _grid(fields: Mapping[str, Any]) -> Any:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in fields.items():
        grid.add_row(f"[bold]{name.replace('_', ' ')}[/]", _text(value, longest=10_000))
    return grid


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(
        title=title.replace("_", " "), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in columns:
        numbers = all(isinstance(row.get(name, 0), int | float) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in columns))
    return table


def _text(value: Any, longest: int = _LONGEST) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):  # of enumerations too, which are their value
        text = str(value)
    elif isinstance(value, datetime):
        text = value.isoformat(sep=" ").replace("+00:00", "Z")
    elif isinstance(value, date | Enum | bytes):
        text = str(_plain(value))
    elif isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        text = ", ".join(value)
    else:
        text = json.dumps(value, default=_plain, ensure_ascii=False)
    return escape(text if len(text) <= longest else text[: longest - 1] + "…")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    return str(value)

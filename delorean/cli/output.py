"""What commands print: one document each, as tables for people or as JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.plain_text import plain_text
from schemas.strict_json import json_text, plain_value
from snapshotter.spark.progress import Progress, command_progress

_MARK = "DELOREAN_RESULT_MARK"  # what a scheduler has written before the object, to tell it from what others print
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
            mark = os.environ.get(_MARK)
            sys.stdout.write(f"{mark} {_json(document)}\n" if mark else f"{_json(document)}\n")
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
        fields = {name: value for name, value in document.items() if _rows(value) is None}
        if fields:
            console.print(_grid(fields))
        for name, value in document.items():
            rows = _rows(value)
            if rows is not None:
                console.print(_table(name, rows) if rows else _label(name) + Text(": none"))

    def progress(self) -> AbstractContextManager[Progress]:
        """Give a function of (what, done, all) that tells people on stderr how far it is, whatever stdout is for."""
        return command_progress()


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
        grid.add_row(_label(name), _text(value, longest=10_000))
    return grid


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=_label(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        numbers = all(isinstance(row.get(name, 0), int | float) for row in rows)
        table.add_column(_label(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in columns))
    return table


def _label(name: str) -> Any:
    """Write a field's name; whatever is in it, it is no markup."""
    from rich.text import Text

    return Text(plain_text(str(name).replace("_", " ")), style="bold")


def _text(value: Any, longest: int = _LONGEST) -> Any:
    """Write a value; whatever is in it, it is no markup."""
    from rich.text import Text

    if value is None:
        text = "-"
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, str):  # of enumerations too, which are their value
        text = str(value)
    elif isinstance(value, datetime):
        text = value.isoformat(sep=" ").replace("+00:00", "Z")
    elif isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        text = ", ".join(value)
    else:
        plain = plain_value(value)
        text = plain if isinstance(plain, str) else json_text(plain)
    return Text(plain_text(text if len(text) <= longest else text[: longest - 1] + "…"))


def _json(document: Mapping[str, Any]) -> str:
    everything = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json_text(document, ascii_only=not everything)

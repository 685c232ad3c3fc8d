"""Shows things in Zeppelin, which renders `%table` and `%html` but neither Arrow nor IPython's formatters.

Importing it also keeps the source of paragraphs that run afterwards, which encoders need and the plain PySpark
interpreter does not keep.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from delorean.display.description import is_described
from delorean.display.html import to_html
from encoders.source.prompt_source import keep_prompt_sources
from schemas.strict_json import json_text
from schemas.tables import python_rows

_MOST_ROWS = 1000

keep_prompt_sources()


def show(thing: Any, rows: int = _MOST_ROWS) -> None:
    """Print something in a form that Zeppelin renders.

    thing: frames (Arrow, Polars, pandas, Spark) and lists of dicts become tables; what notebooks show as HTML becomes
        HTML; anything else text
    rows: how many of a table at most
    """
    print(to_directive(thing, rows))  # noqa: T201  # Zeppelin reads stdout


def to_directive(thing: Any, rows: int = _MOST_ROWS) -> str:
    """Give what `show` prints.

    >>> to_directive(pa.table({"film": ["a\\tb", "%html <b>"], "minutes": [1.5, None]}))
    '%table film\\tminutes\\na b\\t1.5\\n %html <b>\\t'
    """
    if isinstance(thing, list) and thing and all(isinstance(row, dict) for row in thing):
        thing = pa.Table.from_pylist(thing)
    table = None if is_described(thing) else _table(thing, rows)
    if table is not None:
        return _table_text(table, rows)
    html = to_html(thing) if is_described(thing) else _html_of_others(thing)
    if html is not None:
        return f"%html {_guarded(html)}"
    return f"%text {_guarded(thing if isinstance(thing, str) else repr(thing))}"


def _html_of_others(thing: Any) -> str | None:
    """What another library's object shows in notebooks; None if it has no HTML."""
    render = getattr(thing, "_repr_html_", None)
    return None if render is None else render()


def _table(thing: Any, rows: int) -> pa.Table | None:
    """A frame's first rows, and one more if there are more; None for anything else."""
    if hasattr(thing, "sparkSession"):
        first: pa.Table = thing.limit(rows + 1).toArrow()
        return first
    if isinstance(thing, pa.Table | pa.RecordBatch) or hasattr(thing, "__arrow_c_stream__"):
        return pa.table(thing).slice(0, rows + 1)
    return None


def _table_text(table: pa.Table, rows: int) -> str:
    lines = ["\t".join(_cell(name) for name in table.column_names)]
    lines += ["\t".join(map(_cell, row.values())) for row in python_rows(table.slice(0, rows))]
    more = f"\n\n%text the first {rows:,} rows" if table.num_rows > rows else ""
    return "%table " + "\n".join(lines) + more


def _cell(value: Any) -> str:
    """Write a value in one cell: a tab or newline would begin another cell, a leading % another display."""
    if isinstance(value, dict | list):
        value = json_text(value)
    text = "" if value is None else " ".join(str(value).split("\t"))
    text = " ".join(text.splitlines())
    return f" {text}" if text.startswith("%") else text


def _guarded(text: str) -> str:
    """Put a space before a % that begins a line: it would begin another display."""
    return text.replace("\n%", "\n %")

"""Shows things in Zeppelin, whose paragraphs know `%table` and `%html` but neither Arrow nor `_repr_html_`.

Importing it also keeps the source of paragraphs that are run from then on, which encoders need and the plain PySpark
interpreter does not keep.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from encoders.source.prompt_source import keep_prompt_sources
from schemas.strict_json import json_text
from schemas.tables import python_rows

_MOST_ROWS = 1000

keep_prompt_sources()


def show(thing: Any, rows: int = _MOST_ROWS) -> None:
    """Print something such that Zeppelin shows it.

    thing: frames (Arrow, Polars, pandas, Spark) and lists of dicts become tables; what notebooks show as HTML is shown
        as that; anything else as its text
    rows: how many of a table at most
    """
    print(shown(thing, rows))  # noqa: T201  # so Zeppelin is told


def shown(thing: Any, rows: int = _MOST_ROWS) -> str:
    """Give what `show` prints.

    >>> shown(pa.table({"film": ["a\\tb", "%html <b>"], "minutes": [1.5, None]}))
    '%table film\\tminutes\\na b\\t1.5\\n %html <b>\\t'
    """
    if isinstance(thing, list) and thing and all(isinstance(row, dict) for row in thing):
        thing = pa.Table.from_pylist(thing)
    table = _table(thing, rows)
    if table is not None:
        return _table_text(table, rows)
    html = getattr(thing, "_repr_html_", None)
    if html is not None and (text := html()) is not None:
        return f"%html {_guarded(text)}"
    return f"%text {_guarded(thing if isinstance(thing, str) else repr(thing))}"


def _table(thing: Any, rows: int) -> pa.Table | None:
    """Give a frame's first rows, and one more if there are more; None for what is no frame."""
    if hasattr(thing, "sparkSession"):
        found: pa.Table = thing.limit(rows + 1).toArrow()
        return found
    if isinstance(thing, pa.Table | pa.RecordBatch) or hasattr(thing, "__arrow_c_stream__"):
        return pa.table(thing).slice(0, rows + 1)
    return None


def _table_text(table: pa.Table, rows: int) -> str:
    lines = ["\t".join(_cell(name) for name in table.column_names)]
    lines += ["\t".join(map(_cell, row.values())) for row in python_rows(table.slice(0, rows))]
    more = f"\n\n%text the first {rows:,} rows" if table.num_rows > rows else ""
    return "%table " + "\n".join(lines) + more


def _cell(value: Any) -> str:
    """Write a value in one cell: a tab or a line would begin another, and a % at its beginning another display."""
    if isinstance(value, dict | list):
        value = json_text(value)
    text = "" if value is None else " ".join(str(value).split("\t"))
    text = " ".join(text.splitlines())
    return f" {text}" if text.startswith("%") else text


def _guarded(text: str) -> str:
    """Let no line begin with %: another display would."""
    return text.replace("\n%", "\n %")

"""Results that people take on as a frame of their own choice, or look at as a table."""

from __future__ import annotations

import html
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from pyspark.sql import DataFrame, SparkSession


class Readable(ABC):
    """What is read as an Arrow table, and so as any other frame."""

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """Read the data."""

    def to_polars(self) -> pl.DataFrame:
        """Read the data into Polars."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)  # of a table it always is
        return frame

    def to_pandas(self) -> pd.DataFrame:
        """Read the data into pandas."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_spark(self, spark: SparkSession) -> DataFrame:
        """Read the data into Spark."""
        if not hasattr(spark, "createDataFrame"):
            raise ConfigError.mistaken("spark", spark, "a Spark session", "project.spark_session()")
        return spark.createDataFrame(self.to_arrow())


def html_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """Render rows as an HTML table for notebooks, numbers to the right; nothing for no rows.

    >>> html_table([{"name": "a<b"}])
    '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>a&lt;b</td></tr></tbody></table>'
    """
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join("<tr>" + "".join(_cell(row.get(name)) for name in names) + "</tr>" for row in rows)
    caption = f"<p><b>{html.escape(title)}</b></p>" if title else ""
    return f"{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, int | float):
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        return f'<td style="text-align: right">{shown}</td>'
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, ensure_ascii=False, default=str)
    shown = "-" if value is None else str(value.value if isinstance(value, Enum) else value)
    return f"<td>{html.escape(shown)}</td>"

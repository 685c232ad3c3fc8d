"""The parts that a description is made of. They hold data only: `html` and `text` render them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

from delorean.display.formats import is_number

MOST_ROWS: Final = 30  # of a table, if it does not say otherwise


@dataclass(frozen=True)
class Headline:
    """One line that says what a thing is, such as `snapshot run 2026-01-05: 3 services`."""

    line: str


@dataclass(frozen=True)
class Note:
    """A sentence for the reader. strong: it must not be overlooked."""

    sentence: str
    strong: bool = False


@dataclass(frozen=True)
class Code:
    """Source text, such as a query or a type."""

    source: str


@dataclass(frozen=True)
class Facts:
    """Named values, one to a line."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of named values. Columns without any value are left out.

    total: number of rows that exist, where `rows` holds only the first
    most: number of rows to render; None: all of them
    """

    rows: Sequence[Mapping[str, Any]]
    title: str = ""
    total: int | None = None
    most: int | None = MOST_ROWS

    @property
    def first(self) -> Sequence[Mapping[str, Any]]:
        """The rows to render."""
        return self.rows[: self.most]

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns that have a value."""
        return list(
            dict.fromkeys(
                name for row in self.first for name, value in row.items() if value is not None and value != ""
            )
        )

    def is_numeric(self, column: str) -> bool:
        """Whether a column holds only numbers."""
        return all(row.get(column) is None or is_number(row[column]) for row in self.first)

    @property
    def remainder(self) -> str:
        """How many rows are not rendered, in words; empty where there are none."""
        more = (len(self.rows) if self.total is None else self.total) - len(self.first)
        return f"… and {more:,} more" if more > 0 else ""


@dataclass(frozen=True)
class ShareBar:
    """A share in [0, 1] as a bar.

    value: None: there is nothing to have a share of
    enough: a smaller share is drawn in the colour of a warning
    """

    value: float | None
    enough: float = 0.0


@dataclass(frozen=True)
class IntervalMark:
    """A value and its confidence interval on a scale that the other rows of its column share.

    low, high: None: there is no interval
    start, end: of the scale
    compared: 0 means no difference; an interval on one side of it is coloured. Rows of these are a forest plot
    """

    value: float
    low: float | None
    high: float | None
    start: float
    end: float
    compared: bool = False

    @property
    def side(self) -> int:
        """On which side of 0 the interval of a difference is: 1, −1, or 0 where that is open."""
        if not self.compared or self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def place(self, value: float) -> float:
        """Where a value lies on the scale, from 0 to 1."""
        width = self.end - self.start
        return min(max((value - self.start) / width, 0.0), 1.0) if width > 0 else 0.5


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal parts of a range. tooltip: describes the range."""

    counts: Sequence[int]
    tooltip: str = ""


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map.

    share: colours it; None: unknown
    detail: a smaller line below the share
    tooltip: describes the cell in full
    """

    share: float | None
    detail: str = ""
    tooltip: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Shares by row and column, such as by service and day.

    caption: what a cell means, in a sentence
    cells: (name, group) of each row → column → its cell; a missing cell means that there is no data
    """

    caption: str
    columns: Sequence[str]
    cells: Mapping[tuple[str, str | None], Mapping[str, HeatCell]]

    @property
    def has_details(self) -> bool:
        """Whether any cell has a second line."""
        return any(cell.detail for row in self.cells.values() for cell in row.values())


@dataclass(frozen=True)
class GraphNode:
    """A node of a graph. kind: "data", "code" or "result"."""

    name: str
    label: str
    tooltip: str = ""
    kind: str = "data"


@dataclass(frozen=True)
class Graph:
    """What is computed from what, from left to right.

    columns: a title and the nodes of each
    edges: (from, to), by the nodes' names
    """

    columns: Sequence[tuple[str, Sequence[GraphNode]]]
    edges: Sequence[tuple[str, str]]


# A table's cells and the values of facts may hold these too.
Inline: TypeAlias = Code | ShareBar | IntervalMark | Histogram
Part: TypeAlias = Headline | Note | Facts | Table | HeatMap | Graph

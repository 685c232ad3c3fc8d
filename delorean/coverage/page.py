"""Draws coverage: a grid of days and elements, coloured by share, and what labels would lack."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cache
from typing import Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from delorean.coverage.result import Cell, DayCoverage, LabelCoverage
from delorean.coverage.search import REASONS

# Colours of these shares, and mixed between them; dark ink can be read on all of them.
_SHARES: Final = (0.0, 0.6, 0.9, 1.0)
_COLOURS: Final = np.array([(224, 141, 60), (244, 212, 168), (226, 236, 245), (139, 186, 226)])
_NOTHING: Final = "#eef1f4"
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def page(drawing: str, title: str = "Coverage") -> str:
    """Give a drawing as an HTML page that needs nothing else."""
    return _template("page.html").render(title=title, drawing=Markup(drawing))  # noqa: S704  # drawn below, escaped


def draw_days(coverage: DayCoverage) -> str:
    """Draw a row for each element and group, a column for each day."""
    return _template("days.html").render(coverage=coverage, **_grid(coverage.by_day))


def draw_labels(coverage: LabelCoverage) -> str:
    """Draw what each element's rows find, and the same day by day."""
    return _template("labels.html").render(coverage=coverage, reasons=REASONS, **_grid(coverage.by_day))


def share_text(share: float | None) -> str:
    """Write a share so that only all is 100 % and only nothing 0 %.

    >>> share_text(0.99999), share_text(1.0), share_text(0.00001), share_text(None)
    ('99.9%', '100%', '0.1%', '-')
    """
    if share is None:
        return "-"
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def span_text(seconds: float | None) -> str:
    """Write a span of time in the unit that suits it.

    >>> span_text(5400), span_text(0.25), span_text(None)
    ('1.5 h', '0.25 s', '-')
    """
    if seconds is None:
        return "-"
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def colour(share: float | None) -> str:
    """Give the colour of a share."""
    if share is None:
        return _NOTHING
    mixed = (round(float(np.interp(share, _SHARES, part))) for part in _COLOURS.T)
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _grid(cells: Sequence[Cell]) -> dict[str, object]:
    """Give the days and, for each element and group, its cells by day."""
    rows: dict[tuple[str, str | None], dict[date | None, Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.element, cell.group), {})[cell.day] = cell
    if any(group is not None for _, group in rows):  # the row of a day that had no contexts at all says nothing more
        rows = {key: row for key, row in rows.items() if key[1] is not None or any(cell.rows for cell in row.values())}
    return {"days": sorted({cell.day for cell in cells if cell.day is not None}), "grid": rows}


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("delorean.coverage", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"share": share_text, "span": span_text, "colour": colour}
    return environment.get_template(name)

"""Draws coverage: heat maps of days and elements, coloured by share, and what labels would lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from delorean.coverage.element_search import REASONS
from delorean.coverage.result import CoverageCell, DayCoverage, LabelCoverage
from schemas import drawing
from schemas.display import Note, Part, Table
from schemas.drawing import HeatMap, Share, span_text

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Coverage</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }}
</style>
</head>
<body>
<h1>Coverage</h1>
{drawing}
</body>
</html>
"""


def page(drawn: str) -> str:
    """Give a drawing as an HTML page that needs nothing else."""
    return _PAGE.format(drawing=drawn)


def parts_of_days(coverage: DayCoverage) -> Iterator[Part]:
    """Draw a row for each element and group, a column for each day."""
    yield _grid(coverage.by_day, "contexts")


def parts_of_labels(coverage: LabelCoverage) -> Iterator[Part]:
    """Draw what each element's rows find, and the same day by day."""
    spread = coverage.spread
    if spread.longest is not None:
        yield Note(
            f"Services' captures of a row are {span_text(spread.median)} apart in the median, "
            f"{span_text(spread.p95)} at the 95th percentile, {span_text(spread.longest)} at most."
        )
    if coverage.torn is not None:
        yield Note(f"{coverage.torn:,} rows are beyond the limit of their spread.", strong=coverage.torn > 0)
    reasons = [why for why in REASONS if any(why in cell.absent for cell in coverage.elements)]
    yield Table(
        [
            {
                "element": cell.element,
                "found": cell.found,
                "share": Share(cell.share, enough=0.9),
                **{why: cell.absent.get(why, 0) for why in reasons},
                "lowest_confidence": cell.lowest_confidence,
                "mean": cell.mean_confidence,
                "median_age": span_text(cell.age.median),
                "p95": span_text(cell.age.p95),
                "oldest": span_text(cell.age.longest),
                "runs": len(cell.runs),
            }
            for cell in coverage.elements
        ]
    )
    yield _grid(coverage.by_day, "label rows")


def _grid(cells: Sequence[CoverageCell], what: str) -> HeatMap:
    """Give for each element and group its cells by day."""
    rows: dict[tuple[str, str | None], dict[str, CoverageCell]] = {}
    for cell in cells:
        if cell.day is not None:
            rows.setdefault((cell.element, cell.group), {})[cell.day.isoformat()] = cell
    if any(group is not None for _, group in rows):  # the row of a day that had no contexts at all says nothing more
        rows = {key: row for key, row in rows.items() if key[1] is not None or any(cell.rows for cell in row.values())}
    return HeatMap(
        f"Each cell: share of {what} with state · lowest confidence of the runs that serve them · median age (oldest).",
        sorted({cell.day.isoformat() for cell in cells if cell.day is not None}),
        {key: {day: _drawn(cell) for day, cell in row.items()} for key, row in rows.items()},
    )


def _drawn(cell: CoverageCell) -> drawing.Cell:
    why = "".join(f", {rows} {reason}" for reason, rows in cell.absent.items())
    said = f"{cell.found} of {cell.rows}{why}; served by {', '.join(cell.runs) or 'nothing'}"
    if not cell.found:
        return drawing.Cell(cell.share, cell.chief_reason or "", said)
    confidence = "" if cell.lowest_confidence is None else f"{cell.lowest_confidence:.3g} · "
    return drawing.Cell(cell.share, f"{confidence}{span_text(cell.age.median)} ({span_text(cell.age.longest)})", said)

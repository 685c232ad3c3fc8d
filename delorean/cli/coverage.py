"""The command that plans travels: what there is to travel to, and what an experiment's labels would find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delorean.cli.options import Day, Span, TimeOfDay, json_option, opened, project_option, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.coverage import Cell, Coverage, DayCoverage, LabelCoverage
    from delorean.project.config import Project

_SHOWN_GROUPS = 20


@click.command()
@click.option("--from", "first", type=Day(), help="The first day; with --to, every day between is shown.")
@click.option("--to", "last", type=Day(), help="The last day.")
@click.option("--at-time-of-day", "at", type=TimeOfDay(), help="Travel to this time of each day, UTC, not to its end.")
@click.option("--experiment", help="Only the contexts that it chose.")
@click.option("--service", "services", multiple=True, help="Only this service or element; may be repeated.")
@click.option("--max-age", type=Span(), help="State older than this is no state.")
@click.option("--by", help='Group contexts by a context variable, or by "stratum".')
@click.option("--spec", type=click.Path(path_type=Path), help="See what this experiment's labels would find instead.")
@click.option("--html", "file", type=click.Path(path_type=Path), help="Write it as a picture to this HTML file.")
@project_option
@json_option
def coverage(spec: Path | None, file: Path | None, project: Project, output: Output, **asked: Any) -> None:
    """Show how much there is to travel to.

    For each day and service: the share of contexts that have state, how surely it was captured and how old it is.
    With --spec, before anything is generated: what the experiment's labels would find, and why not the rest.

    \b
    Example: delorean travel coverage --experiment homepage --max-age PT36H --by country
    """
    if spec is None:
        found: Coverage = _of_days(project, **asked)
    elif any(value not in (None, ()) for value in asked.values()):
        raise click.UsageError("--spec brings its own labels and rules: leave out the options that choose days")
    else:
        found = _of_labels(project, spec, output)
    if file is not None:
        file.write_text(found.to_html(), encoding="utf-8")
    output.show(found.to_json() if output.as_json else dict(_readable(found)))


def _of_days(
    project: Project,
    first: date | None,
    last: date | None,
    at: time | None,
    experiment: str | None,
    services: Sequence[str],
    max_age: timedelta | None,
    by: str | None,
) -> DayCoverage:
    from delorean.coverage import day_coverage

    with opened(project) as (index, storage):
        return day_coverage(
            index,
            storage,
            first=first,
            last=last,
            at=at,
            experiment=experiment,
            services=services or None,
            max_age=max_age,
            by=by,
        )


def _of_labels(project: Project, spec: Path, output: Output) -> LabelCoverage:
    from delorean.coverage import label_coverage
    from delorean.experiment import load_experiment
    from delorean.experiment.steps import labels_at_rest, labels_of

    with opened(project) as (index, storage):
        experiment = load_experiment(spec, index)
        labels = labels_at_rest(experiment, storage)
        if labels is None:
            with spark_for("travel coverage", project, experiment.tables.values()) as spark:
                labels = labels_of(experiment, spark, storage)
        with output.progress() as progress:
            return label_coverage(
                labels,
                index,
                storage,
                elements=experiment.feature_model.elements.values(),
                rules=experiment.as_of,
                confidence=experiment.confidence,
                spread=experiment.spread,
                progress=progress,
            )


def _readable(found: Coverage) -> Iterator[tuple[str, Any]]:
    """Say for people what JSON says in full."""
    from delorean.coverage import DayCoverage, LabelCoverage
    from schemas.drawing import share_text, span_text

    if isinstance(found, DayCoverage):
        yield "travelling_to", "the end of each day" if found.at is None else f"{found.at.isoformat()} of each day"
        yield "each_cell", "share of contexts · lowest confidence · median age (oldest)"
        yield "days", _grid(found.cells)
        if found.by is not None:
            yield "poorly_covered", _poorly_covered(found.cells)
    if isinstance(found, LabelCoverage):
        spread = found.spread
        yield "label_rows", found.rows
        yield "with_every_element", found.complete
        yield (
            "captures_apart",
            f"median {span_text(spread.median)}, p95 {span_text(spread.p95)}, longest {span_text(spread.longest)}",
        )
        if found.torn is not None:
            yield "beyond_the_spread's_limit", found.torn
        yield (
            "elements",
            [
                {
                    "element": cell.element,
                    "found": cell.found,
                    "share": share_text(cell.share),
                    **{why: rows for other in found.elements for why, rows in _why(cell, other)},
                    "confidence": cell.lowest_confidence,
                    "median age": span_text(cell.age.median),
                    "p95": span_text(cell.age.p95),
                    "oldest": span_text(cell.age.longest),
                    "runs": len(cell.runs),
                }
                for cell in found.elements
            ],
        )
        yield "days", _grid(found.by_day)


def _why(cell: Cell, other: Cell) -> Iterator[tuple[str, int]]:
    """Give a column for each reason that any element has."""
    for why in other.absent:
        yield why, cell.absent.get(why, 0)


def _grid(cells: Sequence[Cell]) -> list[Mapping[str, Any]]:
    """Give a row for each day and group, a column for each element."""
    grouped = any(cell.group is not None for cell in cells)
    rows: dict[tuple[date | None, str | None], dict[str, Any]] = {}
    for cell in cells:
        if grouped and cell.group is None:
            continue  # a global element, or a day without contexts: there is no group to show it under
        row = rows.setdefault((cell.day, cell.group), {"day": cell.day, **({"group": cell.group} if grouped else {})})
        row[cell.element] = _text(cell)
    return list(rows.values())


def _text(cell: Cell) -> str:
    from schemas.drawing import share_text, span_text

    if cell.lowest_confidence is None:
        return " · ".join(filter(None, (share_text(cell.share), cell.chief_reason)))
    age = f"{span_text(cell.age.median)} ({span_text(cell.age.longest)})"
    return f"{share_text(cell.share)} · {cell.lowest_confidence:.3g} · {age}"


def _poorly_covered(cells: Sequence[Cell]) -> list[Mapping[str, Any]]:
    """Give the groups with the lowest share of contexts over all days, where any is missing."""
    from schemas.drawing import share_text

    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for cell in cells:
        if cell.group is not None:
            rows, found = sums.get((cell.element, cell.group), (0, 0))
            sums[cell.element, cell.group] = rows + cell.rows, found + cell.found
    poor = sorted((found / rows, rows, key) for key, (rows, found) in sums.items() if found < rows)
    return [
        {"element": element, "group": group, "share": share_text(share), "missing": round(rows * (1 - share))}
        for share, rows, (element, group) in poor[:_SHOWN_GROUPS]
    ]

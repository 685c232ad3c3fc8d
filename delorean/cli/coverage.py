"""`delorean travel coverage`: what can be travelled to, and what an experiment's labels would find."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delorean.cli.options import Day, Span, TimeOfDay, common_options, opened, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.coverage import Coverage, DayCoverage, LabelCoverage
    from delorean.project.config import Project


@click.command()
@click.option("--from", "first", type=Day(), help="First day; with --to, every day between is shown.")
@click.option("--to", "last", type=Day(), help="Last day.")
@click.option("--at-time-of-day", "at", type=TimeOfDay(), help="Time of day to travel to, UTC.  [the day's end]")
@click.option("--experiment", help="Only contexts selected for it.")
@click.option("--service", "services", multiple=True, help="Only this service or element; may be repeated.")
@click.option("--max-age", type=Span(), help="Ignore state older than this.")
@click.option("--by", help='Group contexts by a context variable, or by "stratum".')
@click.option("--spec", type=click.Path(path_type=Path), help="Show what this experiment's labels would find instead.")
@click.option("--html", "file", type=click.Path(path_type=Path), help="Write it as a page to this HTML file.")
@common_options
def coverage(spec: Path | None, file: Path | None, project: Project, output: Output, **choices: Any) -> None:
    """Show how much state can be travelled to.

    For each day and service: the share of contexts with state, the confidence of its capture, and its age. With --spec,
    before anything is generated: what the experiment's labels would find, and why some would find nothing.

    \b
    Example: delorean travel coverage --experiment homepage --max-age PT36H --by country
    """
    if spec is None:
        found: Coverage = _of_days(project, choices)
    elif any(value not in (None, ()) for value in choices.values()):
        raise click.UsageError(
            "--spec has its own labels and rules: leave out the options that choose days and contexts"
        )
    else:
        found = _of_labels(project, spec, output)
    if file is not None:
        from delorean.display.html import to_page

        file.write_text(to_page(found, "Coverage"), encoding="utf-8")
    output.show(found)


def _of_days(project: Project, choices: Mapping[str, Any]) -> DayCoverage:
    from delorean.coverage import day_coverage

    with opened(project) as (index, storage):
        return day_coverage(index, storage, **{**choices, "services": choices["services"] or None})


def _of_labels(project: Project, spec: Path, output: Output) -> LabelCoverage:
    from delorean.coverage import label_coverage
    from delorean.experiment import load_experiment
    from delorean.experiment.label_data import labels_at_rest, labels_of

    with opened(project) as (index, storage):
        experiment = load_experiment(spec, index)
        labels = labels_at_rest(experiment, storage)
        if labels is None:
            with spark_for("travel coverage", project, experiment.tables.values()) as spark:
                labels = labels_of(experiment, spark, storage, index=index)
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

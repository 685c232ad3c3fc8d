"""`delorean label-quality`: what label data is like, before features are generated for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from delorean.cli.options import common_options, opened, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project

BROKEN = 3  # exit code; 1 and 2 are errors of the command itself


@click.command("label-quality", no_args_is_help=True)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--against", metavar="LABELS", help="Id of earlier label data.  [that of the last recorded run]")
@common_options
@click.pass_context
def label_quality(ctx: click.Context, spec: Path, against: str | None, project: Project, output: Output) -> None:
    """Measure label data before anything is fitted.

    Shares of positives by label, day and the columns that SPEC names, items per context, contexts without positives,
    repeated and contradictory items, the time until outcomes are known, and what has changed since the last run. The
    table [label_quality] of SPEC sets limits: max_duplicates = 0.01, min_positives = 0.001, max_change = 0.25, …

    Exits with 3 if a limit is broken and policy = "fail".

    \b
    Example: delorean label-quality homepage.toml
    """
    from delorean.experiment import load_experiment
    from delorean.experiment.label_data import labels_at_rest
    from delorean.experiment.label_quality import quality_of

    with opened(project) as (index, storage):
        experiment = load_experiment(spec)
        if labels_at_rest(experiment, storage) is None:
            with spark_for("label-quality", project, experiment.tables.values()) as spark:
                quality = quality_of(experiment, storage, spark=spark, index=index, against=against)
        else:
            quality = quality_of(experiment, storage, index=index, against=against)
    output.show(quality)
    if quality.failed:
        ctx.exit(BROKEN)

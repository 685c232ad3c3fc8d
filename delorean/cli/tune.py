"""`delorean tune`: searches for the parameters of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from delorean.cli.options import PROJECT_FILE, common_options, opened
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command(no_args_is_help=True)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--study", metavar="NAME", help="Name of the study; an existing one is continued.  [the experiment's]")
@click.option("--trials", type=click.IntRange(1), help="Models to fit, instead of what SPEC says.")
@click.option("--workers", type=click.IntRange(1), help="Processes that fit side by side, instead of what SPEC says.")
@click.option("--run-id", help="Tune on what `generate` produced under this id.  [the newest version]")
@common_options
@click.pass_context
def tune(
    ctx: click.Context,
    spec: Path,
    study: str | None,
    trials: int | None,
    workers: int | None,
    run_id: str | None,
    project: Project,
    output: Output,
) -> None:
    """Search for the parameters of a model.

    The table [tuning] of SPEC says what is searched: space, trials, metric, timeout, workers. Models are fitted on the
    training part and compared on the validation part. The best are then measured on the test part, once, so that the
    report shows how much better they looked where they were chosen.

    Interrupt it at any time: the same command continues, and several may run at once. The study is a file in the
    project's folder `tuning`. `delorean train SPEC --tuned NAME` trains the best.

    \b
    Example: delorean tune homepage.toml --trials 40 --workers 2
    """
    from delorean.experiment import load_experiment
    from delorean.experiment.tuning import tune as search

    experiment = load_experiment(spec)
    tuning = experiment.tuning
    chosen = replace(tuning, trials=trials or tuning.trials, workers=workers or tuning.workers)
    folder = ctx.meta[PROJECT_FILE].parent
    with opened(project) as (_, storage), output.progress() as progress:
        result = search(
            replace(experiment, tuning=chosen), storage, folder, study=study, run_id=run_id, progress=progress
        )
    output.show(result)

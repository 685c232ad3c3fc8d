"""`delorean paradox`: checks stored feature sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delorean.cli.options import json_option, opened
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.audit.paradox import ParadoxReport
    from delorean.project.config import Project

PARADOX = 3  # exit code; 1 and 2 are errors of the command itself


@click.command(no_args_is_help=True)
@click.argument("feature_set")
@click.option("--version", type=click.IntRange(0), help="Version of the feature set.  [the newest]")
@click.option(
    "--auc", type=float, default=0.95, show_default=True, help="Flag features whose per-context AUC reaches this."
)
@click.option(
    "--information",
    type=float,
    default=0.5,
    show_default=True,
    help="… or that explain this share of the label's uncertainty.",
)
@click.option(
    "--p-value",
    type=float,
    default=0.01,
    show_default=True,
    help="… if chance explains it with at most this probability.",
)
@click.option("--permutations", type=int, default=200, show_default=True, help="Number of label shuffles.")
@click.option("--max-items", type=int, default=200_000, show_default=True, help="Sample size of the leak check.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample and the shuffles.")
@click.option("--fail-on-leaks", is_flag=True, help="Exit with 3 for flagged features too.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default="delorean.toml",
    show_default=True,
    help="The project file. A feature set given by its path needs none: then the index is not checked.",
)
@json_option
@click.pass_context
def paradox(
    ctx: click.Context,
    /,
    feature_set: str,
    version: int | None,
    fail_on_leaks: bool,
    config: Path,
    output: Output,
    **thresholds: Any,
) -> None:
    """Check a stored feature set for paradoxes.

    Reads every row and checks it against the lineage, the index and itself: no input captured after the row's time, no
    outcome before it, no duplicate row. Flags features that may be the label in disguise. FEATURE_SET is a name in the
    project's storage, or a path or URI.

    Exits with 0 if it is clean and with 3 if it is not.

    \b
    Example: delorean paradox homepage --version 3 --fail-on-leaks
    """
    from delorean.leaks import LeakThresholds

    chosen = LeakThresholds(**thresholds)
    with output.progress() as progress:
        report = _check(feature_set, version, config, chosen, progress)
    output.show(report)
    if not report.clean or (fail_on_leaks and report.leaks.suspicious):
        ctx.exit(PARADOX)


def _check(feature_set: str, version: int | None, config: Path, thresholds: Any, progress: Any) -> ParadoxReport:
    from delorean.audit.paradox import check_feature_set
    from delorean.project.config import load_project

    is_path = "/" in feature_set or feature_set.startswith(".")
    if is_path and not config.is_file():
        return check_feature_set(feature_set, version, None, thresholds, progress)
    project: Project = load_project(config)
    with opened(project) as (index, storage):
        from delorean.feature_sets.table import table_uri

        uri = feature_set if is_path else table_uri(storage, feature_set)
        return check_feature_set(uri, version, index, thresholds, progress)

"""The command that checks stored feature sets for paradoxes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delorean.cli.options import json_option, opened
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.audit.paradox import ParadoxReport
    from delorean.project.config import Project

PARADOX = 3  # the exit code; 1 and 2 are errors of the command itself


@click.command(no_args_is_help=True)
@click.argument("feature_set")
@click.option("--version", type=click.IntRange(0), help="Of the feature set. By default the newest.")
@click.option("--auc", type=float, default=0.95, show_default=True, help="Suspicious from this AUC by context on.")
@click.option("--information", type=float, default=0.5, show_default=True, help="… or this share of what is unknown.")
@click.option("--p-value", type=float, default=0.01, show_default=True, help="… where chance is no likelier than this.")
@click.option("--permutations", type=int, default=200, show_default=True, help="Times that labels are shuffled.")
@click.option("--max-items", type=int, default=200_000, show_default=True, help="Size of the sample for leaks.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample and of shuffled labels.")
@click.option("--fail-on-leaks", is_flag=True, help="Let suspicious features fail too.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default="delorean.toml",
    show_default=True,
    help="The project file. A feature set named by its place can do without: then no index is asked.",
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

    Reads every row again and holds it against the lineage, the index and itself: no input captured after its time,
    no outcome before it, no row twice; and says which features may be the label in disguise.
    FEATURE_SET is a name in the project's storage, or a path or URI.

    Ends with 0 when it is clean and with 3 when it is not.

    \b
    Example: delorean paradox homepage --version 3 --fail-on-leaks
    """
    from delorean.leaks import LeakThresholds

    chosen = LeakThresholds(**thresholds)
    with output.progress() as progress:
        report = _check(feature_set, version, config, chosen, lambda done, of: progress("rows", done, of))
    output.show(report)
    if not report.clean or (fail_on_leaks and report.leaks.suspicious):
        ctx.exit(PARADOX)


def _check(feature_set: str, version: int | None, config: Path, thresholds: Any, progress: Any) -> ParadoxReport:
    from delorean.audit.paradox import check_feature_set
    from delorean.project.config import load_project

    place = "/" in feature_set or feature_set.startswith(".")
    if place and not config.is_file():
        return check_feature_set(feature_set, version, None, thresholds, progress)
    project: Project = load_project(config)
    with opened(project) as (index, storage):
        from delorean.feature_sets.table import table_uri

        uri = feature_set if place else table_uri(storage, feature_set)
        return check_feature_set(uri, version, index, thresholds, progress)

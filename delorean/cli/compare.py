"""`delorean compare`: a candidate beside production."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from delorean.cli.options import common_options, opened
from delorean.cli.output import Output
from delorean.cli.registry import package_folder

if TYPE_CHECKING:
    from delorean.comparison.counterfactual.exposures import Exposures
    from delorean.comparison.settings import ComparisonSettings
    from delorean.project.config import Project
    from snapshotter.storage import Storage

REGRESSION = 3  # exit code; 1 and 2 are errors of the command itself
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _with_options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Add several options to a command, in this order."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_data_options = _with_options(
    click.option("--features", help="Feature set with the features of both, or of the candidate.  [the candidate's]"),
    click.option("--version", type=click.IntRange(0), help="Of that feature set.  [the newest]"),
    click.option("--production-features", help="Feature set with production's features, of the same label data."),
    click.option("--production-version", type=click.IntRange(0), help="Of that feature set.  [the newest]"),
    click.option("--labels", help="Label data for which the features of both are computed."),
    click.option("--label", help="The label that is measured.  [the candidate's]"),
    click.option("--task", help="Compare on the contexts of one task only.  [all that both serve]"),
    click.option("--all-contexts", is_flag=True, help="Include contexts that a package was trained on."),
    click.option(
        "--max-items", type=click.IntRange(1), default=5_000_000, show_default=True, help="Sample contexts beyond."
    ),
)
_decision_options = _with_options(
    click.option("--metric", default="ndcg@10", show_default=True, help="The metric that decides."),
    click.option("--margin", type=float, default=0.005, show_default=True, help="The loss of it that is tolerated."),
    click.option("--group-margin", type=float, default=0.02, show_default=True, help="The loss tolerated in a group."),
    click.option("--changed", type=float, default=0.05, show_default=True, help="Share of changed places to test."),
    click.option("--by", multiple=True, metavar="COLUMN", help="Compare for each value too; may be repeated."),
    click.option("--cluster", metavar="COLUMN", help="Contexts with an equal value are not independent."),
    click.option("--places", type=click.IntRange(1), default=10, show_default=True, help="First places to compare."),
    click.option("--examples", type=click.IntRange(0), default=10, show_default=True, help="Contexts to show."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of samples and intervals."),
)
_exposure_options = _with_options(
    click.option("--shown", metavar="COLUMN", help="List: above 0 for items that were shown. With --propensity."),
    click.option("--propensity", metavar="COLUMN", help="The probability with which items were shown."),
    click.option("--reward", metavar="COLUMN", help="What shown items earned.  [the label]"),
    click.option("--policy", type=click.Choice(["top", "softmax"]), default="top", show_default=True),
    click.option("--shown-places", type=click.IntRange(1), default=1, show_default=True, help="Items a policy shows."),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the softmax policy."),
    click.option("--clip", type=float, help="The greatest weight of a shown item.  [no bound]"),
)


@click.command(no_args_is_help=True)
@click.argument("candidate")
@click.argument("production")
@_data_options
@_decision_options
@_exposure_options
@common_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    candidate: str,
    production: str,
    features: str | None,
    version: int | None,
    production_features: str | None,
    production_version: int | None,
    labels: str | None,
    label: str | None,
    task: str | None,
    all_contexts: bool,
    max_items: int,
    project: Project,
    output: Output,
    **options: Any,
) -> None:
    """Compare a candidate with production, on contexts that neither was trained on.

    Measures both on the same contexts and items, and prints the differences with intervals, how different the rankings
    are, where they differ most, and a verdict: better and different enough to test, or not, and why. With --shown and
    --propensity also what each would have earned online. CANDIDATE and PRODUCTION are folders of packages, or
    `registry:NAME`.

    The data is the feature set that the candidate was trained on; if it lacks production's features, these are computed
    for its label data. Exits with 3 where the candidate regresses.

    Packages of tasks are compared task by task. A package of one use is compared with one of several tasks on the
    contexts of one: --task search.

    \b
    Example: delorean compare packages/homepage-2 registry:production --by country --cluster profile_id
    """
    from delorean.comparison import compare_packages
    from delorean.packaging.package import load_package
    from delorean.registry.registry import package_name

    settings, exposures = _settings(options), _exposures(options)
    if labels is not None and features is not None:
        raise click.UsageError("--features and --labels are both given: name one")
    if production_features is not None and features is None:
        raise click.UsageError("--production-features needs --features")
    packages = [
        load_package(package_folder(project, each), modules=project.encoders, allow=project.packages.allow)
        for each in (candidate, production)
    ]
    with opened(project) as (index, storage):
        result = compare_packages(
            packages[0],
            packages[1],
            _source(storage, features, version),
            _source(storage, production_features, production_version),
            labels=labels,
            index=index,
            storage=storage,
            label=label,
            all_contexts=all_contexts,
            max_items=max_items,
            settings=settings,
            exposures=exposures,
            names=(package_name(candidate), package_name(production)),
            task=task,
        )
    output.show(result)
    if result.regresses:
        ctx.exit(REGRESSION)


def _settings(options: dict[str, Any]) -> ComparisonSettings:
    from delorean.comparison.settings import ComparisonSettings
    from delorean.evaluation.settings import EvaluationSettings

    evaluation = EvaluationSettings(by=options["by"], cluster=options["cluster"], seed=options["seed"])
    names = ("metric", "margin", "group_margin", "changed", "places", "examples")
    return ComparisonSettings(evaluation, **{name: options[name] for name in names})


def _exposures(options: dict[str, Any]) -> Exposures | None:
    from delorean.comparison.counterfactual.exposures import Exposures

    if options["shown"] is None and options["propensity"] is None:
        return None
    if options["shown"] is None or options["propensity"] is None:
        raise click.UsageError("--shown and --propensity belong together: give both")
    names = ("shown", "propensity", "reward", "policy", "temperature", "clip")
    return Exposures(**{name: options[name] for name in names}, places=options["shown_places"])


def _source(storage: Storage, name: str | None, version: int | None) -> tuple[str, int | None] | None:
    """Return a feature set's URI and version: it is named by its name in the storage, or by a path or URI."""
    from delorean.feature_sets.table import table_uri

    if name is None:
        return None
    return (name if "/" in name or name.startswith(".") else table_uri(storage, name)), version

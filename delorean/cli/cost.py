"""`delorean cost`: what experiments captured, stored, read and computed."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import click

from delorean.cli.options import Day, common_options, opened
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.cost.result import Grouping
    from delorean.project.config import Project


@click.command()
@click.option("--since", type=Day(), help="First day, UTC.  [30 days up to --until]")
@click.option("--until", type=Day(), help="Last day.  [today]")
@click.option(
    "--by",
    type=click.Choice(["day", "owner", "experiment"]),
    multiple=True,
    default=("owner", "experiment"),
    show_default=True,
    help="Add up by this; may be repeated.",
)
@click.option("--owner", help="Only experiments of this owner.")
@click.option("--experiment", help="Only this experiment.")
@common_options
def cost(
    since: date | None,
    until: date | None,
    by: tuple[Grouping, ...],
    owner: str | None,
    experiment: str | None,
    project: Project,
    output: Output,
) -> None:
    """Show what experiments captured, stored, read and computed.

    Keys asked of services, bytes of captures, label data and features, and core seconds, from the records of these
    days. A capture that several experiments use is divided by the numbers of contexts that they selected.

    \b
    Example: delorean cost --since 2026-01-01 --until 2026-01-31 --by owner --by day
    """
    from delorean.cost import cost as cost_of
    from delorean.project.schedule import owners_in

    with opened(project) as (index, storage):
        owners = owners_in(project.schedule)
        found = cost_of(
            index, storage, since=since, until=until, by=by, owner=owner, experiment=experiment, owners=owners
        )
    output.show(found)

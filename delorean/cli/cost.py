"""`delorean cost`: what experiments captured, stored, read and computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from delorean.cli.options import Day, common_options, opened
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command()
@click.option("--since", type=Day(), help="First day, UTC.  [30 days up to --until]")
@click.option("--until", type=Day(), help="Last day.  [today]")
@click.option(
    "--by",
    type=click.Choice(["day", "owner", "namespace", "experiment"]),
    multiple=True,
    default=("owner", "experiment"),
    show_default=True,
    help="Add up by this; may be repeated.",
)
@click.option("--owner", help="Only experiments of this owner.")
@click.option("--namespace", help="Only experiments of this name space.")
@click.option("--experiment", help="Only this experiment.")
@common_options
def cost(project: Project, output: Output, **choices: Any) -> None:
    """Show what experiments captured, stored, read and computed.

    Keys asked of services, bytes of captures, label data and features, and core seconds, from the records of these
    days. A capture that several experiments use is divided by the numbers of contexts that they selected.

    \b
    Example: delorean cost --since 2026-01-01 --until 2026-01-31 --by owner --by day
    """
    from delorean.cost import cost as cost_of
    from delorean.project.schedule import owners_in

    with opened(project) as (index, storage):
        found = cost_of(index, storage, owners=owners_in(project.schedule), **choices)
    output.show(found)

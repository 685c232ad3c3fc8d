"""`delorean exposures`: what the live scorer has logged of what it showed."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import click

from delorean.cli.options import Day, common_options, opened
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command()
@click.argument("test", required=False)
@click.option("--since", type=Day(), help="First day, UTC.  [the first of the log]")
@click.option("--until", type=Day(), help="Last day.  [the last of the log]")
@common_options
def exposures(test: str | None, since: date | None, until: date | None, project: Project, output: Output) -> None:
    """Count what was shown, by day and cell of TEST.

    Without TEST: what was shown outside tests. The scorer writes the log while it serves tests, every five minutes and
    when it ends; `delorean.read_exposures` reads its rows.

    \b
    Example: delorean exposures homepage-2 --since 2026-01-05
    """
    from delorean.exposures.counts import count_exposures

    with opened(project) as (_, storage):
        output.show(count_exposures(storage, test, since, until))

"""The command that tidies up."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from delorean.cli.options import Span, json_option, opened, project_option
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command()
@click.option(
    "--older-than",
    type=Span(),
    default="P7D",
    show_default=True,
    help="Nothing younger is touched; at least PT1H, and longer than any job runs.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@project_option
@json_option
def vacuum(older_than: timedelta, dry_run: bool, project: Project, output: Output) -> None:
    """Remove what nobody can miss.

    That is what died before it was published, versions of feature sets that were superseded, and label data without a
    name, unless a recorded run refers to them. What the index has published stays. `delorean experiment forget` gives a
    run's own up.

    \b
    Example: delorean vacuum --older-than P30D --dry-run
    """
    from delorean.project.vacuum import vacuum as remove

    with opened(project) as (index, storage):
        found = remove(storage, index, older_than, dry_run=dry_run)
    rows = [removal.row() for removal in found.removals]
    output.show(
        {
            "dry_run": dry_run,
            "files": sum(row["files"] for row in rows),
            "bytes": sum(row["bytes"] for row in rows),
            "would_remove" if dry_run else "removed": rows,
            **({"left_alone": list(found.notes)} if found.notes else {}),
            **({"paths": found.paths} if output.as_json else {}),
        }
    )

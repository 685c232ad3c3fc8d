"""`delorean vacuum`: deletes files that nothing needs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from delorean.cli.options import Span, common_options, opened
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command()
@click.option(
    "--older-than",
    type=Span(),
    default="P7D",
    show_default=True,
    help="Keep anything younger; at least PT1H, and longer than any job runs.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
@common_options
def vacuum(older_than: timedelta, dry_run: bool, project: Project, output: Output) -> None:
    """Delete files that no published or recorded run needs.

    These are leftovers of jobs that died before they published, superseded versions of feature sets, and unnamed label
    data. What the index has published stays. `delorean experiment forget` releases what a recorded run needs.

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

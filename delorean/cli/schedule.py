"""`delorean schedule`: what a scheduler is to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from delorean.cli.options import common_options
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command()
@common_options
def schedule(project: Project, output: Output) -> None:
    """Show the project's schedule.

    It has every spec in the project's folder, and the sets of services and the global elements under [schedule] of the
    project file. Airflow's DAGs read it: docs/AIRFLOW.md.

    \b
    Example: delorean schedule --json
    """
    from delorean.project.schedule import scheduled

    found = scheduled(project.schedule)
    output.show(
        {
            "selected": [str(path) for path in found.selected],
            "snapshots": [
                {"set": name, "every_hours": taken.every_hours, "services": list(taken.services) or "all"}
                for name, taken in project.schedule.snapshots.items()
            ],
            "globals": [
                {"element": name, "file": project.schedule.global_table(name).path} for name in project.schedule.globals
            ],
            "experiments": [
                {
                    "experiment": each.name,
                    "spec": str(each.spec),
                    "id": each.id,
                    "training": each.training,
                    "error": each.error,
                }
                for each in found.experiments
            ],
        }
    )

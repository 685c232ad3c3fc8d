"""Commands that read: travel to a moment, list and check what is published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from delorean.cli.coverage import coverage
from delorean.cli.features import features
from delorean.cli.options import Copies, Instant, common_options, opened
from delorean.cli.output import Output
from delorean.cli.withdraw import left_out, withdraw, withdrawals

if TYPE_CHECKING:
    from delorean.project.config import Project


_OVERVIEW = ("rows", "confidence", "mean_bytes")


class _Travel(click.Group):
    """Reads `travel KEY` as `travel show KEY`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Travel, options_metavar="", subcommand_metavar="KEY --at TIME [OPTIONS] | COMMAND [OPTIONS]")
def travel() -> None:
    """Show data as of a moment, or the coverage of days.

    KEY is a service's element or a global element; its options: delorean travel show --help.

    \b
    Example: delorean travel viewing_history --at 2026-01-05T12:00:00Z --experiment homepage
    """


travel.add_command(coverage)


@travel.command("show", no_args_is_help=True)
@click.argument("key")
@click.option("--at", "moment", type=Instant(), required=True, help="The moment, with its time zone.")
@click.option("--experiment", help="Only contexts selected for it.")
@click.option("--limit", type=click.IntRange(0), default=10, show_default=True, help="Rows to print.")
@click.option("--to", "file", type=click.Path(path_type=Path), help="Write all rows to this Parquet file.")
@common_options
def travel_show(
    key: str,
    moment: datetime,
    experiment: str | None,
    limit: int,
    file: Path | None,
    project: Project,
    output: Output,
) -> None:
    """Show data as of a moment.

    KEY is a service's element, shown for each context, or a global element. The word "show" may be omitted.

    \b
    Example: delorean travel show viewing_history --at 2026-01-05T12:00:00Z --experiment homepage
    """
    import pyarrow.parquet as pq

    from delorean.display.formats import data_row
    from delorean.time_travel import TimeMachine
    from schemas.tables import python_rows

    with opened(project) as (index, storage):
        state = TimeMachine(index, storage).at(moment)
        view = (state if experiment is None else state.for_experiment(experiment))[key]
        table = view.to_arrow()
        if file is not None:
            pq.write_table(table, file)
        document = {
            "view": repr(view),
            "confidence": view.confidence,
            "coverage": view.coverage,
            "count": table.num_rows,
            "rows": python_rows(table.slice(0, limit)),
        }
        output.show({**document, "rows": list(map(data_row, document["rows"]))}, document)


@click.group()
def index() -> None:
    """List or withdraw what is published, or create an index."""


index.add_command(features)
index.add_command(withdraw)
index.add_command(withdrawals)


@index.command("init")
@click.option("--replication", type=Copies(), help="Replicas of a new keyspace: 3, or dc1=3,dc2=3.")
@common_options
def index_init(replication: Mapping[str, int] | None, project: Project, output: Output) -> None:
    """Create the index of a project.

    Creates what is missing: the file, or the tables in Cassandra's keyspace, and with --replication the keyspace. What
    exists is never changed, so it may run repeatedly and concurrently.

    \b
    Example: delorean index init --replication 3
    """
    from snapshotter.index import init_index, open_index

    new = init_index(project.index, replication)
    with open_index(project.index) as found:
        output.show({"index": found.uri, "new": new})


@index.command("runs")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most this many runs.")
@common_options
def index_runs(limit: int, project: Project, output: Output) -> None:
    """List snapshot runs, latest published first.

    \b
    Example: delorean index runs --limit 10 --json
    """
    from snapshotter.index import iterate_runs
    from snapshotter.records import RecordKind

    with opened(project) as (found, _):
        rows = [
            {
                "run": run.run_id,
                "published_at": run.published_at,
                "context_set": run.context_set_id,
                "service": taken.service.name,
                "asked": taken.asked,
                "confidence": taken.confidence,
                "bytes": sum(file.bytes for file in taken.files),
            }
            for run in islice(iterate_runs(found), limit)
            for taken in run.services
        ]
        others = left_out(found, RecordKind.RUN)
    output.show({"runs": rows, **others})


@index.command("quality")
@click.argument("service", required=False)
@click.option("--runs", "most", type=click.IntRange(1), default=10, show_default=True, help="Runs of each service.")
@common_options
def index_quality(service: str | None, most: int, project: Project, output: Output) -> None:
    """Show whether services' snapshots look as usual.

    Prints a profile of the values of each service's latest runs, in full for one SERVICE, and the measures that were
    outside the range predicted from the runs before.

    \b
    Example: delorean index quality history
    """
    from schemas.errors import ConfigError
    from snapshotter.capture.drift import recent_drift

    with opened(project) as (found, _):
        known = {declared.name for declared in found.elements()}
        if service is not None and service not in known:
            raise ConfigError.unknown("service", service, known)
        last = [recent_drift(found, name, most) for name in ([service] if service else sorted(known))]
    shown = [(taken, run, alerts) for of_service in last for run, taken, alerts in of_service]
    output.show(
        {
            "runs": [
                {
                    "service": taken.service.name,
                    "run": run.run_id,
                    "published_at": run.published_at,
                    **(taken.profile if service else {name: taken.profile.get(name) for name in _OVERVIEW}),
                    "unusual": [alert.measure for alert in alerts],
                }
                for taken, run, alerts in shown
            ],
            "unusual": [
                {"service": taken.service.name, "run": run.run_id, **vars(alert)}
                for taken, run, alerts in shown
                for alert in alerts
            ],
        }
    )


@index.command("contexts")
@click.option("--experiment", help="Only sets with contexts selected for it.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most this many sets.")
@common_options
def index_contexts(experiment: str | None, limit: int, project: Project, output: Output) -> None:
    """List context sets, newest first: a row for each key of their experiments.

    \b
    Example: delorean index contexts --experiment homepage
    """
    from snapshotter.records import RecordKind
    from snapshotter.selection.context_sets import groups_of

    with opened(project) as (found, storage):
        rows = [
            {
                "context_set": contexts.context_set_id,
                "date": contexts.date,
                "revision": contexts.revision,
                "contexts": group.rows,
                "key": [variable.name for variable in group.key],
                "experiments": [selected.id for selected in group.experiments],
                "unfilled": contexts.unfilled(group),
                "failed": [failed.id for failed in contexts.failed],
                "table": storage.uri_of(group.table),
            }
            for contexts in found.context_sets(date.max, experiment, limit)
            for group in groups_of([contexts], experiment)
        ]
        others = left_out(found, RecordKind.CONTEXT_SET)
    output.show({"context_sets": rows, **others})


@index.command("globals")
@click.argument("element")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most this many versions.")
@common_options
def index_globals(element: str, limit: int, project: Project, output: Output) -> None:
    """List versions of a global ELEMENT, newest first.

    \b
    Example: delorean index globals videos
    """
    from snapshotter.records import END_OF_TIME, RecordKind

    with opened(project) as (found, _):
        rows = [
            {
                "version": version.version_id,
                "valid_from": version.valid_from,
                "published_at": version.published_at,
                "rows": sum(file.rows for file in version.files),
            }
            for version in found.global_versions(element, END_OF_TIME, limit, skip_unreadable=True)
        ]
        others = left_out(found, RecordKind.GLOBAL_VERSION, element)
    output.show({"element": element, "versions": rows, **others})

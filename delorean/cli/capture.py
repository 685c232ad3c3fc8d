"""Commands that capture: choose contexts, run the proxy, take snapshots, publish global elements."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from delorean.cli.options import Day, Instant, Seconds, json_option, opened, project_option, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command(no_args_is_help=True)
@click.argument("specs", metavar="[SPEC]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--date", "day", type=Day(), required=True, help="The day to choose contexts for.")
@project_option
@json_option
def select(specs: tuple[Path, ...], day: date, project: Project, output: Output) -> None:
    """Choose the contexts of a day.

    A stratified sample for each experiment in each SPEC, tagged and saved once as their union. A SPEC holds tables
    [experiments.<id>], or is one experiment's own, with [contexts]. By default all that are on schedule.

    \b
    Example: delorean select experiments.toml --date 2026-01-05
    """
    from delorean.experiment import contexts_to_select
    from delorean.project.schedule import scheduled
    from snapshotter.selection.context_selection import select_contexts

    chosen_from = specs or scheduled(project.schedule).selected
    experiments = [experiment for spec in chosen_from for experiment in contexts_to_select(spec)]
    tables = [table for experiment in experiments for table in experiment.tables.values()]
    with opened(project) as (index, storage), spark_for("select", project, tables) as spark:
        chosen = select_contexts(spark, experiments, day, storage, index, whoever_chose=not specs)
    output.show(chosen)


@click.group()
def prana() -> None:
    """Run the proxy between snapshot jobs and the online services."""


@prana.command("serve")
@click.option("--config", type=click.Path(path_type=Path), default="services.toml", show_default=True)
@click.option("--host", help="Where to listen; anyone who reaches it may ask.  [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0: a free one.  [9090]")
@click.option("--processes", type=click.IntRange(1, 64), help="How many serve; limits hold over all.  [1]")
@click.option("--ports", type=click.Choice(["one", "each"]), help="All behind one port, or each behind its own.  [one]")
@click.option("--workers", type=click.IntRange(1, 1_000), help="Calls at a time, of each process.  [32]")
@click.option("--queue", type=click.IntRange(0, 10_000), help="Calls that may wait, of each process.  [64]")
@click.option("--http-port", type=click.IntRange(0, 65_535), help="For /health, /ready and /metrics.  [none]")
@click.option("--log", type=click.Choice(["text", "json"]), help="How to log to stderr.  [json, text on a terminal]")
def prana_serve(config: Path, log: Literal["text", "json"] | None, **settings: Any) -> None:
    """Serve until told to stop (Ctrl-C, SIGTERM; twice: at once).

    What is given here wins over the file's [server] table, where certificates and tokens are named too. The file is
    followed: a change of its services applies within two seconds, one that is wrong is logged and changes nothing.

    \b
    Example: delorean prana serve --config services.toml --port 9090
    """
    from prana_proxy.server import serve as serve_proxy

    given = {name: value for name, value in settings.items() if value is not None}
    serve_proxy(config, given, log or ("text" if sys.stderr.isatty() else "json"))


@click.command(no_args_is_help=True)
@click.option("--date", "day", type=Day(), required=True, help="Whose context set is asked for.")
@click.option("--run-id", help="Running it again publishes nothing twice. By default the date.")
@click.option("--service", "services", multiple=True, help="Only this one; may be repeated. By default all.")
@click.option("--set", "set_name", help="A set of services as [schedule.snapshots] of the project file declares it.")
@click.option("--buckets", type=click.IntRange(1), help="A power of two. By default by the number of contexts.")
@click.option("--budget", type=Seconds(), default=60.0, show_default=True, help="For each call.")
@click.option("--second-pass/--no-second-pass", default=False, show_default=True, help="Ask once more for what failed.")
@click.option(
    "--drift",
    type=click.Choice(["warn", "hold", "off"]),
    default="warn",
    show_default=True,
    help="When a service is not as its last runs let one expect: say so, or publish nothing.",
)
@project_option
@json_option
def snapshot(
    day: date,
    run_id: str | None,
    services: tuple[str, ...],
    set_name: str | None,
    buckets: int | None,
    budget: float,
    second_pass: bool,
    drift: Literal["warn", "hold", "off"],
    project: Project,
    output: Output,
) -> None:
    """Capture the state of a day's contexts.

    Asks the services through the proxies, once for each distinct key, and publishes the answers as one run. What died
    or was held back is run again by the same command: it asks only for what is missing. A set says how complete the
    answers must be, and is never captured for a day that has not begun, or is over for longer than it allows.

    \b
    Example: delorean snapshot --date 2026-01-05
    """
    from delorean.project.config import SnapshotSet, access_to_proxies
    from snapshotter.capture.snapshot import Floor, take_snapshot

    if set_name is not None and services:
        raise click.UsageError("--set names the services: leave --service out")
    wanted = SnapshotSet(services) if set_name is None else project.schedule.snapshot_set(set_name)
    with opened(project) as (index, _):
        contexts = index.context_set(day)  # before Spark starts, which takes long
        with spark_for("snapshot", project) as spark, output.progress() as progress:
            run = take_snapshot(
                spark,
                contexts,
                wanted.services or None,
                project.proxies,
                project.storage,
                index,
                run_id or day.isoformat(),
                buckets=buckets,
                budget=timedelta(seconds=budget),
                second_pass=second_pass,
                drift=drift,
                floor=None if wanted.floor is None else Floor(wanted.floor, wanted.below),
                late=None if set_name is None else wanted.late,
                access=access_to_proxies(project),
                progress=progress,
            )
    output.show(run)


@click.command(no_args_is_help=True)
@click.argument("element")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--valid-from", type=Instant(), help="From when on the table is like this.  [when it was read: now]")
@click.option("--version-id", required=True, help="Publishing a version again changes nothing.")
@click.option("--if-changed", is_flag=True, help="Publish nothing if the newest version is the same.")
@project_option
@json_option
def publish(
    element: str,
    file: Path | None,
    valid_from: datetime | None,
    version_id: str,
    if_changed: bool,
    project: Project,
    output: Output,
) -> None:
    """Publish a version of a global element.

    FILE is Parquet, or a folder of it, as pandas, Polars, Spark or DuckDB write it: the whole table of ELEMENT as it is
    from a moment on, its first column the rows' key. By default the one that [schedule.globals] of the project file
    names. Times need a zone; types are cast to plain ones where no value changes.

    \b
    Example: delorean publish videos videos.parquet --valid-from 2026-01-05T00:00:00Z --version-id day-5
    """
    import pyarrow as pa

    from schemas.data_keys import global_element
    from schemas.errors import ConfigError
    from schemas.plain_types import plain_table
    from snapshotter.capture.global_elements import publish_global
    from snapshotter.storage.foreign_parquet import read_foreign_parquet

    if file is None:
        if element not in project.schedule.globals:
            raise ConfigError.unknown("global element on schedule", element, project.schedule.globals)
        file = Path(project.schedule.globals[element])
    table = plain_table(element, read_foreign_parquet(file))
    since = valid_from or datetime.now(UTC)  # not sooner: who looks at an earlier time must not see what is read now
    key = global_element(element, pa.struct(list(table.schema)))
    with opened(project) as (index, storage):
        new = publish_global(table, key, since, storage, index, version_id, if_changed=if_changed)
    output.show({"element": element, "version": version_id, "rows": table.num_rows, "new": new})

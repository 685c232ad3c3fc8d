"""Commands that capture state: select contexts, run the proxy, take snapshots, publish global elements."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from delorean.cli.options import Day, Instant, Seconds, common_options, opened, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project
    from snapshotter.storage.table_source import TableSource


@click.command(no_args_is_help=True)
@click.argument("specs", metavar="[SPEC]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--date", "day", type=Day(), required=True, help="The day to select contexts for.")
@common_options
def select(specs: tuple[Path, ...], day: date, project: Project, output: Output) -> None:
    """Select the contexts of a day.

    Draws a stratified sample for each experiment in each SPEC, and saves those with the same key once, tagged by
    experiment. A SPEC is a file with tables [experiments.<id>], or one experiment's spec with [contexts]. By default:
    all on schedule.

    Experiments that the day has already stay as they are; the others are added as the next revision of its contexts,
    as long as the day can be captured. An experiment that fails costs no other: the others are published, and the
    command then exits with an error. Running it again selects what is missing.

    \b
    Example: delorean select experiments.toml --date 2026-01-05
    """
    from delorean.project.schedule import experiments_of, scheduled
    from schemas.errors import SelectionError
    from snapshotter.selection import select_contexts

    experiments = experiments_of(specs or scheduled(project.schedule, day).selected)
    tables = [table for experiment in experiments for table in experiment.tables.values()]
    late = max((services.late for services in project.schedule.snapshots.values()), default=None)
    with opened(project) as (index, storage), spark_for("select", project, tables) as spark:
        try:
            contexts = select_contexts(spark, experiments, day, storage, index, allow_other=not specs, late=late)
        except SelectionError:
            for before in index.context_sets_of(day)[-1:]:  # what the day has can be captured
                output.show(before)
            raise
    output.show(contexts)
    requested = {experiment.id for experiment in experiments}
    failed = [each for each in contexts.failed if each.id in requested]
    if failed:  # their errors are logged
        click.get_current_context().exit(2 if all(each.final for each in failed) else 1)


@click.group()
def prana() -> None:
    """Run the proxy between snapshot jobs and the online services."""


@prana.command("serve")
@click.option("--config", type=click.Path(path_type=Path), default="services.toml", show_default=True)
@click.option("--host", help="Address to listen on; anyone who reaches it may send requests.  [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 picks a free port.  [9090]")
@click.option("--processes", type=click.IntRange(1, 64), help="Processes; limits apply to all of them together.  [1]")
@click.option(
    "--ports", type=click.Choice(["one", "each"]), help="One port for all processes, or a port for each.  [one]"
)
@click.option("--workers", type=click.IntRange(1, 1_000), help="Concurrent calls of each process.  [32]")
@click.option("--queue", type=click.IntRange(0, 10_000), help="Waiting calls of each process.  [64]")
@click.option("--http-port", type=click.IntRange(0, 65_535), help="Port of /health, /ready and /metrics.  [none]")
@click.option("--log", type=click.Choice(["text", "json"]), help="Log format on stderr.  [json; text on a terminal]")
def prana_serve(config: Path, log: Literal["text", "json"] | None, **settings: Any) -> None:
    """Serve until stopped by Ctrl-C or SIGTERM; a second one stops at once.

    Options override the file's [server] table, which also names certificates and tokens. The file is watched: valid
    changes of its services apply within two seconds; invalid ones are logged, and the running configuration stays.

    \b
    Example: delorean prana serve --config services.toml --port 9090
    """
    from prana_proxy.server import serve as serve_proxy

    overrides = {name: value for name, value in settings.items() if value is not None}
    serve_proxy(config, overrides, log or ("text" if sys.stderr.isatty() else "json"))


@click.command(no_args_is_help=True)
@click.option("--date", "day", type=Day(), required=True, help="The day whose context set is captured.")
@click.option("--run-id", help="Running the same id again publishes nothing twice.  [the date]")
@click.option("--service", "services", multiple=True, help="Only this service; may be repeated.  [all]")
@click.option("--set", "set_name", help="A set of services declared under [schedule.snapshots] of the project file.")
@click.option("--buckets", type=click.IntRange(1), help="A power of two.  [by the number of contexts]")
@click.option("--budget", type=Seconds(), default=60.0, show_default=True, help="Time for each call.")
@click.option(
    "--second-pass/--no-second-pass", default=False, show_default=True, help="Retry failed keys once at the end."
)
@click.option(
    "--drift",
    type=click.Choice(["warn", "hold", "off"]),
    default="warn",
    show_default=True,
    help="If a service's values are outside the range predicted from recent runs: warn, or publish nothing.",
)
@common_options
def snapshot(
    day: date,
    run_id: str | None,
    services: tuple[str, ...],
    set_name: str | None,
    project: Project,
    output: Output,
    **settings: Any,
) -> None:
    """Capture the state of a day's contexts.

    Calls each service through the proxies once for each distinct key of the contexts that have its variables, and
    publishes the answers as one run. Contexts that were added to the day later are captured as a run of their own,
    <run id>.r2 and so on, which requests only keys that the runs before have no answer for. After a failure or a hold
    run the same command again: it requests only what is missing. A set says how complete the answers must be; it is
    never captured for a day that has not begun, or that ended longer ago than the set allows.

    \b
    Example: delorean snapshot --date 2026-01-05
    """
    from delorean.project.config import SnapshotSet, access_to_proxies
    from snapshotter.capture import Floor, SnapshotOptions, take_snapshots

    if set_name is not None and services:
        raise click.UsageError("--set names the services: leave --service out")
    requested = SnapshotSet(services) if set_name is None else project.schedule.snapshot_set(set_name)
    floor = None if requested.floor is None else Floor(requested.floor, requested.below)
    late = None if set_name is None else requested.late
    with opened(project) as (index, _):
        revisions = index.context_sets_of(day) or [index.context_set(day)]  # before Spark starts, which takes long
        with spark_for("snapshot", project) as spark, output.progress() as progress:
            runs = take_snapshots(
                spark,
                revisions,
                requested.services or None,
                project.proxies,
                project.storage,
                index,
                run_id or day.isoformat(),
                SnapshotOptions(**settings, floor=floor, late=late),
                access=access_to_proxies(project),
                progress=progress,
            )
    output.show_all(runs, "revisions")


@click.command(no_args_is_help=True)
@click.argument("element")
@click.argument("table", required=False)
@click.option("--format", "file_format", help="parquet, delta, iceberg, table, or any that Spark can load.  [parquet]")
@click.option("--version", type=int, help="Of a Delta table, or the id of an Iceberg snapshot.  [the newest]")
@click.option("--valid-from", type=Instant(), help="When the table became valid.  [when it is read: now]")
@click.option("--version-id", required=True, help="Publishing the same version again changes nothing.")
@click.option("--if-changed", is_flag=True, help="Publish nothing if the newest version has the same rows.")
@common_options
def publish(
    element: str,
    table: str | None,
    file_format: str | None,
    version: int | None,
    valid_from: datetime | None,
    version_id: str,
    if_changed: bool,
    project: Project,
    output: Output,
) -> None:
    """Publish a version of a global element.

    TABLE has all rows of ELEMENT from a moment on, its first column the rows' key. It is a file or a folder, also in S3
    (s3://bucket/table), or with --format table the name of a table in Spark's catalogue (shop.products); only that
    starts Spark. By default the table named under [schedule.globals] of the project file. Times need a zone; types are
    cast to plain ones where no value changes. Memory does not grow with the table.

    \b
    Example: delorean publish videos videos.parquet --valid-from 2026-01-05T00:00:00Z --version-id day-5
    Example: delorean publish products shop.products --format table --version-id 2026-01-05
    """
    import pyarrow as pa

    from schemas.data_keys import global_element
    from schemas.plain_types import plain_table
    from snapshotter.global_elements import publish_global
    from snapshotter.spark.table_rows import table_rows

    source, rows_read = _table_of(element, table, file_format, version, project), 0
    with ExitStack() as stack:
        rows = table_rows(source, lambda: stack.enter_context(spark_for("publish", project, [source])))

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal rows_read
            for batch in rows:
                rows_read += batch.num_rows
                yield batch

        since = valid_from or datetime.now(UTC)  # not sooner: an earlier moment must not see what is read now
        key = global_element(element, pa.struct(list(plain_table(element, rows.schema.empty_table()).schema)))
        reader = pa.RecordBatchReader.from_batches(rows.schema, counted())
        index, storage = stack.enter_context(opened(project))
        new = publish_global(reader, key, since, storage, index, version_id, if_changed=if_changed)
    output.show({"element": element, "version": version_id, "rows": rows_read, "new": new})


def _table_of(
    element: str, table: str | None, file_format: str | None, version: int | None, project: Project
) -> TableSource:
    """Return the table that is named, or the one on schedule."""
    from snapshotter.storage.table_source import TableSource

    if table is not None:
        return TableSource(table, file_format or "parquet", version)
    if file_format is not None or version is not None:
        raise click.UsageError("--format and --version are those of a TABLE: name it")
    return project.schedule.global_table(element)

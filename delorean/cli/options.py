"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from delorean.cli.output import Output

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from delorean.project.config import Project
    from snapshotter.index import SnapshotIndex
    from snapshotter.storage import Storage
    from snapshotter.storage.table_source import TableSource

PROJECT_FILE = "delorean.project_file"  # key in a click context's meta: the path given by --config
_LONGEST_SPAN = timedelta(days=36_525)
_MOST_SECONDS = 86_400.0
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Day(click.ParamType[date]):
    """A calendar day."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Read it."""
        try:
            return value if isinstance(value, date) else date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a day, expected one such as 2026-01-31", param, ctx)


class Instant(click.ParamType[datetime]):
    """A moment, written with its time zone."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time, expected one such as 2026-01-31T12:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no time zone, write {value}Z for UTC", param, ctx)
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            self.fail(f"{value!r} is outside the years 1 to 9999 in UTC", param, ctx)


class TimeOfDay(click.ParamType[time]):
    """A time of day in UTC."""

    name = "HH:MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> time:
        """Read it."""
        try:
            found = value if isinstance(value, time) else time.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time of day, expected one such as 16:30", param, ctx)
        if found.tzinfo not in (None, UTC):
            self.fail(f"{value!r} is not in UTC, expected a time such as 16:30", param, ctx)
        return found.replace(tzinfo=None)


class Span(click.ParamType[timedelta]):
    """A duration in ISO 8601, as in specs."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it."""
        import msgspec

        try:
            found = value if isinstance(value, timedelta) else msgspec.convert(value, timedelta)
        except msgspec.ValidationError:
            self.fail(f"{value!r} is not a duration, expected one such as PT36H or P7D", param, ctx)
        if found < timedelta(0):
            self.fail(f"{value!r} is negative", param, ctx)
        if found > _LONGEST_SPAN:
            self.fail(f"{value!r} is longer than 100 years", param, ctx)
        return found


class Seconds(click.ParamType[timedelta]):
    """A timeout or a budget, as a number of seconds."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it."""
        if isinstance(value, timedelta):
            return value
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if not 0 < seconds <= _MOST_SECONDS:  # rejects NaN too
            self.fail(f"{value!r} is out of range, expected more than 0 and at most {_MOST_SECONDS:.0f}", param, ctx)
        return timedelta(seconds=seconds)


class Copies(click.ParamType[Mapping[str, int]]):
    """Replicas of a keyspace: in total, or for each datacenter."""

    name = "COPIES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Mapping[str, int]:
        """Read it; the datacenter "" stands for all of them."""
        if not isinstance(value, str):
            return dict(value)
        pairs = [pair.rpartition("=") for pair in value.split(",")]
        if not all(count.isdecimal() and int(count) for _, _, count in pairs) or (
            len(pairs) > 1 and not all(name for name, _, _ in pairs)
        ):
            self.fail(f"{value!r} is not a number of replicas, expected one such as 3 or dc1=3,dc2=3", param, ctx)
        return {name: int(count) for name, _, count in pairs}


def json_option(command: _Command) -> _Command:
    """Add --json to a command, which receives `output`."""

    def make(_: click.Context, __: click.Parameter, as_json: bool) -> Output:
        return Output(as_json)

    return click.option("--json", "output", is_flag=True, callback=make, help="Print one JSON object.")(command)


def project_option(command: _Command) -> _Command:
    """Add --config to a command, which receives `project`; modules in its folder become importable."""

    def load(context: click.Context, _: click.Parameter, path: Path) -> Project:
        from delorean.project.config import load_project
        from delorean.project.elements import elements_of
        from encoders.compilation.code_cache import use_cache_folder
        from encoders.declared_elements import declare_elements
        from encoders.project_modules import import_from_project

        project = load_project(path)
        context.meta[PROJECT_FILE] = path.resolve()
        import_from_project(path.resolve().parent, project.encoders)
        declare_elements(path.resolve().parent, elements_of(project))
        use_cache_folder(project.encoder_cache)
        return project

    return click.option(
        "--config",
        "project",
        type=click.Path(path_type=Path),
        default="delorean.toml",
        show_default=True,
        callback=load,
        help="The project file, which names the index, the storage and the proxies.",
    )(command)


def common_options(command: _Command) -> _Command:
    """Add --config and --json to a command, which receives `project` and `output`."""
    return project_option(json_option(command))


@contextmanager
def opened(project: Project) -> Iterator[tuple[SnapshotIndex, Storage]]:
    """Open a project's index and storage, and close the index at the end."""
    from snapshotter.index import open_index
    from snapshotter.storage import open_storage

    storage = open_storage(project.storage)  # first: opening the index may create its file
    with open_index(project.index) as index:
        yield index, storage


@contextmanager
def spark_for(
    command: str, project: Project, tables: Iterable[TableSource] = (), master: str | None = None
) -> Iterator[SparkSession]:
    """Provide the active Spark session, or start one and stop it at the end.

    master: where Spark runs; None: on the Spark Connect server that the project file names, else where spark-submit
        says, else on this machine
    tables: what the session will read, which decides the extensions that it loads

    The project's settings apply only to a session that is started here.
    """
    from pyspark.sql import SparkSession

    from snapshotter.spark.connect import REMOTE
    from snapshotter.spark.session import spark_session

    started_here = SparkSession.getActiveSession() is None
    settings = {name.replace(".", "__"): value for name, value in project.spark.items()}
    read = list(tables)
    delta = any(table.format == "delta" or table.in_catalogue for table in read)  # a catalogue's table may be Delta
    s3 = any(table.in_s3 for table in read)
    environment = None
    if master is None and (project.submit.master or "").startswith(REMOTE):
        master, environment = project.submit.master, project.submit.environment
    spark = spark_session(f"delorean {command}", master, environment=environment, delta=delta, s3=s3, **settings)
    try:
        yield spark
    finally:
        if started_here:
            spark.stop()

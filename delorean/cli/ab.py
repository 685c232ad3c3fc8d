"""`delorean ab`: plans A/B tests, shows their cells and analyses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from delorean.cli.options import Instant, common_options, opened, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from delorean.ab_tests.declaration import AbTest
    from delorean.project.config import Project

LOSES = 3  # exit code; 1 and 2 are errors of the command itself


@click.group("ab", no_args_is_help=True)
def ab() -> None:
    """Plan A/B tests, look up their cells, and analyse them.

    A TEST is a TOML file: its unit, cells with a package each, metrics and plan; see docs/AB_TESTS.md. `delorean serve
    --test TEST` serves it and logs what was shown; `delorean select TEST` captures its members from the first day.
    """


@ab.command("plan", no_args_is_help=True)
@click.argument("test", type=click.Path(path_type=Path))
@click.option("--until", type=Instant(), help="Outcomes up to this time are the past.  [the start, or now]")
@common_options
def ab_plan(test: Path, until: datetime | None, project: Project, output: Output) -> None:
    """Compute how many units and days a TEST needs, from the past of its metrics.

    Prints the looks with their boundaries, what each of them can see, and what to write into the file.

    \b
    Example: delorean ab plan homepage-2.toml
    """
    from delorean.ab_tests.files import read_test
    from delorean.ab_tests.stored import plan_from_history

    declared = read_test(test)
    with opened(project) as (index, storage), _spark("ab plan", project, declared) as spark:
        output.show(plan_from_history(declared, storage, until, spark=spark, index=index))


@ab.command("assign", no_args_is_help=True)
@click.argument("test", type=click.Path(path_type=Path))
@click.argument("table", required=False)
@click.option("--unit", help="Look up one unit instead of a table.")
@click.option("--text", is_flag=True, help="The unit is a text, even if it looks like a number.")
@click.option("--to", type=click.Path(path_type=Path), help="Write the table with a column `cell` as Parquet.")
@common_options
def ab_assign(
    test: Path, table: str | None, unit: str | None, text: bool, to: Path | None, project: Project, output: Output
) -> None:
    """Give the units of a TABLE of Parquet, or one unit, their cells of a TEST, as the scorer does.

    The first assignment records the declaration: a test that changes afterwards is rejected.

    \b
    Example: delorean ab assign homepage-2.toml profiles.parquet --to cells.parquet
             delorean ab assign homepage-2.toml --unit 7
    """
    import pyarrow as pa

    from delorean.ab_tests.assignment import assign
    from delorean.ab_tests.files import read_test
    from delorean.ab_tests.recorded import start_test
    from snapshotter.storage import open_storage
    from snapshotter.storage.table_source import TableSource

    if (table is None) == (unit is None):
        raise click.UsageError("name either a TABLE or --unit")
    if to is not None and unit is not None:
        raise click.UsageError("--to needs a TABLE")
    declared = read_test(test)
    start_test(declared, open_storage(project.storage))
    if table is not None:
        output.show(assign(declared, TableSource(table), to))
        return
    assert unit is not None
    value = unit if text or not unit.lstrip("-").isdecimal() else int(unit)
    (cell,) = declared.allocate(pa.table({declared.unit: [value]})).tolist()
    name = None if cell < 0 else list(declared.cells)[cell]
    output.show({"test": declared.name, declared.unit: value, "in_test": name is not None, "cell": name})


@ab.command("analyse", no_args_is_help=True)
@click.argument("test", type=click.Path(path_type=Path))
@click.option("--at", type=Instant(), help="As of this time.  [now]")
@click.option("--peek", is_flag=True, help="Only its health: units by cell. No metric is read.")
@common_options
@click.pass_context
def ab_analyse(
    ctx: click.Context, /, test: Path, at: datetime | None, peek: bool, project: Project, output: Output
) -> None:
    """Analyse a TEST at its last planned look: health first, then metrics, then a verdict.

    Reads the exposure log and the outcomes that were known at the look. Before the first look there is only --peek.
    Exits with 3 where no candidate may be shipped because one lost, or the test is broken.

    \b
    Example: delorean ab analyse homepage-2.toml
    """
    from delorean.ab_tests.files import read_test
    from delorean.ab_tests.stored import analyse_interleaved, analyse_test
    from delorean.ab_tests.stored import peek as health_of

    declared = read_test(test)
    with opened(project) as (index, storage):
        if peek:
            health = health_of(declared, storage, at)
            output.show(health)
            if health.broken:
                ctx.exit(LOSES)
            return
        with _spark("ab analyse", project, declared) as spark:
            interleaved = (
                [analyse_interleaved(declared, storage, at, spark=spark, index=index)]
                if declared.interleaving is not None
                else []
            )
            if not declared.metrics and interleaved:
                output.show_all(interleaved, "interleaving")
                return
            result = analyse_test(declared, storage, at, spark=spark, index=index)
    output.show_all([result, *interleaved], "interleaving")
    if result.loses:
        ctx.exit(LOSES)


@contextmanager
def _spark(command: str, project: Project, test: AbTest) -> Iterator[SparkSession | None]:
    """Provide a session where a metric is a query; None where all are tables that are read without one."""
    queries = [metric.query for metric in test.metrics.values()]
    queries += [] if test.interleaving is None else [test.interleaving.query]
    if all(query is None for query in queries):
        yield None
        return
    with spark_for(command, project, test.located_tables.values()) as spark:
        yield spark

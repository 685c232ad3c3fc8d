"""Commands for experiments: run, replay and compare them, list and show their runs."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delorean.cli.options import Day, common_options, opened, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.experiment.record import RunRecord
    from delorean.project.config import Project


def summary(record: RunRecord) -> dict[str, Any]:
    """The fields of a run that `experiment run` prints as JSON."""
    features = record.features
    return {
        "run": record.run_id,
        "name": record.name,
        "started_at": record.started_at,
        "labels": record.labels.id,
        "feature_set": f"{features.feature_set}, version {features.version}",
        "contexts": features.rows,
        "items": features.items,
        "dropped": features.dropped,
        "features": list(features.digest.features),
        "copied": features.copied or None,
        "rows_without": dict(features.absent),
        "leaks": (record.leaks or {}).get("verdict"),
        "notes": list(record.notes),
        "seconds": dict(record.seconds),
        "capture_spread": list(features.spread),
        **({"features_that_tasks_cannot_have": features.impossible} if features.impossible else {}),
        "test": {who: parts["test"] for who, parts in (record.metrics or {}).items()},
    }


run_id_option = click.option(
    "--run-id", help="Running the same id again finishes an interrupted run and repeats nothing.  [the next number]"
)

recompute_option = click.option("--recompute", is_flag=True, help="Copy no features from earlier versions.")

day_option = click.option("--date", "day", type=Day(), help="Use only outcomes known when this day began, UTC.  [all]")


def run_spec(
    spec: Path,
    project: Project,
    output: Output,
    command: str,
    run_id: str | None,
    day: date | None,
    *,
    training: bool,
    recompute: bool,
) -> RunRecord:
    """Run a spec's experiment, or only the generation of its features, and show progress."""
    from delorean.experiment import load_experiment
    from delorean.experiment.run import run_experiment
    from delorean.project.schedule import refuse_taken

    with opened(project) as (index, storage):
        experiment = load_experiment(spec, index)
        refuse_taken(project.schedule, experiment.name, spec)
        with spark_for(command, project, experiment.tables.values()) as spark, output.progress() as progress:
            return run_experiment(
                experiment,
                index,
                storage,
                spark,
                training=training,
                run_id=run_id,
                day=day,
                recompute=recompute,
                progress=progress,
            )


@click.group()
def experiment() -> None:
    """Run experiments, replay their runs, compare them.

    A run's ID is its experiment's id and a number, as in 3f2a91c04b7e-2, or the --run-id in place of the number.
    Wherever an ID is expected, an experiment's id or name means its latest run, and an id may be shortened.
    """


@experiment.command("run", no_args_is_help=True)
@click.argument("spec", type=click.Path(path_type=Path))
@run_id_option
@day_option
@recompute_option
@common_options
def run(spec: Path, run_id: str | None, day: date | None, recompute: bool, project: Project, output: Output) -> None:
    """Run an experiment and record the run.

    Materialises the labels of SPEC in buckets, generates the features, trains and evaluates the model. `delorean
    generate` stops after the features, and records a run too.

    \b
    Example: delorean experiment run homepage.toml
    """
    record = run_spec(spec, project, output, "experiment run", run_id, day, training=True, recompute=recompute)
    output.show(record, summary(record))


@experiment.command("replay", no_args_is_help=True)
@click.argument("run_id", metavar="ID")
@click.option("--buckets", type=click.IntRange(1), help="Another number of buckets; the values are the same.")
@click.option("--cores", type=click.IntRange(0), help="Run Spark on this machine with so many cores; 0: without Spark.")
@click.option("--into", help="The feature set to write.  [<the run's>-replay]")
@common_options
@click.pass_context
def replay(
    context: click.Context,
    run_id: str,
    buckets: int | None,
    cores: int | None,
    into: str | None,
    project: Project,
    output: Output,
) -> None:
    """Repeat a run and compare every value with the recorded one.

    Reads the same labels, snapshots, versions and encoders, whatever was published since. Exits with 3 if a value
    differs, and with 2 if inputs are gone, which it names.

    \b
    Example: delorean experiment replay homepage --buckets 8
    """
    from delorean.experiment.record import find_run
    from delorean.experiment.replay import replay as replay_run

    with opened(project) as (index, storage), output.progress() as progress, ExitStack() as started:
        record = find_run(run_id, storage)
        master = None if cores is None else f"local[{cores}]"
        spark = None if cores == 0 else started.enter_context(spark_for("experiment replay", project, (), master))
        found = replay_run(
            record,
            index,
            storage,
            spark=spark,
            buckets=buckets,
            into=into,
            modules=project.encoders,
            progress=progress,
        )
    output.show(found)
    context.exit(0 if found.identical else 3)


@experiment.command("diff", no_args_is_help=True)
@click.argument("before")
@click.argument("after")
@common_options
def diff(before: str, after: str, project: Project, output: Output) -> None:
    """Show what changed between two runs.

    Settings, encoders, snapshots, global versions, labels, libraries, and how much each feature changed.

    \b
    Example: delorean experiment diff 3f2a91c04b7e-1 3f2a91c04b7e-2
    """
    from delorean.experiment.diff import diff as diff_runs
    from delorean.experiment.record import find_run

    with opened(project) as (_, storage):
        found = diff_runs(find_run(before, storage), find_run(after, storage), storage)
    output.show(found)


@experiment.command("list")
@click.option("--name", help="Only runs of this experiment.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most this many runs.")
@common_options
def list_runs(name: str | None, limit: int, project: Project, output: Output) -> None:
    """List recorded runs, the latest first.

    \b
    Example: delorean experiment list
    """
    from delorean.experiment.record import newest_runs
    from delorean.experiment.record_files import BrokenRecord

    broken: list[BrokenRecord] = []
    with opened(project) as (_, storage):
        rows = [
            {
                "run": record.run_id,
                "name": record.name,
                "started_at": record.started_at,
                "contexts": record.features.rows,
                "features": len(record.features.digest.features),
                "model": None if record.training is None else record.training.model,
                "package": None if record.training is None else record.training.package,
                "ndcg@10": record.ndcg,
                "seconds": round(sum(record.seconds.values()), 1),
            }
            for record in newest_runs(storage, limit, name, broken)
        ]
    output.show({"runs": rows, **({"broken": [vars(record) for record in broken]} if broken else {})})


@experiment.command("forget", no_args_is_help=True)
@click.argument("run_id", metavar="ID")
@common_options
def forget(run_id: str, project: Project, output: Output) -> None:
    """Delete the record of a run: it can never be replayed again.

    Takes the full ID. `delorean vacuum` may then delete what only this run needs: its label data and its version of the
    feature set.

    \b
    Example: delorean experiment forget 3f2a91c04b7e-2
    """
    from delorean.experiment.record import forget_run

    with opened(project) as (_, storage):
        forget_run(run_id, storage)
    output.show({"forgotten": run_id})


@experiment.command("show", no_args_is_help=True)
@click.argument("run_id", metavar="ID")
@common_options
def show(run_id: str, project: Project, output: Output) -> None:
    """Show everything recorded about a run.

    \b
    Example: delorean experiment show homepage --json
    """
    from delorean.experiment.record import find_run

    with opened(project) as (_, storage):
        record = find_run(run_id, storage)
    output.show(record)

"""Commands for models: generate features, train and package a model, serve it."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delorean.cli.compare import REGRESSION
from delorean.cli.experiment import day_option, recompute_option, run_id_option, run_spec
from delorean.cli.options import PROJECT_FILE, Seconds, common_options, opened, project_option, spark_for
from delorean.cli.output import Output
from delorean.cli.registry import package_folder

if TYPE_CHECKING:
    from delorean.project.config import Project
    from delorean.training.report import TrainingReport


@click.command(no_args_is_help=True)
@click.argument("spec", type=click.Path(path_type=Path))
@run_id_option
@day_option
@recompute_option
@common_options
def generate(
    spec: Path, run_id: str | None, day: date | None, recompute: bool, project: Project, output: Output
) -> None:
    """Generate features for label data.

    SPEC names labels and encoders; each row is computed from the state as of its own time. What was read is recorded as
    a run, which `delorean experiment replay` can repeat. Features that an earlier version has, from the same encoders,
    label data and state, are copied from it.

    \b
    Example: delorean generate homepage.toml
    """
    from delorean.feature_sets.table import table_uri
    from snapshotter.storage import open_storage

    record = run_spec(spec, project, output, "generate", run_id, day, training=False, recompute=recompute)
    features = record.features
    output.show(
        {
            "run": record.run_id,
            "feature_set": table_uri(open_storage(project.storage), record.name),
            "version": features.version,
            "labels": record.labels.id,
            "contexts": features.rows,
            "items": features.items,
            "features": list(features.digest.features),
            "copied": features.copied or None,
            "rows_without": dict(features.absent),
            "dropped": features.dropped,
            "leaks": (record.leaks or {}).get("verdict"),
            "notes": list(record.notes),
            "capture_spread": list(features.spread),
            **({"features_that_tasks_cannot_have": features.impossible} if features.impossible else {}),
        }
    )


@click.command(no_args_is_help=True)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--package", "folder", type=click.Path(path_type=Path), required=True, help="Folder of the new package.")
@click.option("--run-id", help="Train on what `generate` produced under this id.  [the newest version]")
@click.option("--tuned", metavar="STUDY", help="Use the best parameters of a study, see `delorean tune`.")
@common_options
@click.pass_context
def train(
    ctx: click.Context,
    spec: Path,
    folder: Path,
    run_id: str | None,
    tuned: str | None,
    project: Project,
    output: Output,
) -> None:
    """Train a model and package it.

    Trains on the feature set that SPEC generated, by the learner of its [model], and evaluates the model, popularity
    and shuffled labels. The training is recorded as a run, see `delorean experiment list`. With --run-id it may be run
    again: an existing package of the same features is kept.

    One model of several [tasks] is compared with models of single tasks. Exits with 3 where a task may lose more than
    [consolidation] tolerates; the package says so too.

    \b
    Example: delorean train homepage.toml --package packages/homepage-1
    """
    from delorean.experiment import load_experiment
    from delorean.experiment.training_run import train_and_package

    experiment = load_experiment(spec)
    if tuned is not None:
        from delorean.experiment.tuning import tuned as with_best

        experiment = with_best(experiment, ctx.meta[PROJECT_FILE].parent, tuned)
    with opened(project) as (index, storage), ExitStack() as started:
        workers = experiment.model.workers > 1
        spark = started.enter_context(spark_for("train", project)) if workers else None
        run = train_and_package(experiment, index, storage, folder, project.encoders, run_id, spark)
    package, report = run.package, run.package.report
    tracked = None
    if project.tracking.mlflow is not None:
        from delorean.tracking import track_trained

        tracked_run = track_trained(package, project.tracking.mlflow, experiment.name, project.encoders)
        tracked = None if tracked_run is None else tracked_run.run_id
    names = {"run": run.record.run_id, "package": str(package.path), "tracked": tracked}
    if not output.as_json:
        output.show({name: value for name, value in names.items() if value is not None})
    output.show(report, {**names, **_training_fields(report)})
    if report.consolidation is not None and not report.consolidation.consolidated:
        ctx.exit(REGRESSION)


def _training_fields(report: TrainingReport) -> dict[str, Any]:
    """Return a training's results as `train` prints them as JSON."""
    import msgspec

    fields = {
        "model": report.model,
        "rounds": report.rounds,
        "test": {who: msgspec.to_builtins(parts["test"]) for who, parts in report.metrics.items()},
        "importances": [{"feature": name, "ndcg@10 lost": lost} for name, lost in report.importances.items()],
        "sizes": report.sizes,
        "seconds": sum(report.seconds.values()),
        "evaluation": msgspec.to_builtins(report.evaluation),
    }
    if report.consolidation is not None:
        fields["consolidation"] = msgspec.to_builtins(report.consolidation)
    return fields


@click.command(no_args_is_help=True)
@click.argument("package")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0 picks a free port.")
@click.option("--budget", type=Seconds(), default=0.5, show_default=True, help="Time for the services.")
@click.option(
    "--test",
    "tests",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Serve the cells of an A/B test; may be repeated for tests of one layer.",
)
@click.option("--log-exposures", is_flag=True, help="Log what is shown also without tests.")
@project_option
def serve(
    package: str,
    host: str,
    port: int,
    budget: timedelta,
    tests: tuple[Path, ...],
    log_exposures: bool,
    project: Project,
) -> None:
    """Rank with a packaged model over HTTP.

    Calls the live services for each request. Ready once the encoders are compiled and PACKAGE has reproduced its golden
    rows. PACKAGE is a folder, or `registry:NAME` for a version or pointer of the registry, which is resolved now.

    With tests, the units of each are answered by its cells, all others by PACKAGE. What is shown is logged in the
    project's storage, see `delorean exposures`.

    \b
    Example: delorean serve registry:production --port 8000
    Example: delorean serve registry:production --test homepage-2.toml
    """
    from delorean.ab_tests.files import read_test
    from delorean.serving import serve as serve_package

    serve_package(
        package_folder(project, package),
        project.services,
        project.index,
        project.storage,
        host,
        port,
        budget=budget,
        modules=project.encoders,
        allow=project.packages.allow,
        tests=[read_test(path) for path in tests],
        log_exposures=log_exposures,
        announce=lambda url: click.echo(f"ready: POST {url}/rank"),
    )

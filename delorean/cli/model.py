"""Commands that learn: generate features, train and package a model, serve it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from delorean.cli.experiment import day_option, run_id_option, run_spec
from delorean.cli.options import Seconds, json_option, opened, project_option
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command(no_args_is_help=True)
@click.argument("spec", type=click.Path(path_type=Path))
@run_id_option
@day_option
@project_option
@json_option
def generate(spec: Path, run_id: str | None, day: date | None, project: Project, output: Output) -> None:
    """Generate features for label data.

    SPEC names labels and encoders; each row is made from the state as of its own time. What was read is recorded as a
    run, so that `delorean experiment replay` can repeat it.

    \b
    Example: delorean generate homepage.toml
    """
    from delorean.feature_sets.table import table_uri
    from snapshotter.storage import open_storage

    record = run_spec(spec, project, output, "generate", run_id, day, training=False)
    made = record.features
    output.show(
        {
            "run": record.run_id,
            "feature_set": table_uri(open_storage(project.storage), record.name),
            "version": made.version,
            "labels": record.labels.id,
            "contexts": made.rows,
            "items": made.items,
            "features": list(made.digest.features),
            "rows_without": dict(made.absent),
            "dropped": made.dropped,
            "leaks": (record.leaks or {}).get("verdict"),
            "notes": list(record.notes),
            "capture_spread": list(made.spread),
        }
    )


@click.command(no_args_is_help=True)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--package", "folder", type=click.Path(path_type=Path), required=True, help="The new package's folder.")
@click.option("--run-id", help="Learn from what `generate` made under this id.  [the newest version]")
@project_option
@json_option
def train(spec: Path, folder: Path, run_id: str | None, project: Project, output: Output) -> None:
    """Train a model and package it.

    Learns from the feature set that SPEC generated, and measures model, popularity and shuffled labels. With --run-id
    it may be run again: a package of these features that is there is left as it is.

    \b
    Example: delorean train homepage.toml --package packages/homepage-1
    """
    import msgspec

    from delorean.experiment import load_experiment
    from delorean.experiment.steps import package_of

    experiment = load_experiment(spec)
    with opened(project) as (index, storage):
        package = package_of(experiment, index, storage, folder, project.encoders, run_id)
    report = package.report
    output.show(
        {
            "package": str(package.path),
            "model": report.model,
            "test": {who: msgspec.to_builtins(parts["test"]) for who, parts in report.metrics.items()},
            "importances": [{"feature": name, "ndcg@10 lost": lost} for name, lost in report.importances.items()],
            "sizes": report.sizes,
            "seconds": sum(report.seconds.values()),
        }
    )


@click.command(no_args_is_help=True)
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0: a free one.")
@click.option("--budget", type=Seconds(), default=0.5, help="For the services.")
@project_option
def serve(package: Path, host: str, port: int, budget: float, project: Project) -> None:
    """Rank with a packaged model over HTTP.

    Asks the live services for each request, once all is warm and PACKAGE's golden rows have come out as packaged.

    \b
    Example: delorean serve packages/homepage-1 --port 8000
    """
    from datetime import timedelta

    from delorean.serving import serve as serve_package

    serve_package(
        package,
        project.services,
        project.index,
        project.storage,
        host,
        port,
        budget=timedelta(seconds=budget),
        modules=project.encoders,
        announce=lambda url: click.echo(f"ready: POST {url}/rank"),
    )

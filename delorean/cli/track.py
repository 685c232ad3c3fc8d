"""The command that records a package in a tracking server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from delorean.cli.options import common_options
from delorean.cli.output import Output
from delorean.cli.registry import package_folder

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command(no_args_is_help=True)
@click.argument("package")
@click.option("--server", metavar="URI", help="Of MLflow.  [the one that the project's file names]")
@click.option("--experiment", help="Of MLflow.  [the name of the experiment that the package is of]")
@common_options
def track(package: str, server: str | None, experiment: str | None, project: Project, output: Output) -> None:
    """Record a package as a run of MLflow.

    Its spec becomes parameters, its report metrics, its lineage tags, and its files a model that MLflow can load and
    score with. A package that is recorded already is not recorded again. With [tracking] mlflow = "http://…" in the
    project's file, `delorean train` does so for each package.

    \b
    Example: delorean track packages/homepage-1 --server http://127.0.0.1:5000
    """
    from delorean.packaging.package import load_package
    from delorean.tracking import track_package

    server = server or project.tracking.mlflow
    if server is None:
        raise click.UsageError('no tracking server: give --server, or write [tracking] mlflow = "http://…"')
    loaded = load_package(package_folder(project, package), modules=project.encoders, allow=project.packages.allow)
    name = experiment or (loaded.lineage.get("spec") or {}).get("name") or loaded.path.name
    run = track_package(loaded, server, name, project.encoders)
    output.show({"run": run.run_id, "experiment": run.experiment, "model": run.model_uri})

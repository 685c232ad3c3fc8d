"""The command that scores a feature set with a package."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from delorean.cli.experiment import run_id_option
from delorean.cli.options import common_options, opened, spark_for
from delorean.cli.output import Output
from delorean.cli.registry import package_folder

if TYPE_CHECKING:
    from delorean.project.config import Project


@click.command(no_args_is_help=True)
@click.argument("feature_set")
@click.option("--package", "packaged", required=True, help="The package that scores: a folder, or registry:NAME.")
@click.option("--version", type=click.IntRange(0), help="Of the feature set.  [the newest]")
@click.option("--into", help="Name of the predictions.  [the feature set's]")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Carry this column along; may be repeated.")
@click.option("--cores", type=click.IntRange(0), help="Run Spark on this machine with so many cores; 0: without Spark.")
@run_id_option
@common_options
def predict(
    feature_set: str,
    packaged: str,
    version: int | None,
    into: str | None,
    keep: tuple[str, ...],
    cores: int | None,
    run_id: str | None,
    project: Project,
    output: Output,
) -> None:
    """Score every item of a feature set.

    Writes a Delta table with a row for each context, and a list of scores beside its list of items; rows need no
    labels. The features must have been computed by the package's own encoders.

    \b
    Example: delorean predict homepage --package packages/homepage-1 --keep label
    """
    from delorean.feature_sets.table import table_uri
    from delorean.packaging.package import load_package
    from delorean.prediction import predict as predict_scores

    package = load_package(package_folder(project, packaged), modules=project.encoders, allow=project.packages.allow)
    with opened(project) as (_, storage), output.progress() as progress, ExitStack() as started:
        master = None if cores is None else f"local[{cores}]"
        spark = None if cores == 0 else started.enter_context(spark_for("predict", project, (), master))
        predictions = predict_scores(
            package,
            table_uri(storage, feature_set),
            storage,
            into or feature_set,
            version=version,
            keep=keep,
            run_id=run_id,
            spark=spark,
            progress=progress,
        )
        output.show(predictions)

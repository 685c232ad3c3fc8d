"""Commands on feature sets: list their versions, add them to Spark's catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from delorean.cli.options import common_options, opened, spark_for
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.experiment.record_files import BrokenRecord
    from delorean.feature_sets.table import FeatureSetVersion
    from delorean.project.config import Project
    from snapshotter.storage import Storage


@click.command("features")
@click.argument("feature_set", required=False)
@click.option("--experiment", help="Only versions generated for the experiment with this id.")
@common_options
def features(feature_set: str | None, experiment: str | None, project: Project, output: Output) -> None:
    """List versions of one feature set or of all, newest first.

    Each names the experiment that it was generated for, and the recorded runs that need it: no vacuum deletes those.

    \b
    Example: delorean index features homepage
    """
    from delorean.experiment.record import recorded_runs
    from delorean.feature_sets.table import table_uri, versions_of

    broken: list[BrokenRecord] = []
    with opened(project) as (_, storage):
        runs = [(run.run_id, run.features.feature_set, run.features.version) for run in recorded_runs(storage, broken)]
        if feature_set is None:
            versions = list(_all_versions(storage, broken))
        else:
            versions = [(feature_set, versions_of(table_uri(storage, feature_set)))]
    rows: list[dict[str, Any]] = [
        {
            "feature_set": name,
            "version": each.version,
            "committed_at": each.committed_at,
            "experiment": each.experiment,
            "labels": each.lineage.get("labels"),
            "features": len(each.lineage.get("features", ())),
            "runs": [run for run, *version in runs if version == [name, each.version]],
        }
        for name, of_set in versions
        for each in of_set
        if experiment is None or each.experiment == experiment
    ]
    output.show({"versions": rows, **({"broken": [vars(one) for one in broken]} if broken else {})})


@click.group("features")
def feature_sets_group() -> None:
    """Make feature sets available to other programs. `delorean index features` lists them."""


@feature_sets_group.command("register", no_args_is_help=True)
@click.argument("feature_set")
@click.option("--as", "table", help="database.table in Spark's catalogue.  [features.FEATURE_SET]")
@common_options
def register(feature_set: str, table: str | None, project: Project, output: Output) -> None:
    """Add a feature set to Spark's catalogue, so that any session that shares it can SELECT from it by name.

    Later versions are seen without registering again; registering again changes nothing. Which catalogue that is, such
    as a Hive metastore, is a setting of Spark's: [spark] in the project file, or spark-submit's.

    \b
    Example: delorean features register homepage --as features.homepage
    """
    from delorean.feature_sets.registration import register_feature_set
    from delorean.feature_sets.table import open_table, table_uri
    from snapshotter.storage.table_source import TableSource

    with opened(project) as (_, storage):
        uri = table_uri(storage, feature_set)
        open_table(uri)  # raises before Spark starts, which takes long
        with spark_for("features register", project, [TableSource(uri, "delta")]) as spark:
            registered = register_feature_set(spark, storage, feature_set, table)
    output.show(vars(registered))


def _all_versions(storage: Storage, broken: list[BrokenRecord]) -> Iterator[tuple[str, Sequence[FeatureSetVersion]]]:
    """Yield the versions of each feature set. One that cannot be read is added to `broken`."""
    from delorean.experiment.record_files import BrokenRecord
    from delorean.feature_sets.table import FOLDER, feature_sets, table_uri, versions_of
    from schemas.errors import DeloreanError

    for name in feature_sets(storage):
        try:
            yield name, versions_of(table_uri(storage, name))
        except DeloreanError as error:
            broken.append(BrokenRecord(f"{FOLDER}/{name}", str(error)))

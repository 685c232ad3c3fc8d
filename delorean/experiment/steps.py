"""The steps of an experiment: its labels put into buckets, its features generated, its model trained and packaged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from delorean.experiment.checks import check_spec
from delorean.experiment.settings import as_recorded, changed_settings, require_generated_by
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.tables import pinned_tables, query
from delorean.feature_sets.table import made_by, open_table, table_uri
from delorean.generation import FeatureSet, generate, lineage_of
from delorean.generation.bucket_task import first_data_maps
from delorean.generation.plan import plan_generation
from delorean.labels import Labels, find_labels, load_labels
from delorean.labels.materialise import materialise_labels
from delorean.packaging.package import Lineage, ModelPackage, load_package, write_package
from delorean.state.rules import AsOf
from delorean.state.sources import Pinned
from delorean.training import read_feature_set, train
from encoders.feature_model import LIBRARY
from schemas.errors import ConfigError, LabelError, PackageError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage
from snapshotter.storage.table_source import TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from delorean.training import TrainedModel

_GOLDEN_CANDIDATES = 2_000


def labels_of(
    experiment: ExperimentSpec,
    spark: SparkSession | None,
    storage: Storage,
    run_id: str | None = None,
    day: date | None = None,
) -> Labels:
    """Put the experiment's label data into buckets, or give what an earlier run has put there under its id.

    spark: None: only what is there can be given
    run_id: run again, the run finds its own label data, if the spec names none
    day: only what was known when this day began, in UTC, so that it is the same whenever the run takes place; it is
        what `:date` in the query means, and such label data is the run's own whatever the spec calls it

    Raises LabelError, also where the label data of that id comes from another query or another version of a table, and
    before any work what `check_spec` raises.
    """
    check_spec(experiment, run_id=run_id)
    spec = experiment.labels
    labels_id = spec.id if day is None else None
    if labels_id is None and run_id is not None:
        labels_id = _labels_of_run(experiment, run_id, day)
        if (earlier := find_labels(labels_id, storage)) is not None:
            return earlier
    if day is None and (at_rest := labels_at_rest(experiment, storage)) is not None:
        return at_rest
    if spark is None:
        raise LabelError.because(
            f"the label data of experiment '{experiment.name}' is not at rest, and its query needs Spark",
            "give a session (spark=…), or give the spec the id of label data that is there (labels.id)",
        )
    tables = pinned_tables(experiment.located_tables)
    return materialise_labels(
        _known(query(spark, spec.sql, tables, day), spec.columns.outcome_at, day),
        spec.columns,
        storage,
        labels_id=labels_id,
        named=spec.id is not None and day is None,
        bucket_variable=spec.bucket_variable,
        buckets=spec.buckets,
        source={**_source(experiment, tables), **({} if day is None else {"date": day.isoformat()})},
    )


def _known(rows: DataFrame, outcome_at: str, day: date | None) -> DataFrame:
    """Leave out what nobody knew yet when a day began; a missing column is named later, with its likes."""
    if day is None or outcome_at not in rows.columns:
        return rows
    return rows.where(rows[outcome_at] <= datetime.combine(day, time(), UTC))


def labels_at_rest(experiment: ExperimentSpec, storage: Storage) -> Labels | None:
    """Give the label data that an earlier run has put into buckets under the spec's id; None where there is none.

    Raises LabelError where it comes from another query or another version of a table, or its manifest cannot be read.
    """
    if experiment.labels.id is None:
        return None
    labels = find_labels(experiment.labels.id, storage)
    if labels is None:
        return None
    if labels.source and labels.source != _source(experiment, pinned_tables(experiment.located_tables)):
        raise LabelError.because(
            f"label data '{labels.labels_id}' was made by another query, or from another version of its tables",
            "give the new labels another id, or none: then every run makes its own",
        )
    return labels


def labels_id_of(experiment: ExperimentSpec, run_id: str, day: date | None) -> str:
    """Name the label data that a run with an id learns from, see `labels_of`."""
    return (experiment.labels.id if day is None else None) or _labels_of_run(experiment, run_id, day)


def _labels_of_run(experiment: ExperimentSpec, run_id: str, day: date | None) -> str:
    """Derive the id of label data that only the runs of one id use. No person chose it."""
    of = f"{experiment.id}/{run_id}" + ("" if day is None else f"/{day}")
    return hashlib.sha256(of.encode()).hexdigest()[:12]


def _source(experiment: ExperimentSpec, tables: Mapping[str, TableSource]) -> dict[str, Any]:
    """Say what label data comes from, as the spec names it, not where it lies: a project may be moved."""
    named = {name: replace(table, version=tables[name].version) for name, table in experiment.tables.items()}
    return {"spec": experiment.to_json()["labels"], "tables": msgspec.to_builtins(named)}


def features_of(
    experiment: ExperimentSpec,
    labels: Labels,
    index: SnapshotIndex,
    storage: Storage,
    spark: SparkSession | None = None,
    progress: Progress | None = None,
    run_id: str | None = None,
) -> FeatureSet:
    """Generate the experiment's features for label data, see `delorean.generate`."""
    return generate(
        labels,
        experiment.feature_model,
        index,
        storage,
        experiment.name,
        rules=experiment.as_of,
        confidence=experiment.confidence,
        spread=experiment.spread,
        leaks=experiment.leaks,
        experiment=experiment.id,
        spec=experiment.to_json(),
        run_id=run_id,
        spark=spark,
        progress=progress,
    )


def trained_of(experiment: ExperimentSpec, labels: Labels, uri: str, version: int | None = None) -> TrainedModel:
    """Train the experiment's model on a version of its feature set, by default the newest. Raises TrainingError."""
    context, items = ([key.name for key in keys] for keys in (labels.context, labels.items))
    model = experiment.model
    data = read_feature_set(
        uri,
        experiment.feature_model.features,
        items,
        context,
        version=version,
        weight=model.weight,
        max_items=model.max_items,
        seed=model.seed,
    )
    return train(data, experiment.split, model.build(), model.seed)


def package_of(
    experiment: ExperimentSpec,
    index: SnapshotIndex,
    storage: Storage,
    folder: Path,
    modules: Sequence[str] = (LIBRARY,),
    run_id: str | None = None,
) -> ModelPackage:
    """Train on a version of the experiment's feature set and package the model.

    folder: the new package's
    modules: where the package's encoders may come from
    run_id: of the generation that made the version; then a folder that holds a package of it is given as it is. None:
        the newest version

    Raises TrainingError, PackageError, and ConfigError if the features are not generated yet, or by another spec: what
    it says about the split and the model may change, since only training reads it.
    """
    uri = table_uri(storage, experiment.name)
    version = _version(storage, experiment.name, run_id)
    if run_id is not None and folder.exists():
        return _packaged(folder, modules, uri, version, experiment)
    made_from = lineage_of(uri, version)
    model = experiment.feature_model
    require_generated_by(experiment, made_from, f"version {version} of feature set '{experiment.name}'")
    labels = load_labels(made_from["labels"], storage)
    trained = trained_of(experiment, labels, uri, version)
    pinned = Pinned(made_from["snapshots"], made_from["globals"])
    plan = plan_generation(
        labels,
        model,
        index,
        storage.uri,
        experiment.as_of,
        confidence=experiment.confidence,
        spread=experiment.spread,
        pinned=pinned,
    )
    return write_package(
        folder,
        trained,
        model,
        labels.context,
        labels.items,
        [source.service for source in plan.services],
        first_data_maps(plan, _GOLDEN_CANDIDATES),
        Lineage(
            label_data={"id": labels.labels_id, "files": {file.path: file.checksum for file in labels.files}},
            feature_set={"uri": uri, "version": version, "spec_hash": made_from["experiment"]},
            snapshot_runs=made_from["snapshots"],
            global_versions=made_from["globals"],
            spec_hash=experiment.id,
            spec=experiment.to_json(),
            rules={name: AsOf.from_json(rule) for name, rule in made_from.get("rules", {}).items()},
        ),
        modules=modules,
    )


def _version(storage: Storage, name: str, run_id: str | None) -> int:
    """Find the version that the generation of an id made, or the newest of this moment: another may come meanwhile."""
    if run_id is None:
        return int(open_table(table_uri(storage, name)).version())
    made = made_by(storage, name, run_id)
    if made is None:
        raise ConfigError.because(
            f"no run '{run_id}' has made features of '{name}'", f"run delorean generate with --run-id {run_id}"
        )
    return made.feature_set.version


def _packaged(folder: Path, modules: Sequence[str], uri: str, version: int, experiment: ExperimentSpec) -> ModelPackage:
    """Give the package that is in a folder. Raises PackageError if it is of another version or another spec."""
    package = load_package(folder, modules=modules)
    features = package.lineage.get("feature_set", {})
    if (features.get("uri"), features.get("version")) != (uri, version):
        raise PackageError.because(
            f"{folder} is there, and is not of version {version} of {uri}", "name another folder"
        )
    if package.lineage.get("spec_hash") != experiment.id:
        found = changed_settings(package.lineage.get("spec") or {}, as_recorded(experiment))
        raise PackageError.because(
            f"{folder} holds a model of another spec: {', '.join(row['field'] for row in found)} changed since",
            "name another folder",
        )
    return package

"""The steps of an experiment after its labels: generate features, train the model, package it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delorean.experiment.label_quality import require_label_quality
from delorean.experiment.settings import as_recorded, changed_settings, require_generated_by
from delorean.experiment.spec import ExperimentSpec
from delorean.feature_sets.table import FeatureSet, find_committed, lineage_of, open_table, table_uri
from delorean.generation import generate
from delorean.generation.bucket_task import first_data_maps
from delorean.generation.generation_plan import GenerationPlan, plan_generation
from delorean.labels import WEIGHT_COLUMN, Labels, load_labels
from delorean.ranking_data.context_weights import ContextWeight
from delorean.state.rules import AsOf
from delorean.state.sources import PinnedSources
from delorean.tasks.task_set import recorded_tasks
from encoders.feature_model import LIBRARY, FeatureModel
from schemas.errors import ConfigError, PackageError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from delorean.packaging.package import ModelPackage
    from delorean.packaging.writing import Lineage
    from delorean.ranking_data.feature_set_reader import FeatureSetSource
    from delorean.training.fitting import TrainedModel

_GOLDEN_CANDIDATES = 2_000


def features_of(
    experiment: ExperimentSpec,
    labels: Labels,
    index: SnapshotIndex,
    storage: Storage,
    spark: SparkSession | None = None,
    progress: Progress | None = None,
    run_id: str | None = None,
    recompute: bool = False,
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
        tasks=experiment.task_set,
        run_id=run_id,
        recompute=recompute,
        spark=spark,
        progress=progress,
    )


def train_on(
    experiment: ExperimentSpec,
    labels: Labels,
    uri: str,
    version: int | None = None,
    spark: SparkSession | None = None,
) -> TrainedModel:
    """Train the experiment's model on a version of its feature set.

    labels: those that the feature set was generated from
    uri, version: of the feature set; None: the newest version
    spark: where the model's workers run, if it has several

    Raises TrainingError, and ConfigError for several workers without Spark, and for a learner that cannot share a model
    among tasks as the spec says.
    """
    from delorean.training.fitting import train, with_tasks  # generation must not import scikit-learn
    from delorean.training.learners.choice import as_learner

    model = experiment.model
    source = learning_source(experiment, labels, uri, version)
    encoders = encoders_features(experiment.feature_model)
    if model.workers > 1:
        return _train_on_spark(experiment, source, encoders, spark)
    tasks, learner = recorded_tasks(lineage_of(uri, version)), model.build()
    with_tasks(as_learner(learner), tasks, experiment.consolidation).check()  # before anything is read
    return train(
        source.parts(experiment.split),
        experiment.split,
        learner,
        model.seed,
        evaluation=experiment.evaluation,
        encoders=encoders,
        tasks=tasks,
        consolidation=experiment.consolidation,
    )


def learning_source(
    experiment: ExperimentSpec, labels: Labels, uri: str, version: int | None = None
) -> FeatureSetSource:
    """Return what the experiment's model learns from: a version of its feature set, see `train_on`."""
    from delorean.ranking_data.feature_set_reader import FeatureSetSource, RankingColumns

    label = experiment.model.label_of(labels.label_names)
    context = tuple(key.name for key in labels.context)
    columns = RankingColumns(
        experiment.feature_model.features,
        tuple(key.name for key in labels.items),
        context,
        weight_of_contexts(experiment),
        label,
        WEIGHT_COLUMN if labels.weighted else None,
        tuple(name for name in labels.label_names if name != label),
        experiment.evaluation.columns([*context, "time"]),
    )
    return FeatureSetSource(uri, version, columns, experiment.model.max_items, experiment.model.seed)


def weight_of_contexts(experiment: ExperimentSpec) -> str | ContextWeight | None:
    """Return the weight of each context: the model's, multiplied by that of the context's task."""
    weight, tasks = experiment.model.weight, experiment.task_weights
    if not tasks:
        return weight
    if weight is None or isinstance(weight, str):
        return ContextWeight(times=weight, tasks=tasks)
    return replace(weight, tasks=tasks)


def encoders_features(model: FeatureModel) -> dict[str, tuple[str, ...]]:
    """Return encoder → its features. Of encoders of one name, the names contain the features."""
    titles = [encoder.title.rpartition(":")[2] for encoder in model.encoders]
    return {
        title if titles.count(title) == 1 else f"{title}: {', '.join(encoder.features)}": encoder.features
        for title, encoder in zip(titles, model.encoders, strict=True)
    }


def _train_on_spark(
    experiment: ExperimentSpec,
    source: FeatureSetSource,
    encoders: Mapping[str, Sequence[str]],
    spark: SparkSession | None,
) -> TrainedModel:
    from delorean.training.distributed import train_on_spark
    from delorean.training.fitting import Measuring

    model = experiment.model
    if spark is None:
        raise ConfigError.because(
            f"the model's {model.workers} workers are Spark tasks, and there is no Spark session",
            "pass spark=project.spark_session(), or write workers = 1 in [model]",
        )
    measuring = Measuring(model.seed, experiment.evaluation, encoders)
    return train_on_spark(spark, source, experiment.split, model.build(), model.workers, measuring)


def package_of(
    experiment: ExperimentSpec,
    index: SnapshotIndex,
    storage: Storage,
    folder: Path,
    modules: Sequence[str] = (LIBRARY,),
    run_id: str | None = None,
    spark: SparkSession | None = None,
) -> ModelPackage:
    """Train the experiment's model on the features that were generated for it, and package it.

    folder: of the new package
    spark: as in `train_on`
    modules: that the package's encoders may be imported from
    run_id: of the generation; a folder that already has a package of its features is then returned as it is. None: the
        newest version of the feature set

    Raises TrainingError, QualityError for label data that breaks binding limits, PackageError, and ConfigError if the
    features are not generated yet, or were generated by another spec. What only training reads may have changed since,
    such as its split and model.
    """
    from delorean.packaging.writing import write_package  # generation must not import scikit-learn

    if run_id is not None and folder.exists():
        return _existing_package(folder, modules, experiment, storage, run_id)
    uri, version, lineage = generated_features(experiment, storage, run_id)
    labels = load_labels(lineage["labels"], storage)
    require_label_quality(experiment, labels, storage)
    trained = train_on(experiment, labels, uri, version, spark)
    plan = _plan_of(experiment, labels, index, storage, lineage)
    return write_package(
        folder,
        trained,
        experiment.feature_model,
        labels.context,
        labels.items,
        [source.service for source in plan.services],
        first_data_maps(plan, _GOLDEN_CANDIDATES),
        _lineage_of(experiment, labels, uri, version, lineage),
        modules=modules,
    )


def generated_features(
    experiment: ExperimentSpec, storage: Storage, run_id: str | None
) -> tuple[str, int, dict[str, Any]]:
    """Return the URI, the version and the lineage of the experiment's features.

    run_id: of the generation; None: the newest version of the feature set

    Raises ConfigError if they are not generated yet, or were generated by another spec.
    """
    uri, version = table_uri(storage, experiment.name), _version(storage, experiment.name, run_id)
    lineage = lineage_of(uri, version)
    require_generated_by(experiment, lineage, f"version {version} of feature set '{experiment.name}'")
    return uri, version, lineage


def _plan_of(
    experiment: ExperimentSpec, labels: Labels, index: SnapshotIndex, storage: Storage, lineage: Mapping[str, Any]
) -> GenerationPlan:
    """Plan the generation again that made the features with a lineage: with the runs and versions that it read."""
    return plan_generation(
        labels,
        experiment.feature_model,
        index,
        storage.uri,
        experiment.as_of,
        confidence=experiment.confidence,
        spread=experiment.spread,
        pinned=PinnedSources(lineage["snapshots"], lineage["globals"]),
        tasks=experiment.task_set,
    )


def _lineage_of(experiment: ExperimentSpec, labels: Labels, uri: str, version: int, lineage: dict[str, Any]) -> Lineage:
    from delorean.packaging.writing import Lineage

    return Lineage(
        label_data={"id": labels.labels_id, "files": {file.path: file.checksum for file in labels.files}},
        feature_set={"uri": uri, "version": version, "spec_hash": lineage["experiment"]},
        snapshot_runs=lineage["snapshots"],
        global_versions=lineage["globals"],
        spec_hash=experiment.id,
        spec=experiment.to_json(),
        rules={name: AsOf.from_json(rule) for name, rule in lineage.get("rules", {}).items()},
    )


def _version(storage: Storage, name: str, run_id: str | None) -> int:
    """Return the version that a generation made, or the newest at this moment: another may be committed meanwhile."""
    if run_id is None:
        return int(open_table(table_uri(storage, name)).version())
    made = find_committed(storage, name, run_id)
    if made is None:
        raise ConfigError.because(
            f"no run '{run_id}' has generated features of '{name}'", f"run delorean generate with --run-id {run_id}"
        )
    return made.feature_set.version


def _existing_package(
    folder: Path, modules: Sequence[str], experiment: ExperimentSpec, storage: Storage, run_id: str
) -> ModelPackage:
    """Load the package in a folder. Raises PackageError if it is of another version or another spec."""
    from delorean.packaging.package import load_package

    uri, version = table_uri(storage, experiment.name), _version(storage, experiment.name, run_id)
    package = load_package(folder, modules=modules)
    features = package.lineage.get("feature_set", {})
    if (features.get("uri"), features.get("version")) != (uri, version):
        raise PackageError.because(
            f"{folder} exists, and is not a package of version {version} of {uri}", "name another folder"
        )
    if package.lineage.get("spec_hash") != experiment.id:
        changed = changed_settings(package.lineage.get("spec") or {}, as_recorded(experiment))
        raise PackageError.because(
            f"{folder} holds a model of another spec: {', '.join(row['field'] for row in changed)} changed since",
            "name another folder",
        )
    return package

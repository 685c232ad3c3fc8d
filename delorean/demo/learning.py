"""The demo's learning: features, the package of the day before, a candidate, their comparison, and the registry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from delorean.comparison.packages import compare_packages
from delorean.comparison.result import Comparison
from delorean.comparison.settings import ComparisonSettings
from delorean.demo.company import CapturedDay
from delorean.demo.folder import CompanyFolder
from delorean.demo.step_bars import StepBars
from delorean.experiment import ExperimentSpec
from delorean.experiment.label_data import labels_of
from delorean.experiment.steps import features_of
from delorean.experiment.training_run import train_and_package
from delorean.experiment.tuning import tune, tuned
from delorean.feature_sets.table import FeatureSet
from delorean.packaging.package import ModelPackage
from delorean.ranking_data.split import Split
from delorean.registry.registry import Registry
from delorean.tuning.result import TuningResult
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PRODUCTION: Final = "production"
_VALIDATION_SHARE = 0.2  # of the time before the last day


@dataclass(frozen=True)
class Learned:
    """What the company learned.

    tuning: the search for the candidate's parameters
    candidate: the new package; comparison: with the package of the day before, which was in production
    package: the better of the two, which is in production now; version: its name in the registry
    """

    features: FeatureSet
    tuning: TuningResult
    candidate: ModelPackage
    comparison: Comparison
    package: ModelPackage
    version: str


def learn(
    folder: CompanyFolder,
    captured_days: tuple[CapturedDay, ...],
    spark: SparkSession,
    storage: Storage,
    index: SnapshotIndex,
    steps: StepBars,
) -> Learned:
    """Run the experiment step by step, each with its own progress bar; both trainings are recorded as runs."""
    experiment = folder.experiment()
    with steps.step("labels"):
        labels = labels_of(experiment, spark, storage, index=index)
    with steps.step("generate", len(labels.files)):
        features = features_of(
            experiment, labels, index, storage, spark, lambda _, done, of: steps.show("generate", done, of)
        )
    with steps.step("train"):
        yesterday = day_before(experiment, captured_days)
        before = train_and_package(yesterday, index, storage, folder.package("homepage-1")).package
    with steps.step("tune", experiment.tuning.trials):
        tuning = tune(experiment, storage, folder.root, progress=lambda _, done, of: steps.show("tune", done, of))
        best = tuned(experiment, folder.root, experiment.name)
        candidate = train_and_package(best, index, storage, folder.package("homepage-2")).package
    with steps.step("compare"):
        registry = Registry(storage)
        for package in (before, candidate):
            registry.add(package.path, package.path.name)
        registry.move(PRODUCTION, before.path.name, "the first package")
        settings = ComparisonSettings(experiment.evaluation)
        comparison = compare_packages(
            candidate, before, (features.uri, features.version), index=index, storage=storage, settings=settings
        )
        if comparison.worth_testing:
            registry.move(PRODUCTION, candidate.path.name, comparison.reasons[0], expected=before.path.name)
        version = registry.version(PRODUCTION).name
    package = candidate if version == candidate.path.name else before
    return Learned(features, tuning, candidate, comparison, package, version)


def day_before(experiment: ExperimentSpec, captured_days: tuple[CapturedDay, ...]) -> ExperimentSpec:
    """Return the experiment as it was trained on the day before: it learns nothing of the last day.

    The features of earlier rows are those that were generated then, because no feature knows a later capture.
    """
    first, last = captured_days[0].moment, captured_days[-1].moment
    split = Split(validation_from=last - (last - first) * _VALIDATION_SHARE, test_from=last)
    return replace(experiment, split=split)

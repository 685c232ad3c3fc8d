"""The demo's model of several tasks, and the one after a task was added by configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from delorean.demo.company import CapturedDay
from delorean.demo.folder import CompanyFolder
from delorean.demo.parity import RecordedTasks
from delorean.demo.step_bars import StepBars
from delorean.experiment import ExperimentSpec
from delorean.experiment.label_data import labels_of
from delorean.experiment.steps import features_of
from delorean.experiment.training_run import train_and_package
from delorean.feature_sets.table import FeatureSet
from delorean.labels import Labels
from delorean.packaging.package import ModelPackage
from delorean.registry.registry import Registry
from delorean.training.consolidation.settings import Consolidation
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MEMBERS = "members"  # the registry's name for the model of several tasks that serves


@dataclass(frozen=True)
class TaskModel:
    """A model of several tasks, and what it was learned from."""

    experiment: ExperimentSpec
    labels: Labels
    features: FeatureSet
    package: ModelPackage


def recorded_tasks(model: TaskModel, captured_days: Sequence[CapturedDay]) -> RecordedTasks:
    """Return a model's tasks, and the variables that the answers of captured services depend on."""
    tasks = model.package.tasks
    assert tasks is not None  # a spec of tasks makes a package of tasks
    services = {each.service for day in captured_days for each in day.snapshots}
    return RecordedTasks(tasks, {each.name: [key.name for key in each.key] for each in services})


@dataclass(frozen=True)
class TaskModels:
    """The models of several tasks.

    first: of three tasks; second: the same after a task was added, which serves as `registry:members`
    rival: of the same tasks, sharing one model in another way
    """

    first: TaskModel
    second: TaskModel
    rival: ModelPackage


def learn_tasks(
    folder: CompanyFolder, spark: SparkSession, storage: Storage, index: SnapshotIndex, steps: StepBars
) -> TaskModels:
    """Learn one model of the tasks in `members.toml`, append a task to it, learn again, and share in another way."""
    with steps.step("tasks"):
        first = _learn(folder, "members-1", spark, storage, index)
    with steps.step("added"):
        folder.add_notifications()
        second = _learn(folder, "members-2", spark, storage, index)
    with steps.step("rival"):
        sharing = Consolidation(sharing="task_type", compare=())
        other = replace(second.experiment, consolidation=sharing)
        rival = train_and_package(other, index, storage, folder.package("members-task-type")).package
    registry = Registry(storage)
    for package in (first.package, second.package):
        registry.add(package.path, package.path.name)
    registry.move(MEMBERS, second.package.path.name, "it has notifications, too")
    return TaskModels(first, second, rival)


def _learn(
    folder: CompanyFolder, package: str, spark: SparkSession, storage: Storage, index: SnapshotIndex
) -> TaskModel:
    experiment = folder.members()
    labels = labels_of(experiment, spark, storage, index=index)
    features = features_of(experiment, labels, index, storage)
    packaged = train_and_package(experiment, index, storage, folder.package(package)).package
    return TaskModel(experiment, labels, features, packaged)

"""DeLorean: a feature time machine for recommender teams.

`open_project` opens a project; everything else can be done with what it returns: travel to past moments, generate
features, run and replay experiments, train, package and rank. `as_of_join` is the rule behind all of it, for any Arrow
tables. docs/API.md lists every public name.
"""

from __future__ import annotations

import os
import sys

# `python -m delorean` puts the working folder first on the path, usually a project's, whose files would hide ours and
# Python's. Move it to the end before anything else is imported, unless this package lies in it.
_first = os.path.abspath(sys.path[0]) if sys.argv[:1] == ["-m"] and sys.path else None
if _first == os.getcwd() and _first != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
    sys.path.append(sys.path.pop(0))

from typing import TYPE_CHECKING, Any  # noqa: E402  # the path comes first

from delorean.telemetry import disable_telemetry  # noqa: E402  # as above
from schemas.lazy_imports import lazy_getattr  # noqa: E402  # as above

disable_telemetry()  # before anything is imported that sends any

if TYPE_CHECKING:
    from delorean.ab_tests.declaration import AbTest
    from delorean.ab_tests.files import read_test
    from delorean.ab_tests.stored import analyse_test
    from delorean.as_of.join import as_of_join
    from delorean.as_of.spark_join import as_of_join_spark
    from delorean.audit.comparison import compare_encoders, compare_feature_sets
    from delorean.audit.paradox import check_feature_set
    from delorean.comparison import compare_packages, compare_scores
    from delorean.coverage import day_coverage, label_coverage
    from delorean.display.text import show
    from delorean.evaluation.by_context import metrics_by_context
    from delorean.evaluation.metrics import ranking_metrics
    from delorean.evaluation.settings import EvaluationSettings
    from delorean.experiment.diff import diff
    from delorean.experiment.encoder_spec import EncoderSpec
    from delorean.experiment.files import load_experiment
    from delorean.experiment.label_spec import LabelSpec
    from delorean.experiment.model_spec import ModelSpec
    from delorean.experiment.replay import replay
    from delorean.experiment.run import run_experiment
    from delorean.experiment.spec import ExperimentSpec, ScheduleSpec
    from delorean.experiment.task_spec import MergeSpec, TaskSpec
    from delorean.exposures.reader import read_exposures
    from delorean.feature_sets.registration import register_feature_set
    from delorean.generation import generate
    from delorean.label_quality.limits import LabelQualityLimits
    from delorean.label_quality.measure import measure_label_quality
    from delorean.labels import LabelColumns, load_labels
    from delorean.labels.materialise import materialise_labels, materialise_tasks
    from delorean.labels.task_layout import TaskRows
    from delorean.labels.task_sample import LabelSample
    from delorean.leaks import LeakThresholds
    from delorean.packaging.package import load_package
    from delorean.prediction import load_predictions, predict
    from delorean.project.open_project import OpenProject, open_project
    from delorean.ranking_data.context_weights import ContextWeight
    from delorean.ranking_data.feature_set_reader import read_feature_set
    from delorean.ranking_data.split import Split
    from delorean.registry.registry import Registry
    from delorean.scoring.conversion import trees_of
    from delorean.scoring.tree_scorer import TreeScorer
    from delorean.scoring.trees import TreeEnsemble
    from delorean.scoring.trees_onnx import trees_to_onnx
    from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
    from delorean.tasks.task_set import Task, TaskSet
    from delorean.time_travel import TimeMachine
    from delorean.tracking import track_package
    from delorean.training.consolidation.settings import Consolidation
    from delorean.training.fitting import train
    from delorean.training.learners.lightgbm import LightGBM
    from delorean.training.learners.xgboost import XGBoost
    from delorean.tuning.space import ParameterRange, TuningSpec
    from encoders import (
        FeatureEncoder,
        FeatureModel,
        Vector,
        Vocabulary,
        code_of,
        data_key,
        feature_encoder,
        lookup,
    )
    from schemas.data_keys import DataKey, context_variable, global_element, item, service_element
    from schemas.errors import (
        AbTestError,
        ComparisonError,
        ConfigError,
        CorruptFileError,
        DataKeyError,
        DeloreanError,
        EmptyLabelsError,
        EncoderError,
        EncoderOutputError,
        FingerprintError,
        GoldenRowsError,
        JobError,
        LabelError,
        MissingFileError,
        NaiveTimeError,
        NotInIndexError,
        PackageError,
        ParadoxError,
        PointerMovedError,
        ProxyUnavailableError,
        QualityError,
        RegistryError,
        ReplayError,
        SelectionError,
        ServiceError,
        SetupError,
        SnapshotIndexError,
        StorageError,
        TrackingError,
        TrainingError,
        UndeclaredKeyError,
        UnreadableRecordError,
        WithdrawnError,
    )
    from snapshotter.index import open_index
    from snapshotter.selection.declarations import ContextSelection
    from snapshotter.storage import open_storage
    from snapshotter.storage.table_source import TableSource

__version__ = "0.1.0"
__all__ = [
    "AbTest",
    "AbTestError",
    "AsOf",
    "ComparisonError",
    "ConfidenceFloor",
    "ConfigError",
    "Consolidation",
    "ContextSelection",
    "ContextWeight",
    "CorruptFileError",
    "DataKey",
    "DataKeyError",
    "DeloreanError",
    "EmptyLabelsError",
    "EncoderError",
    "EncoderOutputError",
    "EncoderSpec",
    "EvaluationSettings",
    "ExperimentSpec",
    "FeatureEncoder",
    "FeatureModel",
    "FingerprintError",
    "GoldenRowsError",
    "JobError",
    "LabelColumns",
    "LabelError",
    "LabelQualityLimits",
    "LabelSample",
    "LabelSpec",
    "LeakThresholds",
    "LightGBM",
    "MergeSpec",
    "MissingFileError",
    "ModelSpec",
    "NaiveTimeError",
    "NotInIndexError",
    "OpenProject",
    "PackageError",
    "ParadoxError",
    "ParameterRange",
    "PointerMovedError",
    "ProxyUnavailableError",
    "QualityError",
    "Registry",
    "RegistryError",
    "ReplayError",
    "ScheduleSpec",
    "SelectionError",
    "ServiceError",
    "SetupError",
    "SnapshotIndexError",
    "Split",
    "SpreadLimit",
    "StorageError",
    "TableSource",
    "Task",
    "TaskRows",
    "TaskSet",
    "TaskSpec",
    "TimeMachine",
    "TrackingError",
    "TrainingError",
    "TreeEnsemble",
    "TreeScorer",
    "TuningSpec",
    "UndeclaredKeyError",
    "UnreadableRecordError",
    "Vector",
    "Vocabulary",
    "WithdrawnError",
    "XGBoost",
    "analyse_test",
    "as_of_join",
    "as_of_join_spark",
    "check_feature_set",
    "code_of",
    "compare_encoders",
    "compare_feature_sets",
    "compare_packages",
    "compare_scores",
    "context_variable",
    "data_key",
    "day_coverage",
    "diff",
    "feature_encoder",
    "generate",
    "global_element",
    "item",
    "label_coverage",
    "load_experiment",
    "load_labels",
    "load_package",
    "load_predictions",
    "lookup",
    "materialise_labels",
    "materialise_tasks",
    "measure_label_quality",
    "metrics_by_context",
    "open_index",
    "open_project",
    "open_storage",
    "predict",
    "ranking_metrics",
    "read_exposures",
    "read_feature_set",
    "read_test",
    "register_feature_set",
    "replay",
    "run_experiment",
    "service_element",
    "show",
    "track_package",
    "train",
    "trees_of",
    "trees_to_onnx",
]

# Imported on first use: compiled kernels and Spark take a second that `delorean --help` does not need.
_MODULES = {
    "delorean.ab_tests.declaration": "AbTest",
    "delorean.ab_tests.files": "read_test",
    "delorean.ab_tests.stored": "analyse_test",
    "delorean.as_of.join": "as_of_join",
    "delorean.as_of.spark_join": "as_of_join_spark",
    "delorean.audit.comparison": "compare_encoders compare_feature_sets",
    "delorean.audit.paradox": "check_feature_set",
    "delorean.comparison.compare": "compare_scores",
    "delorean.comparison.packages": "compare_packages",
    "delorean.coverage": "day_coverage label_coverage",
    "delorean.display.text": "show",
    "delorean.experiment.diff": "diff",
    "delorean.experiment.encoder_spec": "EncoderSpec",
    "delorean.experiment.files": "load_experiment",
    "delorean.experiment.label_spec": "LabelSpec",
    "delorean.experiment.task_spec": "MergeSpec TaskSpec",
    "delorean.experiment.model_spec": "ModelSpec",
    "delorean.experiment.replay": "replay",
    "delorean.experiment.run": "run_experiment",
    "delorean.experiment.spec": "ExperimentSpec ScheduleSpec",
    "delorean.exposures.reader": "read_exposures",
    "delorean.feature_sets.registration": "register_feature_set",
    "delorean.generation": "generate",
    "delorean.labels": "LabelColumns load_labels",
    "delorean.labels.materialise": "materialise_labels materialise_tasks",
    "delorean.labels.task_layout": "TaskRows",
    "delorean.labels.task_sample": "LabelSample",
    "delorean.leaks": "LeakThresholds",
    "delorean.packaging.package": "load_package",
    "delorean.prediction": "load_predictions predict",
    "delorean.project.open_project": "OpenProject open_project",
    "delorean.registry.registry": "Registry",
    "delorean.state.rules": "AsOf ConfidenceFloor SpreadLimit",
    "delorean.time_travel": "TimeMachine",
    "delorean.tracking": "track_package",
    "delorean.ranking_data.context_weights": "ContextWeight",
    "delorean.tasks.task_set": "Task TaskSet",
    "delorean.training.consolidation.settings": "Consolidation",
    "delorean.training.fitting": "train",
    "delorean.training.learners.lightgbm": "LightGBM",
    "delorean.training.learners.xgboost": "XGBoost",
    "delorean.evaluation.by_context": "metrics_by_context",
    "delorean.evaluation.metrics": "ranking_metrics",
    "delorean.evaluation.settings": "EvaluationSettings",
    "delorean.label_quality.limits": "LabelQualityLimits",
    "delorean.label_quality.measure": "measure_label_quality",
    "delorean.tuning.space": "ParameterRange TuningSpec",
    "delorean.ranking_data.feature_set_reader": "read_feature_set",
    "delorean.ranking_data.split": "Split",
    "delorean.scoring.conversion": "trees_of",
    "delorean.scoring.tree_scorer": "TreeScorer",
    "delorean.scoring.trees": "TreeEnsemble",
    "delorean.scoring.trees_onnx": "trees_to_onnx",
    "encoders": "FeatureEncoder FeatureModel Vector Vocabulary code_of data_key feature_encoder lookup",
    "schemas.data_keys": "DataKey context_variable global_element item service_element",
    "schemas.errors": (
        "AbTestError ComparisonError ConfigError CorruptFileError DataKeyError DeloreanError EmptyLabelsError "
        "EncoderError EncoderOutputError FingerprintError GoldenRowsError JobError LabelError MissingFileError "
        "NaiveTimeError NotInIndexError PackageError ParadoxError PointerMovedError ProxyUnavailableError "
        "QualityError RegistryError ReplayError SelectionError ServiceError SetupError SnapshotIndexError "
        "StorageError TrackingError TrainingError UndeclaredKeyError UnreadableRecordError WithdrawnError"
    ),
    "snapshotter.index": "open_index",
    "snapshotter.selection.declarations": "ContextSelection",
    "snapshotter.storage": "open_storage",
    "snapshotter.storage.table_source": "TableSource",
}
__getattr__ = lazy_getattr(__name__, {name: module for module, names in _MODULES.items() for name in names.split()})

if "IPython" in sys.modules:
    from delorean.display.ipython import register_formatters

    register_formatters()


def load_ipython_extension(shell: Any) -> None:
    """Show results in IPython that was started after this import: `%load_ext delorean`."""
    from delorean.display.ipython import register_formatters

    register_formatters(shell)


def __dir__() -> list[str]:
    """Return the public names, imported yet or not."""
    return sorted([*__all__, "__version__"])

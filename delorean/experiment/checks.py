"""Checks of a spec that need no data and run before any work begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from delorean.experiment.spec import ExperimentSpec
from delorean.feature_sets.columns import CONFIDENCE_COLUMN, SPREAD_COLUMN, run_column, version_column
from prana_proxy.config.toml_file import TomlFile
from schemas.errors import ConfigError, LabelError, TrainingError
from schemas.hashing import check_bucket_count
from snapshotter.storage import require_plain_name


def check_spec(spec: ExperimentSpec, file: TomlFile | None = None, run_id: str | None = None) -> None:
    """Reject a spec that is wrong whatever is captured and whatever its tables contain.

    file: the file that the spec was read from; errors then name the line and the field
    run_id: of the run that is about to begin

    Raises ConfigError, LabelError, ParadoxError, DataKeyError, EncoderError, TrainingError.
    """
    at = _not_located if file is None else file.at
    with at("name"):
        require_plain_name("feature set", spec.name)
    if run_id is not None:
        require_plain_name("run id", run_id)
    labels, kept_in = spec.label_spec, "merge" if spec.tasks else "labels"
    if labels.id is not None:
        with at(f"{kept_in}.id"):
            require_plain_name("label data", labels.id)
    if labels.buckets is not None:
        with at(f"{kept_in}.buckets"):
            check_bucket_count(labels.buckets)
    with at(kept_in if spec.tasks else "labels"):
        labels.check()
        if labels.context is not None and labels.bucket_variable not in (None, *labels.context):
            raise LabelError.unknown(
                "bucket variable among the context variables", str(labels.bucket_variable), labels.context
            )
    if labels.context is not None and spec.split.group not in (None, *labels.context):
        with at("split.group"):
            raise TrainingError.unknown("context variable to split by", str(spec.split.group), labels.context)
    with at("encoders"):
        _check_column_names(spec)
    _check_defaults(spec, at)
    with at("tasks"):
        _check_tasks(spec)
    if spec.model.label not in (None, *labels.label_names):
        with at("model.label"):
            raise TrainingError.unknown("label of the label data", str(spec.model.label), labels.label_names)
    for name in spec.model.categorical:
        if name not in spec.feature_model.columns:
            with at("model.categorical"):
                raise TrainingError.unknown("feature", name, spec.feature_model.columns)
    _check_evaluation(spec, at)
    with at("consolidation"):
        _check_consolidation(spec)
    with at("model" if spec.model.estimator is None else "model.estimator"):
        spec.model.build()


def _not_located(place: str) -> AbstractContextManager[None]:
    """Leave errors as they are: the spec was not read from a file."""
    del place
    return nullcontext()


def _check_defaults(spec: ExperimentSpec, at: Callable[[str], AbstractContextManager[None]]) -> None:
    """Reject defaults of features that no encoder has."""
    for name in spec.defaults:
        if name not in spec.feature_model.features:
            with at(f"defaults.{name}"):
                raise ConfigError.unknown("feature with a default", name, spec.feature_model.features)


def _check_tasks(spec: ExperimentSpec) -> None:
    """Reject encoders and defaults that do not fit the tasks, and a label to learn that a task lacks."""
    if spec.task_set is None:
        return
    for name, task in spec.tasks.items():
        if spec.model.label is not None and spec.model.label not in task.labels.label_names:
            raise LabelError.unknown(f"label of task '{name}'", spec.model.label, task.labels.label_names)


def _check_consolidation(spec: ExperimentSpec) -> None:
    """Reject ways to share a model that no learner could follow; what the chosen one cannot do, training rejects."""
    if not spec.tasks:
        return
    spec.consolidation.check(spec.tasks)
    if spec.model.workers > 1:
        raise ConfigError.because(
            f"model.workers is {spec.model.workers}, and a model of several tasks is fitted by one process",
            "write workers = 1, and max_items to bound its memory",
        )
    if spec.model.learner != "scikit-learn" and spec.consolidation.sharing == "trunk":
        spec.consolidation.rounds_of_own(spec.model.build().rounds)


def _check_evaluation(spec: ExperimentSpec, at: Callable[[str], AbstractContextManager[None]]) -> None:
    """Reject columns to measure by that label data and feature set will not have, before they are made."""
    labels, chosen = spec.label_spec, spec.evaluation
    if labels.context is None:
        return  # the query decides which variables there are
    of_elements = [column(name) for name in spec.feature_model.elements for column in (run_column, version_column)]
    existing = (*labels.context, *labels.keep, CONFIDENCE_COLUMN, SPREAD_COLUMN, *of_elements)
    for name in chosen.by:
        if name not in existing:
            with at("evaluation.by"):
                raise TrainingError.unknown("column to measure by", name, existing)
    for name in spec.label_quality.by:
        if name not in (*labels.context, *labels.keep):
            with at("label_quality.by"):
                raise LabelError.unknown("column to measure label data by", name, (*labels.context, *labels.keep))
    if chosen.cluster not in (None, *existing):
        with at("evaluation.cluster"):
            raise TrainingError.unknown("variable of clusters", str(chosen.cluster), existing)


def _check_column_names(spec: ExperimentSpec) -> None:
    """Reject columns of the feature set whose names Delta takes for the same: it ignores case."""
    names = list(_columns(spec))
    spelling: dict[str, str] = {}
    for name in names:
        other = spelling.setdefault(name.casefold(), name)
        if other != name or names.count(name) > 1:
            raise ConfigError.because(
                f"the feature set would have several columns named {' and '.join(dict.fromkeys((other, name)))}",
                "rename the feature or the variable",
            )


def _columns(spec: ExperimentSpec) -> Iterator[str]:
    """Yield the columns of the feature set that the spec itself determines."""
    labels = spec.label_spec
    yield from (*labels.own_names, *(labels.context or ()), *labels.items, *labels.keep)
    yield from spec.feature_model.features

"""Fits a model, measures it beside its baselines, and reports the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import msgspec

from delorean.evaluation.evaluation import end_of, evaluate
from delorean.evaluation.measure import measure
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split, SplitParts
from delorean.scoring.calibration import TaskCalibration, calibrated
from delorean.step_timer import StepTimer
from delorean.tasks.task_set import TASK_VARIABLE, TaskSet
from delorean.training.agreement import check_missing_values, refuse_disagreement
from delorean.training.baselines import popularity_scores, shuffled_sample
from delorean.training.consolidation.calibration import calibration_changes, fit_calibrations
from delorean.training.consolidation.judgement import judge
from delorean.training.consolidation.learner import TaskLearner
from delorean.training.consolidation.settings import Consolidation
from delorean.training.learners import FittedModel, Learner
from delorean.training.learners.choice import as_learner
from delorean.training.learning_curve import learning_curve
from delorean.training.missing_values import MissingValueHandling, refuse_missing_values
from delorean.training.portable_model import PortableModel
from delorean.training.report import TrainingReport
from delorean.training.served_model import FittedTasks, ServedModel, numbers_of
from schemas.errors import ConfigError

_CHECKED_ROWS = 20_000
_T = TypeVar("_T")


@dataclass(frozen=True)
class TrainedModel(PortableModel):
    """A fitted model, its portable forms, and the report.

    names: the features, in the order of the model's input
    tasks: that the model serves; None: contexts are of one use. Without `own` models, it reads the task's number as one
        more feature, the last
    own: of each task, the model that continues this one, in the order of the tasks' numbers
    calibrations: task → what turns its scores into probabilities
    """

    names: tuple[str, ...]
    report: TrainingReport
    tasks: TaskSet | None = None
    own: tuple[PortableModel, ...] = ()
    calibrations: Mapping[str, TaskCalibration] = field(default_factory=dict)

    @cached_property
    def served(self) -> ServedModel:
        """What scores contexts."""
        return ServedModel(self, self.tasks, self.own)


@dataclass(frozen=True)
class Measuring:
    """How a model is measured, beside the split.

    seed: of the shuffled labels
    settings: what is measured; by default see `EvaluationSettings`
    encoders: name → its features, whose importances are measured together
    """

    seed: int = 0
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    encoders: Mapping[str, Sequence[str]] | None = None


def train(
    data: RankingData | SplitParts,
    split: Split | None = None,
    model: Any = None,
    seed: int = 0,
    *,
    evaluation: EvaluationSettings | None = None,
    encoders: Mapping[str, Sequence[str]] | None = None,
    tasks: TaskSet | None = None,
    consolidation: Consolidation | None = None,
) -> TrainedModel:
    """Fit a model on the training part, and measure it and its baselines on the other parts.

    data: ranking data to split, or its parts, as `read_parts` reads them without a copy
    split: by default by time, 70 : 15 : 15
    model: a learner, such as `LightGBM("lambdarank")`, or a scikit-learn estimator with fit and predict_proba,
        decision_function or predict that ONNX can express, which learns whether a label is above 0; by default
        scikit-learn's gradient boosted trees
    seed: of the learner and the shuffled labels; an estimator has its own
    evaluation, encoders: how it is measured, see `Measuring`
    tasks: that the model serves; the contexts' variable `task_type` names the task of each. None: they are of one use
    consolidation: how the tasks share the model, see `Consolidation`

    Raises TrainingError for data that no model can be fitted on, PackageError for a model whose scores change when it
    is written as ONNX, or that accepts no missing values where there are some, ConfigError for a learner that cannot
    share a model in this way.
    """
    timer, split = StepTimer(), split or Split()
    learner = with_tasks(as_learner(model), tasks, consolidation)
    learner.check()
    with timer.step("split"):
        parts = data if isinstance(data, SplitParts) else split.divide(data)
    with timer.step("fit"):
        fitted = learner.fit(parts.train, parts.validation, seed)
    measuring = Measuring(seed, evaluation or EvaluationSettings(), encoders)
    return measured(learner, fitted, parts, split, measuring, timer)


def with_tasks(learner: Learner, tasks: TaskSet | None, consolidation: Consolidation | None) -> Learner | TaskLearner:
    """Return what fits one model for several tasks by a learner; the learner itself where there are none.

    Raises ConfigError for settings of sharing without tasks.
    """
    if tasks is not None:
        return TaskLearner(learner, tasks, consolidation or Consolidation())
    if consolidation not in (None, Consolidation()):
        raise ConfigError.because(
            "there are settings of consolidation, and no tasks that share a model", "declare tasks, or leave them out"
        )
    return learner


def measured(
    learner: Learner | TaskLearner,
    fitted: FittedModel | FittedTasks,
    parts: SplitParts,
    split: Split,
    measuring: Measuring,
    timer: StepTimer,
) -> TrainedModel:
    """Convert a fitted model, and measure it and its baselines.

    learner: that fitted it; fits the baseline of shuffled labels, and the models of a learning curve
    """
    width = len(parts.train.names)
    with timer.step("convert"):
        served = ServedModel.of(fitted, width)
        missing_values = _check_conversion(served, fitted.name, parts)
    with timer.step("fit_shuffled"):
        shuffled = _fit_shuffled(learner, parts, measuring.seed)
    others = (parts.validation, parts.test)
    with timer.step("measure"):
        popularity = [popularity_scores(parts.train, part) for part in others]
        metrics = {
            "model": _both(measure(served.scores(part), part) for part in others),
            "popularity": _both(map(measure, popularity, others)),
            "shuffled": _both(measure(shuffled.scores(part), part) for part in others),
        }
    with timer.step("learning_curve"):
        curve = learning_curve(
            lambda part: ServedModel.of(learner.fit(part, parts.validation, measuring.seed), width).scores,
            parts.train,
            parts.validation,
            measuring.settings,
        )
    settings = measuring.settings if served.tasks is None else by_task(measuring.settings)
    with timer.step("evaluate"):
        evaluated = evaluate(
            served.scores,
            served.contributions,
            _both(zip(others, popularity, strict=True)),
            settings,
            measuring.encoders,
            end_of(parts.train) if split.by_time else None,
            curve,
            None if served.tasks is None else partial(numbers_of, tasks=served.tasks),
        )
    report = TrainingReport(
        model=learner.name,
        split={**msgspec.to_builtins(split), "shares": list(split.shares)},  # a list, as it is read from JSON
        sizes=parts.sizes,
        metrics=metrics,
        importances={each.name: each.ndcg_lost.value or 0.0 for each in evaluated.features},
        seconds=timer.rounded(),
        missing_values=missing_values,
        rounds=fitted.rounds,
        evaluation=evaluated,
    )
    shared = served.shared
    trained = TrainedModel(shared.fitted, shared.onnx, shared.trees, parts.train.names, report)
    if isinstance(learner, TaskLearner) and isinstance(fitted, FittedTasks):
        return _judged(replace(trained, tasks=served.tasks, own=served.own), learner, fitted, parts, measuring, timer)
    return trained


def by_task(settings: EvaluationSettings) -> EvaluationSettings:
    """Return settings by which metrics are repeated for each task."""
    return replace(settings, by=tuple(dict.fromkeys((TASK_VARIABLE, *settings.by))))


def _judged(
    trained: TrainedModel,
    learner: TaskLearner,
    fitted: FittedTasks,
    parts: SplitParts,
    measuring: Measuring,
    timer: StepTimer,
) -> TrainedModel:
    """Calibrate a model of several tasks, and compare it with models of single tasks."""
    tasks, validation, test = learner.tasks, parts.validation, parts.test
    with timer.step("calibrate"):
        scores = trained.served.scores(validation)
        calibrations = fit_calibrations(scores, validation, tasks, learner.settings.calibration)
    with timer.step("judge"):
        consolidation = judge(learner, fitted, parts, measuring.settings, measuring.seed)
    if calibrations:
        scores = trained.served.scores(test)
        probabilities = calibrated(scores, numbers_of(test, tasks), tasks.names, calibrations)
        changes = calibration_changes(scores, probabilities, test, tasks, measuring.settings)
        consolidation = msgspec.structs.replace(consolidation, calibrations=changes)
    report = msgspec.structs.replace(trained.report, consolidation=consolidation, seconds=timer.rounded())
    return replace(trained, calibrations=calibrations, report=report)


def _fit_shuffled(learner: Learner | TaskLearner, parts: SplitParts, seed: int) -> ServedModel:
    """Fit a model on shuffled labels, of all tasks together: a leak shows there as well."""
    plain: Learner = learner.learner if isinstance(learner, TaskLearner) else learner
    train, validation = (shuffled_sample(part, seed + i) for i, part in enumerate((parts.train, parts.validation)))
    return ServedModel.of(plain.fit(train, validation, seed), len(parts.train.names))


def _both(values: Iterable[_T]) -> dict[str, _T]:
    """Return what the validation and the test part have, by their names."""
    return dict(zip(("validation", "test"), values, strict=True))


def _check_conversion(served: ServedModel, name: str, parts: SplitParts) -> MissingValueHandling:
    """Return how the model handles missing values. Raises PackageError where what is served scores differently."""
    missing_values: MissingValueHandling = "used"
    for model, _, features in served.models(parts.validation):
        missing_values = check_missing_values(model.scorer, model.fitted, features)
    if missing_values == "refused":
        for part in (parts.validation, parts.test):
            refuse_missing_values(name, part.names, part.features)
    for model, _, features in served.models(parts.validation):
        refuse_disagreement(model.scorer, model.fitted, features[:_CHECKED_ROWS])
    return missing_values

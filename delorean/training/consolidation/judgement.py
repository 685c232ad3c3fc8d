"""Measures a shared model beside models of single tasks with as many trees, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.bootstrap import contexts_needed, ratios, simultaneous
from delorean.evaluation.by_context import measure_contexts
from delorean.evaluation.estimate import Estimate
from delorean.evaluation.groups import clusters_of
from delorean.evaluation.settings import Bootstrap, EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import SplitParts
from delorean.training.consolidation.learner import TaskLearner, errors_of_task
from delorean.training.consolidation.result import METRIC, ConsolidationReport, Outcome, SharingResult, TaskDifference
from delorean.training.consolidation.task_weights import of_tasks
from delorean.training.consolidation.verdict import verdict
from delorean.training.learners import FittedModel
from delorean.training.served_model import FittedTasks, numbers_of_contexts


@dataclass(frozen=True)
class _Measured:
    """NDCG@10 of each context of the test part, NaN where it has no positive, and each task's rounds."""

    values: NDArray[np.float64]
    rounds: tuple[int | None, ...]


def judge(
    learner: TaskLearner, fitted: FittedTasks, parts: SplitParts, settings: EvaluationSettings, seed: int
) -> ConsolidationReport:
    """Fit a model for each task alone, and the other sharings, and compare all on the test part.

    A model of one task has as many rounds as the trunk and the task's own trees may have together, and is stopped by
    the same rule. Differences are paired by context; the intervals of all tasks hold together, and draw the contexts
    of a cluster together.

    fitted: what the learner has fitted on the parts
    """
    single = _fit_single(learner, parts, seed)
    results = []
    for sharing in learner.sharings:
        other = learner.with_sharing(sharing)
        model = fitted if sharing == learner.settings.sharing else other.fit(parts.train, parts.validation, seed)
        shared = _measure_shared(model, parts.test)
        results.append(SharingResult(sharing, _compare(shared, single, learner, parts.test, settings)))
    return verdict(tuple(results), learner.settings, settings)


def _fit_single(learner: TaskLearner, parts: SplitParts, seed: int) -> _Measured:
    """Fit a model on each task's contexts alone, and measure it on those of the test part."""
    values = np.full(len(parts.test), np.nan)
    numbers = numbers_of_contexts(parts.test.contexts, learner.tasks)
    by_part = (of_tasks(part, learner.tasks) for part in (parts.train, parts.validation, parts.test))
    rounds = []
    for number, (train, validation, test) in enumerate(zip(*by_part, strict=True)):
        with errors_of_task(learner.tasks.names[number]):
            model: FittedModel = learner.learner.fit(train, validation, seed)
        rounds.append(model.rounds)
        if len(test):
            values[numbers == number] = _ndcg(model.reference(test.features), test)
    return _Measured(values, tuple(rounds))


def _measure_shared(model: FittedTasks, test: RankingData) -> _Measured:
    rounds = [each.rounds for each in model.own] or [model.rounds] * len(model.tasks.tasks)
    return _Measured(_ndcg(model.reference(test), test), tuple(rounds))


def _ndcg(scores: NDArray[np.float64], part: RankingData) -> NDArray[np.float64]:
    return measure_contexts(scores.astype(np.float32), part, [10])[METRIC]


def _compare(
    shared: _Measured, single: _Measured, learner: TaskLearner, test: RankingData, settings: EvaluationSettings
) -> tuple[TaskDifference, ...]:
    numbers, clusters = numbers_of_contexts(test.contexts, learner.tasks), clusters_of(test, settings.cluster)
    weights = np.ones(len(test)) if test.weights is None else test.weights
    together = simultaneous(settings.bootstrap, len(learner.tasks.tasks))
    differences = []
    for number, task in enumerate(learner.tasks.names):
        rows = np.flatnonzero(numbers == number)
        of_rows = None if clusters is None else np.unique(clusters[rows], return_inverse=True)[1]
        pair = (shared.values[rows], single.values[rows])
        values, others = _estimates(pair, weights[rows], of_rows, settings.bootstrap)
        (difference,) = _estimates((pair[0] - pair[1],), weights[rows], of_rows, together)
        limit = learner.settings.loss_limit
        outcome = outcome_of(difference, limit)
        needed = contexts_needed(difference, limit) if outcome is Outcome.UNCLEAR else None
        trees = (shared.rounds[number], single.rounds[number])
        differences.append(TaskDifference(task, values, others, difference, outcome, trees, needed))
    return tuple(differences)


def _estimates(
    columns: Sequence[NDArray[np.float64]],
    weights: NDArray[np.float64],
    clusters: NDArray[np.int64] | None,
    bootstrap: Bootstrap,
) -> list[Estimate]:
    """Estimate weighted means over the contexts that are measured."""
    if len(weights) == 0:
        return [Estimate(None, None, None, 0)] * len(columns)
    values = np.stack(columns, axis=1)
    counted = ~np.isnan(values)
    denominators = counted * weights[:, np.newaxis]
    return ratios(np.where(counted, values, 0) * denominators, denominators, clusters, bootstrap)


def outcome_of(difference: Estimate, limit: float) -> Outcome:
    """Return what a difference means. limit: the loss that is tolerated.

    >>> outcome_of(Estimate(-0.02, -0.03, -0.01, 500), 0.005).value
    'loses'
    """
    if difference.low is None or difference.high is None:
        return Outcome.UNCLEAR
    if difference.low < -limit:
        return Outcome.LOSES if difference.high < 0 else Outcome.UNCLEAR
    return Outcome.GAINS if difference.low > 0 else Outcome.KEEPS

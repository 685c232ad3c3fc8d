"""Fits one model for several tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from delorean.evaluation.measure import measure
from delorean.ranking_data.ranking_data import RankingData
from delorean.scoring.task_scorers import with_task
from delorean.tasks.task_set import TASK_VARIABLE, TaskSet
from delorean.training.consolidation.settings import Consolidation, Sharing
from delorean.training.consolidation.task_weights import measured_by_task, no_contexts, of_tasks, weighted_by_task
from delorean.training.learners import FittedModel, OnRound
from delorean.training.learners.boosting import BoostedTrees
from delorean.training.served_model import FittedTasks, numbers_of
from schemas.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class TaskLearner:
    """Fits one model for several tasks, by a learner of one library.

    A trunk is fitted on the contexts of all tasks and stopped by the mean of the tasks' NDCG@10. For each task it is
    continued on the task's contexts, and stopped by the task's NDCG@10; trees that do not raise it are left out.
    """

    learner: Any  # a `Learner`; those of boosted trees have settings that are read here
    tasks: TaskSet
    settings: Consolidation

    @property
    def name(self) -> str:
        """What is fitted, for people."""
        shared = {"trunk": "a shared trunk", "task_type": "shared trees", "weighted": "weighted shared trees"}
        return f"{self.learner.name}, {shared[self.settings.sharing]} for {len(self.tasks.tasks)} tasks"

    def check(self) -> None:
        """Raise what could not be fitted whatever the data: ConfigError, TrainingError."""
        self.settings.check(self.tasks.names)
        for sharing in (self.settings.sharing, *(self.settings.compare or ())):
            self._check_sharing(sharing)
        self.learner.check()

    @property
    def sharings(self) -> tuple[Sharing, ...]:
        """The sharings to judge: the chosen one, then those to compare it with."""
        possible: tuple[Sharing, ...] = ("trunk", "task_type", "weighted")
        if not isinstance(self.learner, BoostedTrees):
            possible = ("task_type", "weighted")
        compared = possible if self.settings.compare is None else self.settings.compare
        return tuple(dict.fromkeys((self.settings.sharing, *compared)))

    def with_sharing(self, sharing: Sharing) -> TaskLearner:
        """Return what fits the same tasks with another sharing."""
        own = self.settings.own_rounds if sharing == "trunk" else None
        weights = self.settings.weights if sharing == "weighted" else {}
        return replace(self, settings=replace(self.settings, sharing=sharing, own_rounds=own, weights=weights))

    def fit(
        self, train: RankingData, validation: RankingData, seed: int, on_round: OnRound | None = None
    ) -> FittedTasks:
        """Fit a model of all tasks on the training part; see `Learner.fit`.

        on_round: is called after rounds that all tasks share, with the scores of the part that `measured_by_task` makes

        Raises TrainingError, which names the task, for one without contexts to learn from or to stop by.
        """
        for name, part in zip(self.tasks.names, of_tasks(train, self.tasks), strict=True):
            if len(part.labels) == 0:
                raise no_contexts(name, "training", "with items")
        mean = measured_by_task(validation, self.tasks)
        if self.settings.sharing == "trunk":
            return self._fit_trunk(train, validation, mean, seed, on_round)
        if self.settings.sharing == "weighted":
            train = weighted_by_task(train, self.tasks, [self.settings.weight(name) for name in self.tasks.names])
        parts = (with_task_feature(part, self.tasks) for part in (train, mean))
        return FittedTasks(self.tasks, self.learner.fit(*parts, seed, on_round))

    def _fit_trunk(
        self, train: RankingData, validation: RankingData, mean: RankingData, seed: int, on_round: OnRound | None
    ) -> FittedTasks:
        learner = self.learner
        own = self.settings.rounds_of_own(learner.rounds)
        trunk = replace(learner, rounds=learner.rounds - own).fit(train, mean, seed, on_round)
        continuing = replace(learner, rounds=own)
        models = []
        parts = (of_tasks(part, self.tasks) for part in (train, validation))
        for name, learned, stopping in zip(self.tasks.names, *parts, strict=True):
            with errors_of_task(name):
                model = continuing.fit(learned, stopping, seed, start=trunk)
            models.append(model if not learner.stop_after or _better(model, trunk, stopping) else trunk)
        return FittedTasks(self.tasks, trunk, tuple(models))

    def _check_sharing(self, sharing: Sharing) -> None:
        if sharing != "trunk":
            return
        if not isinstance(self.learner, BoostedTrees):
            raise ConfigError.because(
                f'{self.learner.name} cannot be continued for each task, as sharing = "trunk" needs',
                'write sharing = "task_type" in [consolidation], or learner = "lightgbm" in [model]',
            )
        self.with_sharing("trunk").settings.rounds_of_own(self.learner.rounds)


def with_task_feature(part: RankingData, tasks: TaskSet) -> RankingData:
    """Add the number of each item's task as the last feature. Raises TrainingError if a feature has its name."""
    if TASK_VARIABLE in part.names:
        raise TrainingError.because(
            f"a feature is named '{TASK_VARIABLE}', as the one that the model adds", "rename it in the spec"
        )
    return replace(part, features=with_task(part.features, numbers_of(part, tasks)), names=(*part.names, TASK_VARIABLE))


@contextmanager
def errors_of_task(task: str) -> Iterator[None]:
    """Name the task in errors of fitting it."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"task '{task}': {error}") from error


def _better(model: FittedModel, trunk: FittedModel, part: RankingData) -> bool:
    """Whether a continued model ranks a part better than its trunk."""
    ours, theirs = (measure(each.reference(part.features).astype("float32"), part) for each in (model, trunk))
    return ours.ndcg_at_10 > theirs.ndcg_at_10

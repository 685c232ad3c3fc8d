"""What is measured, packaged and served: one portable model, or one of several tasks that share some or all trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.scoring.task_scorers import TaskFeatureScorer, TaskScorer, TaskTreeScorer, with_task
from delorean.scoring.task_trees import TaskTrees
from delorean.tasks.impossible_features import task_numbers
from delorean.tasks.task_set import TaskSet
from delorean.training.learners import FittedModel
from delorean.training.portable_model import PortableModel
from schemas.errors import DataKeyError, TrainingError


@dataclass(frozen=True)
class FittedTasks:
    """Fitted models of several tasks, before they are converted.

    shared: the model of all tasks; where there are no own ones, it reads the task's number as its last feature
    own: the model of each task, which continues the shared one by trees of its own, in the order of the tasks' numbers
    """

    tasks: TaskSet
    shared: FittedModel
    own: tuple[FittedModel, ...] = ()

    @property
    def name(self) -> str:
        """What the model is, for people."""
        return self.shared.name

    @property
    def rounds(self) -> int | None:
        """Trees or iterations of the shared model."""
        return self.shared.rounds

    def reference(self, part: RankingData) -> NDArray[np.float64]:
        """Score the items of a part with the library itself, see `FittedModel.reference`."""
        scores = np.empty(len(part.labels))
        for model, rows, matrix in models_of_rows(self, part.features, numbers_of(part, self.tasks)):
            scores[rows] = model.reference(matrix)
        return scores


@dataclass(frozen=True)
class ServedModel:
    """Portable models as they are served together.

    shared: of all contexts; of tasks without own models, it reads the task's number as its last feature
    tasks: None: contexts are of one use
    own: of each task, see `FittedTasks`
    """

    shared: PortableModel
    tasks: TaskSet | None = None
    own: tuple[PortableModel, ...] = ()

    @classmethod
    def of(cls, fitted: FittedModel | FittedTasks, features: int) -> ServedModel:
        """Convert fitted models. Raises TrainingError for one that cannot be written.

        features: number of features of the data
        """
        if not isinstance(fitted, FittedTasks):
            return cls(PortableModel.of(fitted, features))
        own = tuple(PortableModel.of(each, features) for each in fitted.own)
        return cls(PortableModel.of(fitted.shared, features if own else features + 1), fitted.tasks, own)

    def scores(self, part: RankingData) -> NDArray[np.float32]:
        """Score the items of a part as they will be scored when they are served."""
        if self.tasks is None:
            return self.shared.scorer.score(part.features)
        return self.task_scorer.score(part.features, numbers_of(part, self.tasks))

    @cached_property
    def task_scorer(self) -> TaskScorer:
        """What scores rows of tasks. Only for models of tasks."""
        if self.trees is not None:
            return TaskTreeScorer(self.trees)
        return TaskFeatureScorer(self.shared.scorer, 1 if self.tasks is None else len(self.tasks.tasks))

    @cached_property
    def trees(self) -> TaskTrees | None:
        """The trunk and each task's own trees; None where there are no own models."""
        continued = [each.trees for each in self.own if each.trees is not None]
        if not continued or self.shared.trees is None:
            return None
        return TaskTrees.of(continued, self.shared.trees.trees)

    def contributions(self, part: RankingData) -> NDArray[np.float64] | None:
        """Return what each feature adds to each item's raw score, see `FittedModel.contributions`."""
        result: NDArray[np.float64] = np.empty(part.features.shape)
        for model, rows, matrix in self.models(part):
            added = model.model.contributions(matrix)
            if added is None:
                return None
            result[rows] = added[:, : len(part.names)]  # without the contribution of the task's number
        return result

    def models(self, part: RankingData) -> Iterator[tuple[PortableModel, NDArray[np.int64], NDArray[np.float32]]]:
        """Yield each library's model with the items of a part that it scores, and their features as it reads them."""
        if self.tasks is None:
            yield self.shared, np.arange(len(part.labels)), part.features
        else:
            yield from models_of_rows(self, part.features, numbers_of(part, self.tasks))


def models_of_rows(
    models: Any, features: NDArray[np.float32], tasks: NDArray[np.int64]
) -> Iterator[tuple[Any, NDArray[np.int64], NDArray[np.float32]]]:
    """Yield each model that scores some rows, with these rows and their features as the model reads them.

    models: `FittedTasks`, or a `ServedModel` of tasks; tasks: (rows,) the number of each row's task
    """
    if not models.own:
        yield models.shared, np.arange(len(features)), with_task(features, tasks)
        return
    for number, model in enumerate(models.own):
        rows = np.flatnonzero(tasks == number)
        if len(rows):
            yield model, rows, features[rows]


def numbers_of(part: RankingData, tasks: TaskSet) -> NDArray[np.int64]:
    """Return the number of each item's task. Raises TrainingError for contexts of no task, or of an unknown one."""
    return np.repeat(numbers_of_contexts(part.contexts, tasks), np.diff(part.offsets))


def numbers_of_contexts(contexts: pa.Table, tasks: TaskSet) -> NDArray[np.int64]:
    """Return the number of each context's task. Raises TrainingError for contexts of no task, or of an unknown one."""
    try:
        return task_numbers(contexts, tasks)
    except DataKeyError as error:
        raise TrainingError(f"the contexts do not fit the model's tasks: {error}") from error

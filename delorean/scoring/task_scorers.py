"""Scores rows of features of several tasks with one model."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from delorean.scoring import Scorer
from delorean.scoring.task_trees import TaskTrees
from delorean.scoring.tree_scorer import TreeScorer
from schemas.errors import PackageError


class TaskTreeScorer:
    """Scores each row with the trunk and its task's own trees; those of other tasks cost nothing.

    Each task is a `TreeScorer` of its own, so the trunk is prepared once for each: rows are ranked among the thresholds
    that they meet, and a trunk that all tasks share would have to rank them among those of every task's trees.
    """

    def __init__(self, trees: TaskTrees) -> None:
        self.trees, self.features, self.tasks = trees, trees.trees.features, trees.tasks
        self._scorers = [TreeScorer(trees.of_task(task)) for task in range(trees.tasks)]

    def score(self, features: NDArray[np.float32], tasks: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where missing
        tasks: (rows,) int64, the number of each row's task
        """
        _check_tasks(tasks, len(features), self.tasks)
        scores = np.empty(len(features), np.float32)
        for task, scorer in enumerate(self._scorers):
            rows = np.flatnonzero(tasks == task)
            if len(rows):
                scores[rows] = scorer.score(features[rows])
        return scores

    def score_task(self, features: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        """Score rows that are all of one task, given by its number."""
        return self._scorers[task].score(features)


class TaskFeatureScorer:
    """Scores rows with a model whose last feature is the task's number.

    scorer: takes one feature more than there are
    """

    def __init__(self, scorer: Scorer, tasks: int) -> None:
        self.scorer, self.features, self.tasks = scorer, scorer.features - 1, tasks

    def score(self, features: NDArray[np.float32], tasks: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score rows of features; see `TaskTreeScorer.score`."""
        _check_tasks(tasks, len(features), self.tasks)
        return self.scorer.score(with_task(features, tasks))

    def score_task(self, features: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        """Score rows that are all of one task, given by its number."""
        return self.scorer.score(with_task(features, np.full(len(features), task, np.int64)))


TaskScorer: TypeAlias = TaskTreeScorer | TaskFeatureScorer


def with_task(features: NDArray[np.float32], tasks: NDArray[np.int64]) -> NDArray[np.float32]:
    """Add the number of each row's task as the last feature.

    >>> with_task(np.float32([[0.5], [0.25]]), np.array([1, 0])).tolist()
    [[0.5, 1.0], [0.25, 0.0]]
    """
    return np.column_stack([features, tasks.astype(np.float32)])


def _check_tasks(tasks: NDArray[np.int64], rows: int, count: int) -> None:
    if tasks.shape != (rows,) or tasks.dtype != np.int64:
        raise PackageError.because(f"tasks are {tasks.dtype} {tasks.shape}, expected int64 ({rows},)")
    if rows and not 0 <= tasks.min() <= tasks.max() < count:
        raise PackageError.because(f"a task's number is {tasks.min()} or {tasks.max()}, expected 0 to {count - 1}")

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

    A task's score has the bits of a `TreeScorer` of the trunk and its own trees alone, whichever rows are scored with
    it. Nothing is stored twice.
    """

    def __init__(self, trees: TaskTrees) -> None:
        self.trees, self.features, self.tasks = trees, trees.trees.features, trees.tasks
        self._scorer = TreeScorer(trees.trees)
        trunk = self._scorer.range_of(0, trees.trunk)
        self._ranges = [(trunk, self._scorer.range_of(*trees.own(task))) for task in range(trees.tasks)]

    def score(self, features: NDArray[np.float32], tasks: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where missing
        tasks: (rows,) int64, the number of each row's task
        """
        alike = len(tasks) > 0 and bool((tasks == tasks[0]).all())  # as in a request
        numbers = tasks[:1] if alike else np.unique(tasks)
        _check_tasks(tasks, numbers, len(features), self.tasks)
        if alike:
            return self._scorer.score_by(features, self._ranges[numbers[0]])
        scores = np.empty(len(features), np.float32)
        for task in numbers:
            rows = np.flatnonzero(tasks == task)
            scores[rows] = self._scorer.score_by(features[rows], self._ranges[task])
        return scores


class TaskFeatureScorer:
    """Scores rows with a model whose last feature is the task's number.

    scorer: takes one feature more than there are
    """

    def __init__(self, scorer: Scorer, tasks: int) -> None:
        self.scorer, self.features, self.tasks = scorer, scorer.features - 1, tasks

    def score(self, features: NDArray[np.float32], tasks: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score rows of features; see `TaskTreeScorer.score`."""
        _check_tasks(tasks, tasks, len(features), self.tasks)
        return self.scorer.score(with_task(features, tasks))


TaskScorer: TypeAlias = TaskTreeScorer | TaskFeatureScorer


def with_task(features: NDArray[np.float32], tasks: NDArray[np.int64]) -> NDArray[np.float32]:
    """Add the number of each row's task as the last feature.

    >>> with_task(np.float32([[0.5], [0.25]]), np.array([1, 0])).tolist()
    [[0.5, 1.0], [0.25, 0.0]]
    """
    return np.column_stack([features, tasks.astype(np.float32)])


def _check_tasks(tasks: NDArray[np.int64], numbers: NDArray[np.int64], rows: int, count: int) -> None:
    if tasks.shape != (rows,) or tasks.dtype != np.int64:
        raise PackageError.because(f"tasks are {tasks.dtype} {tasks.shape}, expected int64 ({rows},)")
    if rows and not 0 <= numbers.min() <= numbers.max() < count:
        raise PackageError.because(f"a task's number is {numbers.min()} or {numbers.max()}, expected 0 to {count - 1}")

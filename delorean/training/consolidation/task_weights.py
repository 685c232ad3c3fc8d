"""Weights that make tasks count alike, or as declared, however many contexts they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.tasks.task_set import TaskSet
from delorean.training.served_model import numbers_of_contexts
from schemas.errors import TrainingError


def weighted_by_task(part: RankingData, tasks: TaskSet, shares: Sequence[float]) -> RankingData:
    """Return a part in which each task's contexts have the declared share of the total weight.

    shares: of the tasks, by their numbers. Raises TrainingError for a task without contexts of any weight.
    """
    numbers = numbers_of_contexts(part.contexts, tasks)
    weights = np.ones(len(part)) if part.weights is None else part.weights
    totals = np.bincount(numbers, weights=weights, minlength=len(tasks.tasks))
    for name, total, share in zip(tasks.names, totals, shares, strict=True):
        if share > 0 and not total > 0:
            raise no_contexts(name, "training", "of any weight")
    scaled = np.divide(np.array(shares), totals, out=np.zeros(len(totals)), where=totals > 0)
    return replace(part, weights=weights * scaled[numbers] * len(part) / sum(shares))


def measured_by_task(part: RankingData, tasks: TaskSet, what: str = "validation") -> RankingData:
    """Return a part whose mean metric is the mean of the tasks' means: each task's measured contexts weigh the same.

    Contexts are measured if they have a positive. Raises TrainingError for a task that has none.
    """
    numbers = numbers_of_contexts(part.contexts, tasks)
    weights = np.ones(len(part)) if part.weights is None else part.weights
    counted = part.positive
    if part.own_item_weights is not None:
        counted = counted & (part.own_item_weights > 0)
    measured = np.diff(np.concatenate([[0], np.cumsum(counted)])[part.offsets]) > 0
    totals = np.bincount(numbers, weights=weights * measured, minlength=len(tasks.tasks))
    for name, total in zip(tasks.names, totals, strict=True):
        if not total > 0:
            raise no_contexts(name, what, "with a positive label")
    return replace(part, weights=weights / totals[numbers])


def of_tasks(part: RankingData, tasks: TaskSet) -> list[RankingData]:
    """Return the contexts of each task, in the order of the tasks' numbers."""
    numbers = numbers_of_contexts(part.contexts, tasks)
    return [part.take(np.flatnonzero(numbers == number)) for number in range(len(tasks.tasks))]


def item_rows(part: RankingData, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each item is of one of some contexts."""
    inside = np.zeros(len(part), np.bool_)
    inside[rows] = True
    return np.repeat(inside, np.diff(part.offsets))


def no_contexts(task: str, part: str, which: str) -> TrainingError:
    """Return the error for a task that cannot be learned or measured."""
    return TrainingError.because(
        f"task '{task}' has no context {which} in the {part} part",
        "give it more label data, split at other times, or leave the task out",
    )

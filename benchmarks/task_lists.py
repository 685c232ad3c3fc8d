"""Ranking data of four tasks with related tastes: one large, two small, and one that wants what the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import SplitParts
from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet

NAMES = ("homepage", "search", "similar", "kids")
LISTS = (400, 60, 30, 60)
PER_LIST, FEATURES = 20, 10
NOISE, RELATED = 1.2, 0.35
_START = datetime(2026, 1, 1, tzinfo=UTC)


def task_set(names: Sequence[str] = NAMES) -> TaskSet:
    """Return tasks of the same variables."""
    return TaskSet(tuple(Task(name, ("profile_id",), ("video_id",)) for name in names))


def task_parts(
    training: Sequence[int] = LISTS, others: int = 150, *, adverse: float = 1.0, related: float = RELATED, seed: int = 0
) -> SplitParts:
    """Return parts with so many lists of each task in training, and equally many in validation and test.

    adverse: how much the last task wants the opposite, from 0: it is like the others, to 1
    related: how much each task's taste differs from the common one
    """
    random = np.random.default_rng(seed)
    tastes = _tastes(random, len(training), adverse, related)
    sizes = [training, [others] * len(training), [others] * len(training)]
    parts = [_lists(random, tastes, each, number) for number, each in enumerate(sizes)]
    return SplitParts(*parts, left_out=0)


def _tastes(
    random: np.random.Generator, tasks: int, adverse: float, related: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each task's weights of features, and of the products of neighbouring features."""
    common = random.normal(size=(2, FEATURES))
    own = common[:, np.newaxis] + related * random.normal(size=(2, tasks, FEATURES))
    own[:, -1] -= 2 * adverse * common
    return own[0], own[1]


def _lists(
    random: np.random.Generator,
    tastes: tuple[NDArray[np.float64], NDArray[np.float64]],
    lists: Sequence[int],
    part: int,
) -> RankingData:
    task = random.permutation(np.repeat(np.arange(len(lists)), lists))
    features = random.normal(size=(len(task) * PER_LIST, FEATURES)).astype(np.float32)
    of_item = np.repeat(task, PER_LIST)
    products = features * np.roll(features, 1, axis=1)
    utility = (tastes[0][of_item] * features).sum(axis=1) + (tastes[1][of_item] * products).sum(axis=1) / 2
    utility += NOISE * random.normal(size=len(utility))
    place = np.argsort(np.argsort(-utility.reshape(-1, PER_LIST), axis=1), axis=1).reshape(-1)
    times = [_START + timedelta(days=part, seconds=i) for i in range(len(task))]
    contexts = {
        TASK_VARIABLE: pa.array([NAMES[number] for number in task]),
        "profile_id": pa.array(np.arange(len(task)) % 97),
        "time": pa.array(times, pa.timestamp("us", "UTC")),
    }
    return RankingData(
        pa.table(contexts),
        pa.table({"video_id": random.integers(0, 500, len(utility))}),
        np.arange(0, len(utility) + 1, PER_LIST),
        np.select([place < 2, place < 5], [2.0, 1.0], 0.0).astype(np.float32),
        features,
        tuple(f"f{i}" for i in range(FEATURES)),
    )

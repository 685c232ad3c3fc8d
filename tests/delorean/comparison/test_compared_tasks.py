"""What a comparison says of tasks: which lose, which may, and which pay for a feature that they cannot have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_ranking_data import ranking_data

from delorean.comparison.compare import compare_scores
from delorean.comparison.compared_tasks import ComparedTasks, with_new_features
from delorean.comparison.result import Comparison, Verdict
from delorean.comparison.settings import ComparisonSettings
from delorean.evaluation.settings import EvaluationSettings
from delorean.tasks.task_set import Task, TaskSet
from schemas.errors import ComparisonError

NAMES = ("home", "search", "rows")
TASKS = TaskSet(
    (
        Task("home", ("profile_id",), ("video_id",), ("matches",)),
        Task("search", ("query",), ("video_id",)),
        Task("rows", ("profile_id",), ("row_id",), ("matches",)),
    )
)


def package(*features: str, tasks: TaskSet | None = TASKS) -> Any:
    """What a comparison reads of a package."""
    return SimpleNamespace(features=features, tasks=tasks)


def compared(losing: str, share: float, few: str = "") -> Comparison:
    """Compare rankings of 600 contexts, of which a share of one task's is ranked worse."""
    random = np.random.default_rng(0)
    names = [NAMES[i % 3] for i in range(600)]
    names = [name if name != few or i < 24 else "search" for i, name in enumerate(names)]
    labels = (random.random((600, 8)) < 0.3).astype(np.float32)
    labels[:, 0] = 1
    production = (labels + random.normal(0, 0.4, labels.shape)).astype(np.float32)
    worse = np.array([name == losing and random.random() < share for name in names])
    candidate = np.where(worse[:, np.newaxis], production - 2 * labels, production + labels * np.float32(1e-4))
    settings = ComparisonSettings(EvaluationSettings(replicates=400))
    settings = ComparedTasks(NAMES).settings(settings)
    part = ranking_data(labels.tolist(), task_type=names)
    return compare_scores(candidate.reshape(-1).astype(np.float32), production.reshape(-1), part, settings)


def test_a_task_that_loses_is_a_regression_by_the_margin_of_the_whole() -> None:
    found = compared("home", 0.06)
    (home,) = (group for group in found.groups if group.group == "home")
    assert (home.simultaneous.high or 0) > -0.02, "a group of another kind would be tolerated"
    assert found.verdict is Verdict.REGRESSES
    assert "task_type = home" in found.reasons[0]
    assert "the tolerated 0.005" in found.reasons[0]
    assert not any("search" in reason for reason in found.reasons)


def test_a_loss_that_is_not_excluded_is_told_with_the_contexts_that_it_takes() -> None:
    found = compared("home", 0.01)
    unclear = [reason for reason in found.reasons if reason.startswith("For task 'home' a loss beyond 0.005")]
    assert len(unclear) == 1
    assert "contexts would tell" in unclear[0]
    few = compared("home", 0.01, few="rows")
    assert any("task 'rows'" in reason and "too few contexts" in reason for reason in few.reasons)


def test_a_task_that_pays_for_a_feature_that_it_cannot_have_is_named() -> None:
    found = compared("home", 0.06)
    added = with_new_features(found, package("listed", "matches"), package("listed"), 0.005)
    (reason,) = added.reasons[len(found.reasons) :]
    assert reason.startswith("Task 'home' loses [")
    assert "the features that the candidate adds (matches) are off there" in reason
    owner = compared("search", 0.06)
    assert with_new_features(owner, package("listed", "matches"), package("listed"), 0.005).reasons == owner.reasons
    same = package("listed")
    assert with_new_features(found, same, same, 0.005) == found
    assert with_new_features(found, package("listed", "matches", tasks=None), same, 0.005) == found


def test_tasks_that_both_serve_are_compared() -> None:
    fewer = replace_tasks(TASKS, "home", "search")
    assert ComparedTasks.of(package(), package(tasks=fewer), None).names == ("home", "search")
    assert ComparedTasks.of(package(), package(tasks=None), "rows") == ComparedTasks(("rows",), ("row_id",))
    assert ComparedTasks.of(package(tasks=None), package(tasks=None), None) == ComparedTasks(None)
    with pytest.raises(ComparisonError, match="no task in common: rows and home, search"):
        ComparedTasks.of(package(tasks=replace_tasks(TASKS, "rows")), package(tasks=fewer), None)
    contexts = ranking_data([[1, 0]] * 3, task_type=NAMES).contexts
    assert ComparedTasks(("search",)).mask(contexts).tolist() == [False, True, False]
    with pytest.raises(ComparisonError, match="the data has no column 'task_type'"):
        ComparedTasks(("search",)).mask(contexts.drop_columns("task_type"))


def replace_tasks(tasks: TaskSet, *names: str) -> TaskSet:
    return TaskSet(tuple(tasks.task(name) for name in names))


def test_columns_that_were_chosen_stay_chosen() -> None:
    settings = ComparisonSettings(EvaluationSettings(by=("country", "task_type")))
    assert ComparedTasks(NAMES).settings(settings).evaluation.by == ("task_type", "country")
    assert ComparedTasks(("home",)).settings(settings) == settings

"""How one model of several tasks is fitted: what is shared, what is a task's own, and when each stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_ranking_data import ranking_data

from benchmarks.task_lists import NAMES, task_parts, task_set
from delorean.evaluation.measure import measure
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import SplitParts
from delorean.scoring.task_trees import TaskTrees
from delorean.tasks.task_set import TASK_VARIABLE
from delorean.training.consolidation.learner import TaskLearner, with_task_feature
from delorean.training.consolidation.settings import Consolidation
from delorean.training.consolidation.task_weights import measured_by_task, of_tasks, weighted_by_task
from delorean.training.fitting import train
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.learners.scikit_learn import ScikitLearn
from delorean.training.learners.xgboost import XGBoost
from delorean.training.served_model import ServedModel
from schemas.errors import ConfigError, TrainingError

TASKS = task_set()
LEARNERS = {
    "lightgbm": LightGBM("lambdarank", {"num_leaves": 7}, rounds=30, stop_after=0, threads=1),
    "lightgbm binary": LightGBM("binary", {"num_leaves": 7}, rounds=30, stop_after=0, threads=1),
    "xgboost": XGBoost("rank:ndcg", {"max_depth": 3, "subsample": 0.8}, rounds=30, stop_after=0, threads=1),
    "xgboost logistic": XGBoost("binary:logistic", {"max_depth": 3}, rounds=30, stop_after=0, threads=1),
}


@pytest.fixture(scope="module")
def parts() -> SplitParts:
    return task_parts((60, 30, 20, 30), 30)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_each_task_continues_the_same_trunk_by_a_third_of_the_rounds(parts: SplitParts, name: str) -> None:
    learner = TaskLearner(LEARNERS[name], TASKS, Consolidation())
    fitted = learner.fit(parts.train, parts.validation, 0)
    served = ServedModel.of(fitted, 10)
    trees = served.trees
    assert trees is not None
    assert (trees.trunk, [trees.own(task) for task in range(4)]) == (20, [(20, 30), (30, 40), (40, 50), (50, 60)])
    scores = served.scores(parts.test)
    for number, (own, part) in enumerate(zip(fitted.own, of_tasks(parts.test, TASKS), strict=True)):
        rows = np.repeat(pc.equal(parts.test.contexts[TASK_VARIABLE], NAMES[number]).to_numpy(), 20)
        theirs = own.reference(part.features).astype(np.float32)
        assert served.own[number].trees == trees.of_task(number)
        tolerance = 0 if "rank" in own.name or name == "xgboost" else 1e-6
        assert np.abs(scores[rows] - theirs).max() <= tolerance


def test_own_trees_learn_from_their_tasks_contexts_only(parts: SplitParts) -> None:
    learner = TaskLearner(LEARNERS["lightgbm"], TASKS, Consolidation(own_rounds=12))
    before = learner.fit(parts.train, parts.validation, 0)
    trunk = before.shared
    for number, part in enumerate(of_tasks(parts.train, TASKS)):
        alone = replace(learner.learner, rounds=12).fit(part, parts.validation, 0, start=trunk)
        assert alone.fitted.model_to_string() == before.own[number].fitted.model_to_string()


@pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
def test_a_continued_model_starts_from_the_exact_scores_of_its_trunk(parts: SplitParts, name: str) -> None:
    """Early stopping sees the metric of the whole sum: it is what the continued model itself is measured by."""
    learner: Any = replace(LEARNERS[name], rounds=10)
    trunk = learner.fit(parts.train, parts.validation, 0)
    part, validation = of_tasks(parts.train, TASKS)[1], of_tasks(parts.validation, TASKS)[1]
    seen: list[NDArray[np.float32]] = []
    model = learner.fit(part, validation, 0, lambda _, scores: seen.append(scores), start=trunk)
    assert seen[-1] == pytest.approx(model.reference(validation.features).astype(np.float32), abs=1e-6)


def test_the_trunk_stops_by_the_mean_of_tasks_and_own_trees_by_their_task(parts: SplitParts) -> None:
    learner = replace(LEARNERS["lightgbm"], rounds=60, stop_after=5)
    reported: list[float] = []
    counted = measured_by_task(parts.validation, TASKS)

    def on_round(_: int, scores: NDArray[np.float32]) -> None:
        reported.append(measure(scores, counted).ndcg_at_10)

    fitted = TaskLearner(learner, TASKS, Consolidation()).fit(parts.train, parts.validation, 0, on_round)
    by_task = of_tasks(parts.validation, TASKS)

    def mean(rounds: int) -> float:
        scores = (fitted.shared.fitted.predict(part.features, num_iteration=rounds) for part in by_task)
        each = [measure(score.astype(np.float32), part).ndcg_at_10 for score, part in zip(scores, by_task, strict=True)]
        return float(np.mean(each))

    best = int(np.argmax(reported)) + 1
    assert fitted.shared.rounds == best < 40
    assert reported[:best] == pytest.approx([mean(rounds) for rounds in range(1, best + 1)], abs=1e-9)
    for own, part in zip(fitted.own, by_task, strict=True):
        trunk, whole = (measure(m.reference(part.features).astype(np.float32), part) for m in (fitted.shared, own))
        assert own is fitted.shared or whole.ndcg_at_10 > trunk.ndcg_at_10


def test_a_task_whose_own_trees_would_only_harm_has_none(parts: SplitParts) -> None:
    """Its validation part wants the opposite of its training part."""
    reverse = np.repeat(pc.equal(parts.train.contexts[TASK_VARIABLE], "search").to_numpy(), 20)
    labels = np.where(reverse, 2 - parts.train.labels, parts.train.labels).astype(np.float32)
    learner = TaskLearner(replace(LEARNERS["lightgbm"], rounds=30, stop_after=4), TASKS, Consolidation())
    fitted = learner.fit(replace(parts.train, labels=labels), parts.validation, 0)
    trees = ServedModel.of(fitted, 10).trees
    assert trees is not None
    start, end = trees.own(1)
    assert start == end
    assert fitted.own[1] is fitted.shared


def test_the_same_data_gives_the_same_bits(parts: SplitParts) -> None:
    fits = [
        TaskLearner(LEARNERS["xgboost"], TASKS, Consolidation()).fit(parts.train, parts.validation, 3) for _ in "ab"
    ]
    one, other = (ServedModel.of(fitted, 10).trees for fitted in fits)
    assert isinstance(one, TaskTrees)
    assert one == other


@pytest.mark.parametrize("sharing", ["task_type", "weighted"])
def test_shared_trees_read_the_tasks_number(parts: SplitParts, sharing: Any) -> None:
    settings = Consolidation(sharing, compare=(sharing,))
    trained = train(parts, model=LEARNERS["lightgbm"], tasks=TASKS, consolidation=settings)
    wide = with_task_feature(parts.test, TASKS)
    assert (wide.names[-1], {*wide.features[:, -1]}) == (TASK_VARIABLE, {0, 1, 2, 3})
    assert (trained.served.scores(parts.test) == trained.reference(wide.features).astype(np.float32)).all()
    swapped = replace(parts.test, contexts=parts.test.contexts.set_column(0, TASK_VARIABLE, pa.array(["kids"] * 120)))
    assert (trained.served.scores(swapped) != trained.served.scores(parts.test)).any()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.1, 10)), min_size=4, max_size=40),
    st.tuples(*[st.floats(0.0, 5.0)] * 4).filter(any),
)
def test_weighted_tasks_have_their_declared_share_of_the_total(
    contexts: list[tuple[int, float]], shares: tuple[float, ...]
) -> None:
    contexts = [*enumerate([1.0] * 4), *contexts]
    tasks = [NAMES[task] for task, _ in contexts]
    part = ranking_data([[1, 0]] * len(tasks), weights=[weight for _, weight in contexts], task_type=tasks)
    weights = weighted_by_task(part, TASKS, shares).weights
    assert weights is not None
    totals = [weights[[task == name for task in tasks]].sum() for name in NAMES]
    assert totals == pytest.approx(np.array(shares) / sum(shares) * len(tasks))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0.1, 10)), max_size=30), st.integers(0, 99))
def test_tasks_are_measured_by_the_mean_of_their_means(contexts: list[tuple[int, bool, float]], seed: int) -> None:
    contexts = [*((task, True, 1.0) for task in range(4)), *contexts]
    labels = [[1.0, 0, 0] if positive else [0.0, 0, 0] for _, positive, _ in contexts]
    weights = [weight for *_, weight in contexts]
    part = ranking_data(labels, weights=weights, task_type=[NAMES[task] for task, *_ in contexts])
    scores = np.random.default_rng(seed).random(len(part.labels)).astype(np.float32)
    weighted = measured_by_task(part, TASKS)
    means = []
    for number, own in enumerate(of_tasks(part, TASKS)):
        rows = np.repeat([task == number for task, *_ in contexts], 3)
        means.append(measure(scores[rows], own).ndcg_at_10)
    assert measure(scores, weighted).ndcg_at_10 == pytest.approx(np.mean(means))


def without(part: RankingData, task: str) -> RankingData:
    return part.take(np.flatnonzero(pc.not_equal(part.contexts[TASK_VARIABLE], task).to_numpy()))


def without_positives(part: RankingData, task: str) -> RankingData:
    rows = np.repeat(pc.equal(part.contexts[TASK_VARIABLE], task).to_numpy(), 20)
    return replace(part, labels=np.where(rows, 0, part.labels).astype(np.float32))


def test_a_task_without_contexts_to_learn_from_or_to_stop_by_is_named(parts: SplitParts) -> None:
    learner = TaskLearner(LEARNERS["lightgbm"], TASKS, Consolidation())
    with pytest.raises(TrainingError, match="task 'search' has no context with items in the training part"):
        learner.fit(without(parts.train, "search"), parts.validation, 0)
    with pytest.raises(TrainingError, match="task 'kids' has no context with a positive label in the validation part"):
        learner.fit(parts.train, without(parts.validation, "kids"), 0)
    with pytest.raises(TrainingError, match="task 'kids' has no context with a positive label in the validation part"):
        learner.fit(parts.train, without_positives(parts.validation, "kids"), 0)
    with pytest.raises(TrainingError, match="task 'similar': all 400 labels of the training part are equal"):
        learner.fit(without_positives(parts.train, "similar"), parts.validation, 0)


def test_contexts_of_unknown_or_no_tasks_are_an_error(parts: SplitParts) -> None:
    learner = TaskLearner(LEARNERS["lightgbm"], task_set(NAMES[:3]), Consolidation())
    with pytest.raises(TrainingError, match="unknown task 'kids'"):
        learner.fit(parts.train, parts.validation, 0)
    nameless = replace(parts.train, contexts=parts.train.contexts.drop_columns(TASK_VARIABLE))
    with pytest.raises(TrainingError, match="task_type"):
        learner.fit(nameless, parts.validation, 0)


def test_settings_that_no_data_makes_right_are_rejected() -> None:
    cases: list[tuple[Any, str]] = [
        (lambda: Consolidation("stem"), "unknown sharing 'stem'"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Consolidation(calibration="beta"), "unknown calibration 'beta'"),  # type: ignore[arg-type]  # as above
        (lambda: Consolidation(loss_limit=0), "loss_limit is 0"),
        (lambda: Consolidation("task_type", own_rounds=3), "own_rounds is 3 with sharing"),
        (lambda: Consolidation(weights={"search": 2}), "weights are given with sharing"),
        (lambda: Consolidation("weighted", weights={"search": -1}), "expected numbers of 0 and more"),
        (lambda: Consolidation("weighted", weights={"search": float("nan")}), "expected numbers of 0 and more"),
        (
            lambda: Consolidation(accept_loss=("serach",)).check(NAMES),
            "unknown task of consolidation.accept_loss 'serach'",
        ),
        (lambda: Consolidation("weighted", weights=dict.fromkeys(NAMES, 0)).check(NAMES), "weights of all tasks are 0"),
        (lambda: Consolidation(own_rounds=30).rounds_of_own(30), "30 of 30 rounds are the tasks' own"),
        (lambda: TaskLearner(ScikitLearn(), TASKS, Consolidation()).check(), "cannot be continued for each task"),
        (lambda: train(ranking_data([[1, 0]]), consolidation=Consolidation("weighted")), "no tasks that share a model"),
    ]
    for build, message in cases:
        with pytest.raises(ConfigError, match=message):
            build()


def test_an_estimator_that_cannot_be_continued_still_shares_all_its_trees(parts: SplitParts) -> None:
    settings = Consolidation("task_type")
    learner = TaskLearner(ScikitLearn(), TASKS, settings)
    learner.check()
    assert learner.sharings == ("task_type", "weighted")
    with pytest.raises(TrainingError, match="cannot continue a model"):
        ScikitLearn().fit(parts.train, parts.validation, 0, start=object())

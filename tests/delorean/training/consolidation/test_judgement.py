"""Whether one model for several tasks is right: who gains, who loses, and what is not known."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.task_lists import NAMES, task_parts, task_set
from delorean.evaluation.bootstrap import contexts_needed, paired_differences, simultaneous
from delorean.evaluation.by_context import measure_contexts
from delorean.evaluation.estimate import Estimate
from delorean.evaluation.groups import clusters_of
from delorean.evaluation.settings import Bootstrap, EvaluationSettings
from delorean.ranking_data.split import SplitParts
from delorean.tasks.task_set import TASK_VARIABLE
from delorean.training.consolidation.judgement import outcome_of
from delorean.training.consolidation.result import ConsolidationReport, Outcome, SharingResult, TaskDifference
from delorean.training.consolidation.settings import Consolidation
from delorean.training.consolidation.task_weights import of_tasks
from delorean.training.consolidation.verdict import verdict
from delorean.training.fitting import TrainedModel, train
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.report import TrainingReport

TASKS = task_set()
LEARNER = LightGBM("lambdarank", {"num_leaves": 15}, rounds=90, stop_after=0, threads=1)
EVALUATION = EvaluationSettings(at=(10,), cluster="profile_id", replicates=400, repeats=1)


@pytest.fixture(scope="module")
def parts() -> SplitParts:
    return task_parts((200, 40, 30, 60), 200, seed=1)


@pytest.fixture(scope="module")
def trained(parts: SplitParts) -> TrainedModel:
    return train(parts, model=LEARNER, tasks=TASKS, evaluation=EVALUATION, consolidation=Consolidation())


def report_of(trained: TrainedModel) -> ConsolidationReport:
    assert trained.report.consolidation is not None
    return trained.report.consolidation


def test_a_planted_adverse_task_is_named_as_the_one_that_loses(trained: TrainedModel) -> None:
    report = report_of(trained)
    assert report.outcomes()["kids"] is Outcome.LOSES
    others = [task for task in report.chosen.tasks if task.task in ("search", "similar")]
    assert all((task.difference.value or 0) > 0 and task.outcome is not Outcome.LOSES for task in others)
    assert not report.consolidated
    assert report.reasons[0].startswith("Not consolidated: ")
    assert "'kids'" in report.reasons[0]
    assert any(reason.startswith("'kids' loses: ndcg@10 -") for reason in report.reasons)
    assert not any(reason.startswith("'search' loses") for reason in report.reasons)


def test_all_sharings_are_measured_on_the_same_contexts_against_models_of_equal_trees(trained: TrainedModel) -> None:
    report = report_of(trained)
    assert [result.sharing for result in report.sharings] == ["trunk", "task_type", "weighted"]
    for result in report.sharings:
        assert [task.task for task in result.tasks] == list(NAMES)
        assert {task.trees for task in result.tasks} == {(90, 90)}
        assert {task.difference.contexts for task in result.tasks} == {200}
        for task in result.tasks:
            assert task.difference.value == pytest.approx((task.shared.value or 0) - (task.single.value or 0))


def test_intervals_are_paired_hold_for_all_tasks_together_and_draw_clusters(
    trained: TrainedModel, parts: SplitParts
) -> None:
    """The bootstrap by itself, of scores of models that are fitted here."""
    scores, clusters = trained.served.scores(parts.test), clusters_of(parts.test, "profile_id")
    together = simultaneous(Bootstrap(0.95, 400, EVALUATION.seed), 4)
    assert clusters is not None
    by_part = [of_tasks(part, TASKS) for part in (parts.train, parts.validation, parts.test)]
    for number, task in enumerate(report_of(trained).chosen.tasks):
        learned, stopping, test = (part[number] for part in by_part)
        contexts = pc.equal(parts.test.contexts[TASK_VARIABLE], task.task).to_numpy()
        drawn = np.unique(clusters[contexts], return_inverse=True)[1]
        alone = LEARNER.fit(learned, stopping, 0).reference(test.features).astype(np.float32)
        ours, theirs = (
            measure_contexts(each, test, [10])["ndcg@10"][:, np.newaxis]
            for each in (scores[np.repeat(contexts, 20)], alone)
        )
        (expected,) = paired_differences(ours, theirs, None, drawn, together)
        assert msgspec.to_builtins(task.difference) == pytest.approx(msgspec.to_builtins(expected), abs=1e-9)
        (one_by_one,) = paired_differences(ours, theirs, None, None, together)
        assert (one_by_one.low, one_by_one.high) != (expected.low, expected.high)


def test_a_report_is_read_back_as_it_was_written(trained: TrainedModel) -> None:
    plain = msgspec.to_builtins(trained.report)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(plain)), TrainingReport) == trained.report
    plain.pop("consolidation")
    assert msgspec.convert(plain, TrainingReport).consolidation is None  # a report of an earlier release


def test_metrics_are_measured_by_task_without_being_asked_for(trained: TrainedModel) -> None:
    assert trained.report.evaluation is not None
    groups = trained.report.evaluation.parts["test"].groups
    assert {group.group for group in groups if group.by == TASK_VARIABLE} == {*NAMES}


def result(sharing: str, **differences: Estimate) -> SharingResult:
    none = Estimate(0.9, None, None, 500)
    return SharingResult(
        sharing,
        tuple(
            TaskDifference(
                task,
                none,
                none,
                each,
                outcome_of(each, 0.005),
                (90, 90),
                contexts_needed(each, 0.005),
            )
            for task, each in differences.items()
        ),
    )


GAINS, KEEPS = Estimate(0.02, 0.01, 0.03, 500), Estimate(0.0, -0.004, 0.004, 500)
LOSES, UNCLEAR = Estimate(-0.02, -0.03, -0.01, 500), Estimate(0.0, -0.01, 0.01, 500)
FEW = Estimate(0.0, None, None, 4)
SLIGHT = Estimate(-0.002, -0.004, -0.001, 500)


def judged(settings: Consolidation, *results: SharingResult) -> ConsolidationReport:
    return verdict(results, settings, EVALUATION)


def test_a_loss_and_a_loss_that_is_not_excluded_are_told_apart() -> None:
    report = judged(Consolidation(), result("trunk", home=GAINS, kids=LOSES, rows=UNCLEAR, new=FEW, old=SLIGHT))
    assert not report.consolidated
    assert report.outcomes() == {
        "home": Outcome.GAINS,
        "kids": Outcome.LOSES,
        "rows": Outcome.UNCLEAR,
        "new": Outcome.UNCLEAR,
        "old": Outcome.KEEPS,
    }
    text = "\n".join(report.reasons)
    assert "'kids' loses: ndcg@10 -0.0200 [-0.0300, -0.0100] on 500 contexts. Train it apart" in text
    assert "For 'rows' a loss is not excluded" in text
    assert "about 2,000 contexts would tell" in text
    assert "For 'new' a loss is not excluded: the test part has too few contexts of it" in text
    assert "'old'" not in text


def test_only_losses_that_are_accepted_by_name_are_consolidated() -> None:
    tasks = result("trunk", home=GAINS, kids=LOSES, rows=UNCLEAR)
    assert not judged(Consolidation(accept_loss=("kids",)), tasks).consolidated
    report = judged(Consolidation(accept_loss=("kids", "rows")), tasks)
    assert report.consolidated
    assert report.reasons[0] == 'Consolidated by sharing = "trunk", with a loss that is accepted.'
    assert judged(Consolidation(), result("trunk", home=GAINS, rows=KEEPS)).consolidated


def test_a_sharing_by_which_fewer_lose_is_named() -> None:
    trunk = result("trunk", home=GAINS, kids=LOSES, rows=LOSES)
    better = judged(Consolidation(), trunk, result("weighted", home=KEEPS, kids=KEEPS, rows=LOSES))
    assert "By sharing = \"weighted\" only 'rows' may." in better.reasons
    clean = judged(Consolidation(), trunk, result("weighted", home=KEEPS, kids=KEEPS, rows=GAINS))
    assert 'By sharing = "weighted" no task may lose more than that.' in clean.reasons
    never = judged(Consolidation(), trunk, result("weighted", home=LOSES, kids=LOSES, rows=LOSES))
    assert "No sharing that was measured excludes a loss of 'kids' and 'rows'." in never.reasons


def test_without_a_gain_the_verdict_says_what_one_model_is_worth() -> None:
    report = judged(Consolidation(), result("trunk", home=KEEPS, kids=KEEPS))
    assert report.consolidated
    assert "No task certainly gains" in report.reasons[1]


@given(st.floats(-0.1, 0.1), st.floats(0, 0.1), st.floats(0.001, 0.05))
def test_an_outcome_follows_from_the_interval_alone(middle: float, half: float, limit: float) -> None:
    outcome = outcome_of(Estimate(middle, middle - half, middle + half, 100), limit)
    may_lose = middle - half < -limit
    assert may_lose == (outcome in (Outcome.LOSES, Outcome.UNCLEAR))
    assert (outcome is Outcome.LOSES) == (may_lose and middle + half < 0)
    assert (outcome is Outcome.GAINS) == (middle - half > 0)


def test_contexts_needed_narrow_the_interval_to_the_limit() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 0.1, (400, 1))
    (few,) = paired_differences(values, np.zeros_like(values))
    needed = contexts_needed(few, 0.005)
    assert needed is not None
    more = random.normal(0, 0.1, (needed, 1))
    (enough,) = paired_differences(more, np.zeros_like(more))
    assert ((enough.high or 0) - (enough.low or 0)) / 2 == pytest.approx(0.005, rel=0.15)


def test_a_task_without_contexts_in_the_test_part_is_not_judged_to_keep(parts: SplitParts) -> None:
    rows = np.flatnonzero(pc.not_equal(parts.test.contexts[TASK_VARIABLE], "similar").to_numpy())
    few = replace(parts, test=parts.test.take(rows))
    settings = Consolidation(compare=())
    quick = replace(LEARNER, rounds=6)
    report = report_of(train(few, model=quick, tasks=TASKS, evaluation=EVALUATION, consolidation=settings))
    assert report.outcomes()["similar"] is Outcome.UNCLEAR
    assert any("the test part has no context with a positive of it" in reason for reason in report.reasons)

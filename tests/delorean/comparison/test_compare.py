from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_world import make_feature_set

from delorean import ComparisonError, ConfigError, TrainingError, read_feature_set
from delorean.comparison import compare_scores
from delorean.comparison.result import Agreement, Comparison, GroupDifference, Verdict
from delorean.comparison.settings import ComparisonSettings
from delorean.comparison.verdict import judge
from delorean.evaluation.bootstrap import simultaneous
from delorean.evaluation.estimate import Estimate
from delorean.evaluation.metrics import ranking_metrics
from delorean.evaluation.settings import Bootstrap, EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData

FEATURES = ("affinity", "popularity", "noise")


@pytest.fixture(scope="module")
def part() -> RankingData:
    return read_feature_set(make_feature_set(800, 12), FEATURES, ["video_id"], ["profile_id", "country"])


def settings_of(**options: Any) -> ComparisonSettings:
    evaluation = {name: options.pop(name) for name in ("at", "by", "cluster", "replicates") if name in options}
    return ComparisonSettings(EvaluationSettings(**evaluation), **options)


def compared(part: RankingData, candidate: Any, production: Any, **options: Any) -> Comparison:
    return compare_scores(
        np.asarray(candidate, np.float32), np.asarray(production, np.float32), part, settings_of(**options)
    )


def test_a_better_ranking_is_better_and_its_metrics_are_those_of_each_side(part: RankingData) -> None:
    good, poor = part.features[:, 0], part.features[:, 0] + 2 * part.features[:, 2]
    found = compared(part, good, poor)
    assert (found.verdict, found.worth_testing, found.regresses) == (Verdict.BETTER, True, False)
    for name, scores in (("candidate", good), ("production", poor)):
        direct = ranking_metrics(scores, part.labels, part.offsets)
        assert getattr(found["ndcg@10"], name).value == pytest.approx(direct.ndcg_at_10)
        assert getattr(found["mrr"], name).value == pytest.approx(direct.mrr)
        assert getattr(found["recall@10"], name).value == pytest.approx(direct.recall_at_10)
        assert getattr(found["auc"], name).value == pytest.approx(direct.auc)
    change = found["ndcg@10"]
    assert change.candidate.value is not None
    assert change.production.value is not None
    assert change.difference.value == pytest.approx(change.candidate.value - change.production.value)
    assert "better: ndcg@10" not in repr(found)
    assert repr(found).startswith("candidate against production: better, ndcg@10 +0.")
    assert "It is better, and different enough to test." in found.reasons


def test_the_same_sides_the_other_way_round_are_a_regression(part: RankingData) -> None:
    good, poor = part.features[:, 0], part.features[:, 0] + 2 * part.features[:, 2]
    there, back = compared(part, good, poor), compared(part, poor, good)
    assert back.verdict is Verdict.REGRESSES
    assert back["mrr"].difference.value == pytest.approx(-(there["mrr"].difference.value or 0))
    assert back.agreement.overlap == there.agreement.overlap
    assert [each.context for each in back.most_different] == [each.context for each in there.most_different]


@pytest.mark.parametrize("change", [lambda scores: scores, lambda scores: scores * 3 + 1])
def test_rankings_in_the_same_order_leave_nothing_to_test(part: RankingData, change: Any) -> None:
    found = compared(part, change(part.features[:, 0]), part.features[:, 0])
    assert found.verdict is Verdict.IDENTICAL
    assert found.reasons == ("Both order the items of every context alike: there is nothing to test.",)
    assert found.agreement.same == 1
    assert found.most_different == found.largest_losses == ()


def test_two_constant_scores_are_identical_and_one_is_no_ranking(part: RankingData) -> None:
    zeros = np.zeros(len(part.labels))
    assert compared(part, zeros, zeros).verdict is Verdict.IDENTICAL
    found = compared(part, zeros, part.features[:, 0])
    assert found.verdict is Verdict.REGRESSES
    assert found.agreement.tau.value is None


def test_a_single_context_concludes_nothing(part: RankingData) -> None:
    with_positives = int(np.argmax(np.add.reduceat(part.labels, part.offsets[:-1]) > 0))
    one = part.take(np.array([with_positives]))
    found = compared(one, one.features[:, 0], -one.features[:, 0])
    assert found.verdict is Verdict.UNCLEAR
    assert found.reasons[0] == "ndcg@10 cannot tell them apart: there are too few contexts."
    assert found["ndcg@10"].difference.low is None


def test_no_positive_label_concludes_nothing(part: RankingData) -> None:
    unlabelled = replace(part, labels=np.zeros_like(part.labels))
    found = compared(unlabelled, part.features[:, 0], part.features[:, 1])
    assert found.verdict is Verdict.UNCLEAR
    assert "no context has a positive label" in found.reasons[0]


def test_a_gain_that_changes_hardly_any_place_is_not_worth_a_test(part: RankingData) -> None:
    good, poor = part.features[:, 0], part.features[:, 0] + 2 * part.features[:, 2]
    found = compared(part, good, poor, changed=1.0)
    assert found.verdict is Verdict.BETTER_BUT_ALIKE
    assert not found.worth_testing


def test_a_loss_within_the_margin_is_tolerated_and_beyond_it_not(part: RankingData) -> None:
    production = part.features[:, 0]
    candidate = production + 0.15 * part.features[:, 2]
    loss = compared(part, candidate, production)["ndcg@10"].difference
    assert loss.value is not None
    assert loss.low is not None
    assert compared(part, candidate, production, margin=-loss.low + 1e-6).verdict is Verdict.NOT_WORSE
    tight = compared(part, candidate, production, margin=1e-6)
    assert tight.verdict is (Verdict.REGRESSES if loss.high is not None and loss.high < 0 else Verdict.UNCLEAR)


def test_an_unclear_result_says_how_many_contexts_would_tell(part: RankingData) -> None:
    few = part.take(np.arange(60))
    noisy = few.features[:, 0] + 0.3 * few.features[:, 2]
    found = compared(few, noisy, few.features[:, 0], margin=0.001)
    assert found.verdict is Verdict.UNCLEAR
    assert any("contexts would narrow the interval to ±0.001" in reason for reason in found.reasons)


def test_a_regression_hidden_in_one_group_is_found_and_named(part: RankingData) -> None:
    production = part.features[:, 0] + part.features[:, 2]
    german = np.repeat(np.array(part.contexts["country"].to_pylist()) == "DE", np.diff(part.offsets))
    candidate = np.where(german, -part.features[:, 0], part.features[:, 0] * 1.0)
    overall = compared(part, candidate, production)
    found = compared(part, candidate, production, by=("country",))
    assert found.verdict is Verdict.REGRESSES
    assert found.reasons[0].startswith("ndcg@10 falls by more than the tolerated 0.02 for country = DE (-0.")
    assert {(each.by, each.group) for each in found.groups} == {("country", "US"), ("country", "DE")}
    assert sum(each.contexts for each in found.groups) == found.contexts == overall.contexts
    for group in found.groups:
        own = next(each for each in group.metrics if each.metric == "ndcg@10").difference
        assert group.simultaneous.value == own.value
        assert group.simultaneous.low is not None
        assert own.low is not None
        assert group.simultaneous.low < own.low, "the interval that holds for both groups together is wider"


def test_intervals_of_dependent_contexts_are_wider(part: RankingData) -> None:
    repeated = part.take(np.repeat(np.arange(100), 5))  # each context five times: no more is known than once
    scores = repeated.features[:, 0], repeated.features[:, 1]
    alone, together = compared(repeated, *scores), compared(repeated, *scores, cluster="profile_id")
    widths = [
        (found["ndcg@10"].difference.high or 0) - (found["ndcg@10"].difference.low or 0) for found in (alone, together)
    ]
    assert widths[1] > 1.5 * widths[0]


def test_examples_show_what_each_side_ranks_first(part: RankingData) -> None:
    candidate, production = part.features[:, 0], part.features[:, 1]
    found = compared(part, candidate, production, examples=3, places=4)
    assert len(found.most_different) == len(found.largest_losses) == 3
    assert [each.overlap for each in found.most_different] == sorted(each.overlap for each in found.most_different)
    worst = found.largest_losses[0]
    assert worst.difference is not None
    assert worst.difference < 0
    row = part.contexts.to_pylist().index(worst.context)
    start, end = part.offsets[row], part.offsets[row + 1]
    order = start + np.argsort(-candidate[start:end], kind="stable")[:4]
    assert [each.item["video_id"] for each in worst.candidate] == part.items["video_id"].take(
        pa.array(order)
    ).to_pylist()
    assert [each.label for each in worst.candidate] == part.labels[order].tolist()
    assert {each.score for each in worst.production} <= set(production[start:end].tolist())


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_of_equally_good_rankings_few_are_taken_for_better_or_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    part = read_feature_set(make_feature_set(120, 6, seed), FEATURES, ["video_id"], ["profile_id", "country"])
    found = compared(part, random.normal(size=len(part.labels)), random.normal(size=len(part.labels)), replicates=200)
    difference = found["ndcg@10"].difference
    assert difference.low is not None
    assert difference.high is not None
    assert difference.value is not None
    assert difference.low <= difference.value <= difference.high
    assert abs(difference.value) < 0.2


def test_wrong_input_is_refused(part: RankingData) -> None:
    scores = part.features[:, 0]
    with pytest.raises(ComparisonError, match="unknown metric 'ndcg@7' → did you mean 'ndcg@5'"):
        compared(part, scores, scores, metric="ndcg@7")
    with pytest.raises(TrainingError, match="scores are NaN"):
        compared(part, np.full_like(scores, np.nan), scores)
    with pytest.raises(TrainingError, match="expected .* one for each item"):
        compared(part, scores[:5], scores)
    with pytest.raises(ComparisonError, match="there are no contexts"):
        compared(part.take(np.array([], np.int64)), [], [])
    with pytest.raises(TrainingError, match="unknown column to measure by 'county' → did you mean 'country'"):
        compared(part, scores, scores, by=("county",))
    for wrong in ({"margin": 0}, {"group_margin": -1}, {"changed": 2}, {"places": 0}, {"metric": "log_loss"}):
        with pytest.raises(ConfigError):
            ComparisonSettings(**wrong)  # type: ignore[arg-type]


def test_several_looks_widen_intervals_and_draw_more_replicates() -> None:
    assert simultaneous(Bootstrap(), 1) == Bootstrap()
    forty = simultaneous(Bootstrap(), 40)
    assert (forty.level, forty.replicates) == (pytest.approx(1 - 0.05 / 40), 10_000)


ends = st.floats(-0.1, 0.1)
alike = Agreement(10, *(Estimate(0.5, 0.4, 0.6, 100),) * 2, Estimate(0.0, 0.0, 0.0, 100), 0.0, 0.0, 0.0, ())


@settings(max_examples=300)
@given(st.tuples(ends, ends, ends).map(sorted), st.tuples(ends, ends, ends).map(sorted), st.floats(0, 1))
def test_each_verdict_follows_from_its_intervals(whole: list[float], group: list[float], changed: float) -> None:
    low, value, high = whole
    of_group = Estimate(group[1], group[0], group[2], 50)
    groups = [GroupDifference("country", "US", 50, (), of_group)]
    agreement = replace(alike, changed=Estimate(changed, changed, changed, 100))
    verdict, reasons = judge(Estimate(value, low, high, 100), groups, agreement, ComparisonSettings())
    regresses = group[2] < -0.02 or (high < 0 and low < -0.005)
    assert (verdict is Verdict.REGRESSES) == regresses
    better = not regresses and low > 0
    assert (verdict in (Verdict.BETTER, Verdict.BETTER_BUT_ALIKE)) == better
    if better:
        assert (verdict is Verdict.BETTER) == (changed >= 0.05)
    assert (verdict is Verdict.NOT_WORSE) == (not regresses and not better and low >= -0.005)
    assert reasons
    assert all(reason.endswith(".") for reason in reasons)

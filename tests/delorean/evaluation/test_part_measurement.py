from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score
from small_ranking_data import START, ranking_data

from delorean.evaluation.metrics import ranking_metrics
from delorean.evaluation.part_measurement import DAY, PartMeasurement, differences, measure_part
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from schemas.errors import ConfigError, TrainingError


def random_part(
    seed: int, contexts: int = 80, **variables: Sequence[object]
) -> tuple[NDArray[np.float32], RankingData]:
    """Scores that predict somewhat, with ties, weights, and contexts of 0 to 9 items."""
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 10, contexts)
    labels = [random.integers(0, 2, size).tolist() for size in sizes]
    part = ranking_data(
        labels,
        weights=random.integers(1, 4, contexts),
        item_weights=random.integers(1, 3, int(sizes.sum())),
        **variables,
    )
    scores = (np.round(random.random(len(part.labels)) * 6 + 3 * part.labels) / 10).astype(np.float32)
    return scores, part


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_values_are_those_of_scikit_learn_and_of_the_metrics_that_training_reports(seed: int) -> None:
    scores, part = random_part(seed)
    measured = measure_part(scores, part, EvaluationSettings(at=(3,), replicates=100)).metrics
    expected = ranking_metrics(
        scores, part.labels, part.offsets, 3, weights=part.weights, item_weights=part.own_item_weights
    )
    weights = part.item_weights
    assert measured["ndcg@3"].value == pytest.approx(expected.ndcg_at_10)
    assert measured["recall@3"].value == pytest.approx(expected.recall_at_10)
    assert measured["mrr"].value == pytest.approx(expected.mrr)
    assert measured["mrr"].contexts == expected.contexts
    assert measured["auc"].value == pytest.approx(roc_auc_score(part.positive, scores, sample_weight=weights))
    assert measured["log_loss"].value == pytest.approx(
        log_loss(part.positive, scores.astype(np.float64), sample_weight=weights)
    )


def test_the_interval_of_the_area_is_that_of_drawing_contexts_and_measuring_again() -> None:
    scores, part = random_part(5, contexts=400)
    measured = measure_part(scores, part, EvaluationSettings(replicates=4_000)).metrics["auc"]
    random = np.random.default_rng(1)
    of_context = np.repeat(np.arange(400), np.diff(part.offsets))
    areas = []
    for _ in range(1_500):
        drawn = np.bincount(random.integers(0, 400, 400), minlength=400)[of_context] * part.item_weights
        areas.append(roc_auc_score(part.positive, scores, sample_weight=drawn))
    low, high = np.quantile(areas, [0.025, 0.975])
    assert (measured.low, measured.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_groups_are_measured_as_parts_of_their_own() -> None:
    countries = np.random.default_rng(0).choice(["US", "DE", None], 80, p=[0.6, 0.3, 0.1]).tolist()
    scores, part = random_part(1, country=countries)
    chosen = EvaluationSettings(by=("country",))
    groups = {group.group: group for group in measure_part(scores, part, chosen).groups}
    assert list(groups) == ["US", "DE", "null"]  # the largest first
    rows = np.array([i for i, country in enumerate(countries) if country == "DE"])
    alone = part.take(rows)
    own = np.concatenate([scores[part.offsets[row] : part.offsets[row + 1]] for row in rows])
    assert groups["DE"].metrics == measure_part(own, alone, EvaluationSettings()).metrics
    assert (groups["DE"].contexts, groups["DE"].items) == (len(rows), len(own))
    assert sum(group.positives for group in groups.values()) == part.positive.sum()


def test_a_group_of_few_contexts_has_counts_and_values_but_no_intervals() -> None:
    scores, part = random_part(2, stratum=["rare"] * 9 + ["usual"] * 71)
    groups = {group.group: group for group in measure_part(scores, part, EvaluationSettings(by=("stratum",))).groups}
    rare = groups["rare"].metrics["mrr"]
    assert rare.value is not None
    assert (rare.low, rare.high, groups["rare"].contexts) == (None, None, 9)
    assert groups["usual"].metrics["mrr"].low is not None


def test_a_column_of_very_many_values_is_cut_to_forty_groups() -> None:
    scores, part = random_part(3, query=[f"q{min(i, 50)}" for i in range(80)])
    groups = measure_part(scores, part, EvaluationSettings(by=("query",), replicates=100)).groups
    assert (len(groups), groups[0].group, groups[-1].group) == (40, "q50", "all others")
    assert sum(group.contexts for group in groups) == 80


def test_days_are_counted_from_the_end_of_the_training_part() -> None:
    scores, part = random_part(4)  # a context each hour
    groups = measure_part(scores, part, since=START - timedelta(hours=1)).groups
    assert [(group.by, group.group, group.contexts) for group in groups] == [
        (DAY, "0", 23),
        (DAY, "1", 24),
        (DAY, "2", 24),
        (DAY, "3", 9),
    ]


def test_days_long_after_the_training_are_one_group() -> None:
    scores, part = random_part(4)
    groups = measure_part(scores, part, since=START - timedelta(days=38)).groups
    assert [group.group for group in groups] == ["38", "39 and later"]


def test_contexts_of_a_cluster_are_drawn_together() -> None:
    scores, part = random_part(6, contexts=200, profile_id=[i // 8 for i in range(200)])
    alone, together = (
        measure_part(scores, part, EvaluationSettings(cluster=cluster)).metrics["mrr"]
        for cluster in (None, "profile_id")
    )
    assert alone.value == together.value
    assert (alone.low, alone.high) != (together.low, together.high)


def test_differences_are_those_of_the_values_and_of_a_ranking_with_itself_zero() -> None:
    scores, part = random_part(7)
    others = np.random.default_rng(0).random(len(scores)).astype(np.float32)
    chosen = EvaluationSettings()
    ours, theirs = (measure_part(each, part, chosen).metrics for each in (scores, others))
    found = differences(scores, others, part, chosen)
    assert list(found) == list(ours)
    for name, difference in found.items():
        assert difference.value == pytest.approx(ours[name].value - theirs[name].value)
    assert found["mrr"].excludes_zero
    assert all((each.low, each.high) == (0, 0) for each in differences(scores, scores, part, chosen).values())


def test_scores_that_are_no_probabilities_have_neither_log_loss_nor_calibration() -> None:
    scores, part = random_part(8)
    measured = measure_part(scores * 10, part)
    assert "log_loss" not in measured.metrics
    assert measured.calibration is None


def test_other_labels_are_measured_over_the_items_that_have_them() -> None:
    scores, part = random_part(10)
    random = np.random.default_rng(1)
    minutes = random.choice([0.0, 1.0, 30.0, -1.0, np.nan], len(scores)).astype(np.float32)
    both = replace(part, other_labels={"minutes": minutes})
    chosen = EvaluationSettings(at=(3,))
    measured = measure_part(scores, both, chosen)
    assert measured.metrics == measure_part(scores, part, chosen).metrics
    known = ~np.isnan(minutes)
    of_context = np.repeat(np.arange(len(part)), np.diff(part.offsets))[known]
    alone = ranking_data(
        [np.maximum(minutes[known][of_context == context], 0).tolist() for context in range(len(part))],
        weights=part.weights,
        item_weights=part.own_item_weights[known],
    )
    expected = measure_part(scores[known], alone, chosen).metrics
    assert measured.other_labels == {"minutes": {name: expected[name] for name in expected if name != "log_loss"}}


def test_a_part_without_positives_is_described_and_not_an_error() -> None:
    part = ranking_data([[0, 0], [0]])
    measured = measure_part(np.float32([0.1, 0.2, 0.3]), part)
    assert measured.metrics["ndcg@10"].value is None
    assert measured.metrics["auc"].value is None
    assert measured.metrics["log_loss"].value is not None


def test_a_measurement_is_read_back_from_json_as_it_was() -> None:
    scores, part = random_part(9, country=["US"] * 80)
    measured = measure_part(scores, part, EvaluationSettings(by=("country",)), START)
    assert msgspec.json.decode(msgspec.json.encode(measured), type=PartMeasurement) == measured


@pytest.mark.parametrize("chosen", [{"by": ("cuntry",)}, {"cluster": "cuntry"}])
def test_a_column_that_does_not_exist_is_named_with_a_similar_one(chosen: dict[str, object]) -> None:
    scores, part = random_part(0, country=["US"] * 80)
    with pytest.raises(TrainingError, match="'cuntry' → did you mean 'country'"):
        measure_part(scores, part, EvaluationSettings(**chosen))


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ({"at": (0,)}, "expected numbers of places"),
        ({"level": 95}, "level is 95"),
        ({"replicates": 3}, "replicates is 3"),
        ({"learning_curve": (0.5, 1.5)}, "expected shares between 0 and 1"),
        ({"learning_curve_seconds": 0}, "not above 0"),
        ({"calibration_bins": 0}, "calibration_bins is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"by": ("a", "a")}, "'a' twice"),
    ],
)
def test_settings_that_measure_nothing_are_rejected(chosen: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EvaluationSettings(**chosen)

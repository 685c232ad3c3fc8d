from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, ndcg_score, roc_auc_score
from small_ranking_data import ranking_data

from delorean.evaluation.by_context import measure_contexts, metrics_by_context
from schemas.errors import ConfigError, TrainingError

SCORES = [-np.inf, -0.0, 0.0, 0.25, 1.0, np.inf]
items = st.lists(st.tuples(st.sampled_from(SCORES), st.sampled_from([0, 0, 1, 3])), max_size=6)
contexts = st.lists(items, min_size=1, max_size=4)


def by_every_order(context: list[tuple[float, float]], k: int) -> list[float]:
    """NDCG, recall, reciprocal rank, average precision and AUC, averaged over every order that the scores allow."""
    orders = []
    for order in permutations(context):
        if all(a[0] >= b[0] for a, b in pairwise(order)):
            gains = np.array([gain for _, gain in order], dtype=np.float64)
            places = 1 + np.flatnonzero(gains)
            discounts = 1 / np.log2(np.arange(2, k + 2))[: len(gains)]
            ideal = (np.sort(gains)[::-1][:k] * discounts).sum()
            negatives_after = [(gains[place:] == 0).sum() for place in places]
            negatives = (gains == 0).sum()
            orders.append(
                [
                    (gains[:k] * discounts).sum() / ideal,
                    (places <= k).mean(),
                    1 / places[0],
                    (np.arange(1, len(places) + 1) / places).mean(),
                    np.sum(negatives_after) / (len(places) * negatives) if negatives else np.nan,
                ]
            )
    return list(np.mean(orders, axis=0))


@settings(max_examples=150, deadline=None)
@given(contexts, st.sets(st.integers(1, 7), min_size=1, max_size=3))
def test_each_context_is_measured_by_the_mean_over_every_order_that_ties_allow(
    contexts: list[list[tuple[float, float]]], at: set[int]
) -> None:
    part = ranking_data([[gain for _, gain in context] for context in contexts])
    scores = np.array([score for context in contexts for score, _ in context], np.float32)
    table = metrics_by_context(scores, part, at=sorted(at))
    for row, context in zip(table.to_pylist(), contexts, strict=True):
        assert row["positives"] == sum(gain > 0 for _, gain in context)
        for k in at:
            names = [f"ndcg@{k}", f"recall@{k}", "mrr", "map", "auc_by_context"]
            measured = [np.nan if row[name] is None else row[name] for name in names]
            expected = by_every_order(context, k) if row["positives"] else [np.nan] * 5
            assert measured == pytest.approx(expected, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_contexts_without_ties_agree_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, (6, 15)).astype(np.float32)
    labels[:, 0], labels[:, 1] = 0, 2
    scores = random.permutation(90).reshape(6, 15).astype(np.float32)
    measured = measure_contexts(scores.ravel(), ranking_data(labels.tolist()), [3, 15])
    for row in range(6):
        label, score = labels[row], scores[row]
        assert measured["ndcg@3"][row] == pytest.approx(ndcg_score([label], [score], k=3))
        assert measured["ndcg@15"][row] == pytest.approx(ndcg_score([label], [score]))
        assert measured["map"][row] == pytest.approx(average_precision_score(label > 0, score))
        assert measured["auc_by_context"][row] == pytest.approx(roc_auc_score(label > 0, score))


def test_weights_of_items_count_in_the_area_of_a_context_as_in_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels, weights = random.integers(0, 2, 40), random.integers(1, 4, 40)
    scores = random.integers(0, 9, 40).astype(np.float32)
    measured = measure_contexts(scores, ranking_data([labels], item_weights=weights))
    assert measured["auc_by_context"][0] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))


def test_an_item_of_weight_zero_is_no_positive() -> None:
    part = ranking_data([[1, 1, 0]], item_weights=[0, 1, 1])
    row = metrics_by_context(np.float32([3, 2, 1]), part).to_pylist()[0]
    assert (row["positives"], row["mrr"]) == (1, 0.5)


def test_log_loss_is_the_weighted_mean_over_a_contexts_items() -> None:
    random = np.random.default_rng(1)
    labels, weights = random.integers(0, 2, 30), random.random(30).astype(np.float32)
    scores = random.random(30).astype(np.float32)
    scores[:2], labels[:2] = [0, 1], [1, 0]  # certain and wrong
    table = metrics_by_context(scores, ranking_data([labels, []], item_weights=weights))
    assert table["log_loss"].to_pylist() == [
        pytest.approx(log_loss(labels, scores, sample_weight=weights, labels=[0, 1])),
        None,
    ]


def test_scores_that_are_no_probabilities_have_no_log_loss() -> None:
    assert "log_loss" not in metrics_by_context(np.float32([1.5, 0]), ranking_data([[1, 0]])).schema.names


def test_rows_carry_the_contexts_variables_weights_and_counts() -> None:
    part = ranking_data([[1, 0], [0]], weights=[2, 3], country=["US", None])
    rows = metrics_by_context(np.float32([1, 0, 1]), part, at=[1]).to_pylist()
    assert [(row["country"], row["weight"], row["items"], row["positives"]) for row in rows] == [
        ("US", 2, 2, 1),
        (None, 3, 1, 0),
    ]
    assert [row["ndcg@1"] for row in rows] == [1, None]


def test_a_context_variable_named_as_a_metric_is_rejected() -> None:
    with pytest.raises(TrainingError, match="context variable 'mrr' is named as a column of the metrics → rename"):
        metrics_by_context(np.float32([1]), ranking_data([[1]], mrr=[1]))


@pytest.mark.parametrize("at", [[], [0], [-1], [10**9]])
def test_impossible_numbers_of_places_are_rejected(at: list[int]) -> None:
    with pytest.raises(ConfigError, match="expected numbers of places from 1 to 10,000"):
        metrics_by_context(np.float32([1]), ranking_data([[1]]), at=at)


def test_labels_that_are_infinite_are_rejected() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        metrics_by_context(np.float32([1]), ranking_data([[np.inf]]))


def test_another_number_of_scores_than_items_is_rejected() -> None:
    with pytest.raises(TrainingError, match=r"shape \(3,\), expected \(2,\)"):
        metrics_by_context(np.float32([1, 2, 3]), ranking_data([[1, 0]]))

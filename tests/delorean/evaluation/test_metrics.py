from __future__ import annotations

from itertools import pairwise, permutations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score, roc_auc_score

from delorean.evaluation.metrics import Metrics, area_under_curve, ranking_metrics
from schemas.errors import TrainingError

small_contexts = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0, 0, 1, 3])), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
).filter(lambda contexts: any(label for context in contexts for _, label in context))


def flat(contexts: list[list[tuple[float, float]]]) -> tuple[NDArray[np.float32], ...]:
    scores, labels = np.array([pair for context in contexts for pair in context], dtype=np.float32).T
    return scores, labels, np.cumsum([0, *map(len, contexts)])


def in_every_order(context: list[tuple[float, float]], k: int) -> NDArray[np.float64]:
    """NDCG, reciprocal rank and recall averaged over every order that the scores allow."""
    found = []
    for order in permutations(context):
        if all(a[0] >= b[0] for a, b in pairwise(order)):
            labels = [label for _, label in order]
            discounts = [1 / np.log2(place + 2) for place in range(k)]
            ideal = sum(g * d for g, d in zip(sorted(labels, reverse=True), discounts, strict=False))
            gain = sum(g * d for g, d in zip(labels, discounts, strict=False))
            first = next(place for place, label in enumerate(labels) if label) + 1
            found.append([gain / ideal, 1 / first, sum(x > 0 for x in labels[:k]) / sum(x > 0 for x in labels)])
    return np.mean(found, axis=0)


@settings(max_examples=150, deadline=None)
@given(small_contexts, st.integers(1, 4))
def test_metrics_are_the_mean_over_every_order_that_ties_allow(
    contexts: list[list[tuple[float, float]]], k: int
) -> None:
    found = ranking_metrics(*flat(contexts), k=k)
    counted = [context for context in contexts if any(label for _, label in context)]
    expected = np.mean([in_every_order(context, k) for context in counted], axis=0)
    assert [found.ndcg_at_10, found.mrr, found.recall_at_10] == pytest.approx(list(expected))
    assert (found.contexts, found.without_positives) == (len(counted), len(contexts) - len(counted))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_ndcg_and_auc_agree_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (5, 15)).astype(np.float32)
    labels = random.integers(0, 3, (5, 15)).astype(np.float32)
    labels[:, 0], labels[:, 1] = 0, 2
    found = ranking_metrics(scores.ravel(), labels.ravel(), np.arange(0, 76, 15))
    assert found.ndcg_at_10 == pytest.approx(ndcg_score(labels, scores, k=10))
    assert found.auc == pytest.approx(roc_auc_score(labels.ravel() > 0, scores.ravel()))


def test_a_constant_score_gets_no_luck_from_the_order_of_items() -> None:
    constant = np.zeros(20, dtype=np.float32)
    first, last = np.zeros((2, 20), dtype=np.float32)
    first[0] = last[-1] = 1
    offsets = np.array([0, 20])
    metrics = ranking_metrics(constant, first, offsets)
    assert metrics == ranking_metrics(constant, last, offsets)
    assert metrics.recall_at_10 == pytest.approx(0.5)
    assert metrics.mrr == pytest.approx(np.mean(1 / np.arange(1, 21)))
    assert metrics.auc == 0.5


def test_contexts_without_positives_are_left_out_and_counted() -> None:
    labels = np.array([1, 0, 0, 0], dtype=np.float32)
    metrics = ranking_metrics(np.float32([2, 1, 5, 1]), labels, np.array([0, 2, 4, 4]))
    assert (metrics.ndcg_at_10, metrics.contexts, metrics.without_positives) == (1.0, 1, 2)


def test_auc_without_negatives_is_none() -> None:
    assert area_under_curve(np.float32([1, 2]), np.array([True, True])) is None


def test_no_positive_at_all_is_one_clear_error() -> None:
    with pytest.raises(TrainingError, match="none of 1 contexts has a positive"):
        ranking_metrics(np.float32([1, 2]), np.float32([0, 0]), np.array([0, 2]))


def test_scores_that_are_nan_are_refused() -> None:
    with pytest.raises(TrainingError, match="1 of 2 scores are NaN"):
        ranking_metrics(np.float32([np.nan, 2]), np.float32([0, 1]), np.array([0, 2]))


def test_metrics_are_stored_under_their_usual_names() -> None:
    metrics = Metrics(0.5, 0.25, 1.0, None, 3, 1)
    stored = {"ndcg@10": 0.5, "mrr": 0.25, "recall@10": 1.0, "auc": None, "contexts": 3, "without_positives": 1}
    assert msgspec.to_builtins(metrics) == stored
    assert msgspec.convert(stored, Metrics) == metrics

"""Weights by inverse probability: they undo a stratified sample, and wrong probabilities are named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from delorean.evaluation.metrics import area_under_curve, ranking_metrics
from delorean.experiment.model_spec import ModelSpec
from delorean.ranking_data.context_weights import ContextWeight
from delorean.ranking_data.feature_set_reader import read_feature_set
from schemas.errors import ConfigError, TrainingError


def world(contexts: int = 4_000, seed: int = 5) -> pa.Table:
    """Contexts of three strata of very different sizes and difficulty, each with four items."""
    random = np.random.default_rng(seed)
    stratum = random.choice(3, contexts, p=[0.9, 0.08, 0.02])
    labels = random.random((contexts, 4)) < 0.5
    labels[:, 0] |= ~labels.any(axis=1)
    noise = random.normal(size=(contexts, 4)) * np.array([0.1, 1.0, 5.0])[stratum][:, None]
    times = pa.array(np.arange(contexts) * 10**6).cast(pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "profile_id": np.arange(contexts),
            "time": times,
            "video_id": list(random.integers(0, 9, (contexts, 4))),
            "label": pa.array(list(labels.astype(np.float32)), pa.list_(pa.float32())),
            "score": pa.array(list((labels + noise).astype(np.float32)), pa.list_(pa.float32())),
            "inclusion_probability": np.array([0.05, 0.5, 1.0])[stratum],
            "confidence": np.where(stratum == 1, 0.5, 1.0),
        }
    )


def read(table: pa.Table, weight: str | ContextWeight | None = None):  # ranking data
    return read_feature_set(table, ["score"], ["video_id"], ["profile_id"], weight=weight)


def test_inverse_probability_recovers_the_populations_means_from_a_stratified_sample() -> None:
    population = world(60_000)
    chosen = np.random.default_rng(1).random(len(population)) < population["inclusion_probability"].to_numpy()
    weighted = read(population.filter(pa.array(chosen)), ContextWeight(inverse="inclusion_probability"))
    assert weighted.weights is not None
    assert abs(weighted.weights.sum() / len(population) - 1) < 0.05

    def mean(data, weights):  # by hand: the mean of each context's greatest score
        greatest = np.maximum.reduceat(data.features[:, 0], data.offsets[:-1])
        return np.average(greatest, weights=weights)

    whole = read(population)
    truth, estimate, naive = mean(whole, None), mean(weighted, weighted.weights), mean(weighted, None)
    assert abs(estimate - truth) < 0.03
    assert abs(naive - truth) > 0.3
    metrics = [
        ranking_metrics(data.features[:, 0], data.labels, data.offsets, weights=data.weights)
        for data in (whole, weighted)
    ]
    assert abs(metrics[0].ndcg_at_10 - metrics[1].ndcg_at_10) < 0.003
    assert abs(metrics[0].auc - metrics[1].auc) < 0.01  # type: ignore[operator]  # both classes exist


def test_a_weight_is_the_capped_inverse_times_a_column() -> None:
    table = world(500)
    weights = read(table, ContextWeight(inverse="inclusion_probability", times="confidence", cap=10)).weights
    expected = [
        min(1 / p, 10) * c
        for p, c in zip(table["inclusion_probability"].to_pylist(), table["confidence"].to_pylist(), strict=True)
    ]
    assert weights is not None
    assert weights.tolist() == expected


@pytest.mark.parametrize("wrong", [0.0, -0.5, None, float("nan"), 1.5, float("inf")])
def test_what_is_no_probability_is_named(wrong: float | None) -> None:
    table = world(50)
    values = [wrong, *table["inclusion_probability"].to_pylist()[1:]]
    table = table.set_column(5, "inclusion_probability", pa.array(values, pa.float64()))
    with pytest.raises(TrainingError, match="'inclusion_probability' has 1 values that are no probability, such as"):
        read(table, ContextWeight(inverse="inclusion_probability"))


def test_a_weight_of_nothing_and_a_useless_cap_are_refused() -> None:
    with pytest.raises(ConfigError, match="names no column"):
        ContextWeight(cap=3)
    for cap in (0.5, 0, float("nan")):
        with pytest.raises(ConfigError, match="cap is"):
            ContextWeight(inverse="p", cap=cap)
    with pytest.raises(TrainingError, match="'video_id' is list"):
        read(world(20), "video_id")


def test_weighted_metrics_are_those_of_repeated_contexts_and_items() -> None:
    data = read(world(200))
    random = np.random.default_rng(2)
    counts = random.integers(0, 4, 200)
    repeated = data.take(np.repeat(np.arange(200), counts))
    weighted = ranking_metrics(data.features[:, 0], data.labels, data.offsets, weights=counts.astype(float))
    plain = ranking_metrics(repeated.features[:, 0], repeated.labels, repeated.offsets)
    for name in ("ndcg_at_10", "mrr", "recall_at_10", "auc"):
        assert getattr(weighted, name) == pytest.approx(getattr(plain, name), rel=1e-12)
    items = random.integers(0, 3, 800)
    scores, positive = data.features[:, 0], data.labels > 0
    of_repeated = area_under_curve(np.repeat(scores, items), np.repeat(positive, items))
    assert area_under_curve(scores, positive, items.astype(float)) == pytest.approx(of_repeated, rel=1e-12)
    gains = ranking_metrics(scores, data.labels * items.astype(np.float32), data.offsets)
    by_weight = ranking_metrics(scores, data.labels, data.offsets, item_weights=items.astype(np.float32))
    assert by_weight.ndcg_at_10 == gains.ndcg_at_10


def test_the_label_to_learn_is_the_only_one_or_the_one_named() -> None:
    assert ModelSpec().label_of(["play"]) == "play"
    assert ModelSpec(label="minutes").label_of(["play", "minutes"]) == "minutes"
    with pytest.raises(TrainingError, match=r"several labels: play, minutes → choose one in the spec: \[model\] label"):
        ModelSpec().label_of(["play", "minutes"])
    with pytest.raises(TrainingError, match=r"no label to train on → name one in the spec: \[labels\] labels"):
        ModelSpec().label_of([])
    with pytest.raises(TrainingError, match="did you mean 'minutes'"):
        ModelSpec(label="minute").label_of(["play", "minutes"])


def test_weights_of_tasks_multiply_the_others():
    contexts = pa.table({"task_type": ["home", "search", "home"], "p": [0.5, 0.5, 1.0], "confidence": [1.0, 0.5, None]})
    tasks = {"home": 1.0, "search": 4.0}
    assert ContextWeight(tasks=tasks).of(contexts).tolist() == [1.0, 4.0, 1.0]
    assert ContextWeight("p", "confidence", tasks=tasks).of(contexts).tolist() == [2.0, 4.0, 1.0]
    assert ContextWeight(tasks=tasks).columns == ("task_type",)
    with pytest.raises(TrainingError, match="unknown task with a weight 'search'"):
        ContextWeight(tasks={"home": 1.0}).of(contexts)

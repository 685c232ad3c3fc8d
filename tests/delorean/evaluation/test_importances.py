from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from numpy.typing import NDArray
from small_ranking_data import ranking_data

from delorean.evaluation.importances import importance_sample, importances
from delorean.evaluation.metrics import ranking_metrics
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from delorean.training.learners.choice import as_model


class Sum:
    """Scores with the sum of the first two features, which are equal; the third is not used."""

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return features[:, 0] + features[:, 1]

    def scores(self, part: RankingData) -> NDArray[np.float32]:
        return self.score(part.features)


@pytest.fixture(scope="module")
def part() -> RankingData:
    random = np.random.default_rng(0)
    signal, noise = random.normal(size=(2, 3_000)).astype(np.float32)
    labels = (random.random(3_000) < 1 / (1 + np.exp(-2 * signal))) * 1.0
    features = np.stack([signal, signal, noise], axis=1)
    return ranking_data(labels.reshape(300, 10).tolist(), features=features)


def test_an_unused_feature_loses_exactly_nothing_and_a_used_one_certainly_something(part: RankingData) -> None:
    groups = {name: (name,) for name in part.names}
    used, also_used, unused = importances(Sum().scores, part, groups)
    assert (unused.ndcg_lost.value, unused.ndcg_lost.low, unused.ndcg_lost.high) == (0, 0, 0)
    assert used.ndcg_lost.excludes_zero
    assert also_used.ndcg_lost.excludes_zero
    assert used.contribution is None


def test_features_that_repeat_each_other_matter_together_more_than_alone(part: RankingData) -> None:
    groups = {"one": ("feature_0",), "both": ("feature_0", "feature_1", "of another model")}
    one, both = importances(Sum().scores, part, groups)
    assert both.features == ("feature_0", "feature_1")
    assert both.ndcg_lost.low > one.ndcg_lost.high


def test_a_vector_is_all_of_its_columns(part: RankingData) -> None:
    vector = replace(part, names=("taste[0]", "taste[1]", "tastes"))
    (taste,) = importances(Sum().scores, vector, {"taste": ("taste",)})
    assert taste.features == ("taste[0]", "taste[1]")
    (first,) = importances(Sum().scores, vector, {"first": ("taste[0]",)})
    assert first.features == ("taste[0]",)


def test_shuffling_everything_loses_what_a_random_order_lacks(part: RankingData) -> None:
    (everything,) = importances(Sum().scores, part, {"all": part.names}, EvaluationSettings(repeats=20))
    scored, random = (
        ranking_metrics(scores, part.labels, part.offsets).ndcg_at_10
        for scores in (Sum().score(part.features), np.zeros(len(part.labels), np.float32))
    )
    assert everything.ndcg_lost.value == pytest.approx(scored - random, abs=0.02)


def test_only_contexts_with_positives_are_sampled_at_most_a_thousand() -> None:
    contexts = [[1, 0]] * 1_200 + [[0, 0]] * 500
    sample = importance_sample(ranking_data(contexts), seed=1)
    assert len(sample) == 1_000
    assert sample.labels.reshape(-1, 2).any(axis=1).all()


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_contributions_add_up_to_the_raw_score(part: RankingData, library: str) -> None:
    module = import_module(library)
    if library == "lightgbm":
        model = module.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1).fit(part.features, part.positive)
        raw, fitted = model.predict(part.features, raw_score=True), model.booster_
    else:
        model = module.XGBClassifier(n_estimators=20, n_jobs=1).fit(part.features, part.positive)
        raw, fitted = model.predict(part.features, output_margin=True), model.get_booster()
    values = as_model(fitted).contributions(part.features)
    assert values is not None
    assert values.shape == part.features.shape
    rest = raw - values.sum(axis=1)
    assert rest == pytest.approx(np.full(len(rest), rest.mean()), abs=1e-4)
    assert np.abs(values[:, 2]).mean() < np.abs(values[:, :2]).sum(axis=1).mean() / 2


def test_an_encoders_contribution_is_that_of_its_features_sum(part: RankingData) -> None:
    contributions = np.stack([np.ones(3_000), -np.ones(3_000), np.full(3_000, 0.5)], axis=1)
    groups = {"cancel": part.names[:2], "add": part.names[1:]}
    cancelling, adding = importances(Sum().scores, part, groups, contributions=contributions)
    assert (cancelling.contribution, adding.contribution) == (0, 0.5)

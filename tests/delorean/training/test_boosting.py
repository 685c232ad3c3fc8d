"""Every learner of boosted trees: what it learns from, when it stops, and that it is the library's own model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import xgboost

from delorean.evaluation.measure import measure
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split, SplitParts
from delorean.training.baselines import popularity_scores, with_shuffled_labels
from delorean.training.learners.boosting import BoostedTrees, grades, validation_metric
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.learners.xgboost import XGBoost
from schemas.errors import ConfigError, TrainingError

FEATURES = ["affinity", "popularity", "noise", "rare"]
LEARNERS: list[BoostedTrees] = [
    *(LightGBM(objective) for objective in LightGBM.objectives),
    *(XGBoost(objective) for objective in XGBoost.objectives),
]
RANKERS = [learner for learner in LEARNERS if learner.target == "gains"]
FEW = {"rounds": 12, "stop_after": 0, "threads": 1}


@pytest.fixture(scope="module")
def data(feature_set: pa.Table) -> RankingData:
    return read_feature_set(feature_set, FEATURES, ["video_id"], ["profile_id", "country"])


@pytest.fixture(scope="module")
def parts(data: RankingData) -> SplitParts:
    return Split().divide(data)


def bits(model: Any) -> bytes:
    fitted = model.fitted
    return bytes(fitted.save_raw("ubj")) if isinstance(fitted, xgboost.Booster) else fitted.model_to_string().encode()


def trees(model: Any) -> str:
    """Return LightGBM's trees without the parameters that its text ends with."""
    text: str = model.model_to_string() if isinstance(model, lightgbm.Booster) else model.fitted.model_to_string()
    return text.partition("end of trees")[0].partition("Tree=0")[2]


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_each_objective_beats_popularity_and_learns_nothing_from_shuffled_labels(
    learner: BoostedTrees, parts: SplitParts
) -> None:
    learner = replace(learner, threads=1, rounds=60, stop_after=10)
    model = learner.fit(parts.train, parts.validation, 0)
    popularity = measure(popularity_scores(parts.train, parts.test), parts.test).ndcg_at_10
    learned = measure(model.reference(parts.test.features).astype(np.float32), parts.test).ndcg_at_10
    assert learned > popularity + 0.1
    shuffled = learner.fit(with_shuffled_labels(parts.train, 1), with_shuffled_labels(parts.validation, 2), 0)
    by_chance = measure(shuffled.reference(parts.test.features).astype(np.float32), parts.test).ndcg_at_10
    assert by_chance < learned - 0.15
    if learner in RANKERS:  # others also learn how many positives a context has
        random = np.random.default_rng(0).random(len(parts.test.labels)).astype(np.float32)
        assert by_chance == pytest.approx(measure(random, parts.test).ndcg_at_10, abs=0.08)
    assert 1 <= model.rounds <= 60


@pytest.mark.parametrize("learner", [LightGBM(), XGBoost()], ids=lambda learner: learner.name)
def test_training_stops_at_the_best_validation_ndcg_that_our_metric_measures(
    learner: BoostedTrees, parts: SplitParts
) -> None:
    stopped = replace(learner, rounds=150, stop_after=8, threads=1).fit(parts.train, parts.validation, 0)
    assert stopped.rounds < 140

    def ndcg(rounds: int) -> float:
        model = replace(learner, rounds=rounds, stop_after=0, threads=1).fit(parts.train, parts.validation, 0)
        return measure(model.reference(parts.validation.features).astype(np.float32), parts.validation).ndcg_at_10

    curve = {rounds: ndcg(rounds) for rounds in range(1, stopped.rounds + 9)}
    assert curve[stopped.rounds] == max(curve.values())
    whole = replace(learner, rounds=stopped.rounds, stop_after=0, threads=1).fit(parts.train, parts.validation, 0)
    some = parts.test.features
    assert (whole.reference(some) == stopped.reference(some)).all()


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_two_fits_give_the_same_bits_for_any_number_of_threads(learner: BoostedTrees, parts: SplitParts) -> None:
    sampling = {"bagging_fraction": 0.7, "bagging_freq": 1} if isinstance(learner, LightGBM) else {"subsample": 0.7}
    fits = [
        bits(replace(learner, **{**FEW, "threads": threads}, parameters=sampling).fit(parts.train, parts.validation, 5))
        for threads in (1, 1, 3)
    ]
    if isinstance(learner, LightGBM):  # its text ends with the parameters, of which one is the number of threads
        fits = [fit.partition(b"parameters:")[0] for fit in fits]
    assert fits[0] == fits[1] == fits[2]
    other = replace(learner, **FEW, parameters=sampling).fit(parts.train, parts.validation, 6)
    assert bits(other).partition(b"parameters:")[0] != fits[0]


def test_lightgbm_called_by_hand_on_the_same_arrays_gives_the_same_trees(parts: SplitParts) -> None:
    graded = replace(parts.train, labels=parts.train.labels * np.float32(1.5) + (parts.train.features[:, 1] > 7))
    graded = replace(graded, weights=np.linspace(0.5, 2, len(graded)))
    ours = LightGBM("lambdarank", {"num_leaves": 7}, **FEW).fit(graded, parts.validation, 3)
    gains = sorted({float(label) for label in graded.labels})
    assert gains == [0.0, 1.0, 1.5, 2.5]
    data = lightgbm.Dataset(
        graded.features,
        np.array([gains.index(float(label)) for label in graded.labels]),
        group=[12] * len(graded),
        weight=np.repeat(graded.weights, 12),
    )
    parameters = {"objective": "lambdarank", "num_leaves": 7, "label_gain": gains, "seed": 3, "num_threads": 1}
    alone = lightgbm.train({**parameters, "verbosity": -1, "deterministic": True, "force_col_wise": True}, data, 12)
    assert trees(ours) == trees(alone)


def test_xgboost_called_by_hand_on_the_same_arrays_gives_the_same_trees(parts: SplitParts) -> None:
    weighted = replace(parts.train, weights=np.linspace(0.5, 2, len(parts.train)))
    ours = XGBoost("rank:ndcg", {"max_depth": 3}, **FEW).fit(weighted, parts.validation, 3)
    data = xgboost.DMatrix(
        weighted.features, weighted.labels, weight=weighted.weights, qid=np.repeat(np.arange(len(weighted)), 12)
    )
    parameters = {"objective": "rank:ndcg", "max_depth": 3, "ndcg_exp_gain": False, "seed": 3, "tree_method": "hist"}
    alone = xgboost.train(parameters, data, 12)
    assert ours.fitted.get_dump(dump_format="json") == alone.get_dump(dump_format="json")


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_contexts_of_weight_0_or_without_items_are_as_if_absent(learner: BoostedTrees, parts: SplitParts) -> None:
    train = parts.train
    weights = (np.arange(len(train)) % 3).astype(np.float64)
    emptied = replace(
        train, contexts=pa.concat_tables([train.contexts, train.contexts[:1]]), offsets=np.append(train.offsets, 5_040)
    )
    with_zeros = replace(emptied, weights=np.append(weights, 1.0))
    kept = np.flatnonzero(weights > 0)
    without = replace(train, weights=weights).take(kept)
    learner = replace(learner, **FEW)
    fits = [learner.fit(part, parts.validation, 0) for part in (with_zeros, without)]
    assert bits(fits[0]) == bits(fits[1])


def counts_weights(learner: BoostedTrees) -> bool:
    """Whether a context of weight 2 is to the library what two contexts are.

    rank_xendcg draws random numbers for each context; XGBoost's rankers normalise weights and sample pairs.
    """
    ranks = learner.target == "gains" or learner.objective == "rank:map"
    return learner.objective != "rank_xendcg" and not (ranks and isinstance(learner, XGBoost))


@pytest.mark.parametrize("learner", list(filter(counts_weights, LEARNERS)), ids=lambda learner: learner.name)
def test_a_context_of_weight_2_counts_as_two_contexts(learner: BoostedTrees, parts: SplitParts) -> None:
    """Features of few values, so that both have the same bins, and no limit on the number of rows in a leaf."""
    coarse = np.clip(np.round(parts.train.features), -2, 2)
    train = replace(parts.train, features=coarse, own_item_weights=None)
    doubled = np.arange(len(train)) % 2 == 0
    weighted = replace(train, weights=np.where(doubled, 2.0, 1.0))
    repeated = train.take(np.sort(np.concatenate([np.arange(len(train)), np.flatnonzero(doubled)])))
    free: dict[str, Any] = {"min_data_in_leaf": 1, "min_data_in_bin": 1, "num_leaves": 6, "lambdarank_norm": False}
    if isinstance(learner, XGBoost):
        free = {"max_depth": 2, "min_child_weight": 0}
    settings = {**FEW, "rounds": 4, "parameters": free}
    one, two = (replace(learner, **settings).fit(part, parts.validation, 0) for part in (weighted, repeated))
    np.testing.assert_allclose(one.reference(coarse), two.reference(coarse), rtol=2e-4, atol=2e-5)
    plain = replace(learner, **settings).fit(train, parts.validation, 0)
    assert not np.allclose(plain.reference(coarse), one.reference(coarse), rtol=1e-3)


@pytest.mark.parametrize("learner", [*RANKERS, LightGBM("binary")], ids=lambda learner: learner.name)
def test_groups_are_right_when_contexts_are_reordered_and_of_different_sizes(
    learner: BoostedTrees, parts: SplitParts
) -> None:
    """Labels are relative to their context: only who knows the groups learns them."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 12, len(parts.train))
    positions = np.concatenate([np.arange(12 * i, 12 * i + size) for i, size in enumerate(sizes)])
    train = parts.train
    ragged = replace(
        train,
        items=train.items.take(positions),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        labels=train.labels[positions],
        features=train.features[positions],
    )
    shuffled = ragged.take(random.permutation(len(ragged)))
    models = [replace(learner, **FEW).fit(part, parts.validation, 0) for part in (ragged, shuffled)]
    popularity = measure(popularity_scores(train, parts.test), parts.test).ndcg_at_10
    for model in models:
        scores = model.reference(parts.test.features).astype(np.float32)
        assert measure(scores, parts.test).ndcg_at_10 > popularity + 0.03


@pytest.mark.parametrize("learner", [LightGBM(), XGBoost()], ids=lambda learner: learner.name)
def test_missing_values_are_learned_and_contributions_add_up_to_the_score(
    learner: BoostedTrees, parts: SplitParts
) -> None:
    train = parts.train
    hidden = train.features.copy()
    hidden[train.labels > 0, 2] = np.nan  # that it is missing is the label
    model = replace(learner, **FEW).fit(replace(train, features=hidden), parts.validation, 0)
    rows = np.zeros((2, 4), dtype=np.float32)
    rows[1, 2] = np.nan
    low, high = model.reference(rows)
    assert high > low + 0.3
    contributions = model.contributions(rows)
    assert contributions.shape == (2, 4)
    assert contributions.sum(axis=1)[1] - contributions.sum(axis=1)[0] == pytest.approx(high - low, abs=1e-5)
    assert np.argmax(contributions[1]) == 2
    assert model.missing_values(4) == "used"


@pytest.mark.parametrize("learner", [LightGBM("binary"), XGBoost("binary:logistic")], ids=lambda one: one.name)
def test_categories_are_learned_as_categories(learner: BoostedTrees, parts: SplitParts) -> None:
    """A set of scattered categories is positive: trees of depth 1 learn it only by a split of categories."""
    random = np.random.default_rng(0)
    train, n = parts.train, len(parts.train.labels)
    codes = random.integers(0, 40, n)
    positive = np.isin(codes, [3, 17, 18, 31, 39])
    features = np.column_stack([np.where(codes == 5, np.nan, codes), random.random(n)]).astype(np.float32)
    ours = replace(train, features=features, names=("country_code", "noise"), labels=positive.astype(np.float32))
    validation = ours.take(np.arange(40))
    one_split = {"num_leaves": 2, "min_data_per_group": 1, "cat_smooth": 0, "max_cat_to_onehot": 1}
    parameters = one_split if isinstance(learner, LightGBM) else {"max_depth": 1, "max_cat_to_onehot": 1}
    settings: dict[str, Any] = {**FEW, "parameters": parameters}
    model = replace(learner, **settings, categorical=("country_code",)).fit(ours, validation, 0)
    numeric = replace(learner, **settings).fit(ours, validation, 0)

    def separates(fitted: Any) -> bool:
        scores = fitted.reference(features)
        return bool(scores[positive].min() > scores[~positive].max())

    assert separates(model)
    assert not separates(numeric)
    unseen, missing = model.reference(np.float32([[60_000, 0.5], [np.nan, 0.5]]))
    assert missing < 0.5
    if isinstance(learner, LightGBM):  # XGBoost's unseen categories take the branch of those that are not in a set
        assert unseen == missing


@pytest.mark.parametrize("learner", [LightGBM(categorical=("a",)), XGBoost(categorical=("a",))], ids=lambda o: o.name)
@pytest.mark.parametrize("value", [0.5, -1.0, 65_536.0, np.inf])
def test_values_that_are_no_category_are_named(learner: BoostedTrees, value: float, parts: SplitParts) -> None:
    features = np.zeros_like(parts.train.features)
    features[7, 0] = value
    train = replace(parts.train, features=features, names=("a", "b", "c", "d"))
    with pytest.raises(TrainingError, match=r"categorical feature 'a' has 1 values that are no category"):
        learner.fit(train, parts.validation, 0)
    with pytest.raises(TrainingError, match=r"unknown categorical feature 'a' → known: affinity"):
        learner.fit(parts.train, parts.validation, 0)


def wrong_labels(part: RankingData) -> Iterator[tuple[BoostedTrees, RankingData, str]]:
    one = replace(part, labels=np.ones_like(part.labels))
    yield LightGBM(), one, "all 5040 labels of the training part are equal"
    yield XGBoost("binary:logistic"), replace(part, labels=part.labels + 2), "are of one class"
    yield LightGBM("regression"), one, "are equal"
    half = replace(part, labels=part.labels / 2)
    yield LightGBM("rank_xendcg"), half, r"the labels have the gain 0\.5 → choose objective = \"lambdarank\""
    weighted = replace(part, own_item_weights=np.ones_like(part.labels))
    yield XGBoost(), weighted, r"a weight for each context, none for each item.*learner = \"lightgbm\""


def test_labels_and_weights_that_an_objective_cannot_learn_are_one_clear_error_each(parts: SplitParts) -> None:
    for learner, part, message in wrong_labels(parts.train):
        with pytest.raises(TrainingError, match=message):
            learner.fit(part, parts.validation, 0)


def test_gains_beyond_what_lightgbm_can_number_are_rejected() -> None:
    with pytest.raises(TrainingError, match=r"the labels have 11 distinct gains, expected at most 10 → round them"):
        grades(np.arange(11, dtype=np.float32), 10)


@pytest.mark.parametrize("kind", [LightGBM, XGBoost])
def test_settings_that_no_data_makes_right_are_rejected_when_they_are_written(kind: type[BoostedTrees]) -> None:
    with pytest.raises(ConfigError, match=r"unknown objective of (LightGBM|XGBoost) 'rank:ndgc'"):
        kind("rank:ndgc")
    objective = next(iter(kind.objectives))
    for name in ("num_iterations", "objective", "device_type", "n_estimators", "machines", "booster", "verbosity"):
        with pytest.raises(ConfigError, match=f"unknown parameter of (LightGBM|XGBoost) '{name}'"):
            kind(objective, {name: 1})
    for wrong in ({"rounds": 0}, {"stop_after": -1}, {"threads": -1}):
        with pytest.raises(ConfigError, match="expected rounds of 1 or more"):
            kind(objective, **wrong)  # type: ignore[arg-type]


def test_a_librarys_own_rejection_is_a_training_error_with_its_reason(parts: SplitParts) -> None:
    with pytest.raises(TrainingError, match="LightGBM lambdarank cannot be fitted: .*num_leaves"):
        LightGBM(parameters={"num_leaves": 1}, **FEW).fit(parts.train, parts.validation, 0)
    with pytest.raises(TrainingError, match="XGBoost rank:ndcg cannot be fitted: .*max_depth"):
        XGBoost(parameters={"max_depth": -3}, **FEW).fit(parts.train, parts.validation, 0)
    infinite = replace(parts.train, features=np.full_like(parts.train.features, np.inf))
    with pytest.raises(TrainingError, match="XGBoost rank:ndcg cannot be fitted: .*inf"):
        XGBoost(**FEW).fit(infinite, parts.validation, 0)


def test_a_context_of_more_items_than_lightgbm_ranks_is_a_training_error(parts: SplitParts) -> None:
    n = 10_001
    large = replace(
        parts.train.between(0, 1),
        items=pa.table({"video_id": np.arange(n)}),
        offsets=np.array([0, n]),
        labels=(np.arange(n) % 2).astype(np.float32),
        features=np.zeros((n, 4), dtype=np.float32),
    )
    with pytest.raises(TrainingError, match="Number of rows 10001 exceeds upper limit of 10000 for a query"):
        LightGBM(**FEW).fit(large, parts.validation, 0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_metric_that_stops_is_the_one_of_the_report(weighted: bool, parts: SplitParts) -> None:
    random = np.random.default_rng(0)
    part = replace(parts.validation, labels=np.where(np.arange(1_080) < 240, np.float32(0), parts.validation.labels))
    if weighted:
        item_weights = (np.arange(1_080) % 3).astype(np.float32)
        part = replace(part, weights=random.random(len(part)), own_item_weights=item_weights)
    for scores in (random.random(1_080), np.zeros(1_080), random.integers(0, 3, 1_080)):
        expected = measure(scores.astype(np.float32), part).ndcg_at_10
        assert validation_metric(part)(scores) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(TrainingError, match="none of 90 contexts has a positive"):
        validation_metric(replace(part, labels=np.zeros(1_080, dtype=np.float32)))(np.zeros(1_080))
    with pytest.raises(TrainingError, match="have weight 0"):
        validation_metric(replace(part, weights=np.zeros(90)))(np.zeros(1_080))

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from delorean.evaluation.bootstrap import Bootstrap, _replicates, paired_differences, ratios, weighted_means
from schemas.errors import ConfigError, TrainingError

Sample = tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.int64] | None]


def test_the_interval_of_a_mean_agrees_with_scipys_bca() -> None:
    values = np.random.default_rng(0).beta(0.6, 0.3, 2_000)
    ours = weighted_means(values[:, np.newaxis], bootstrap=Bootstrap(replicates=20_000))[0]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02 * width)


def test_the_interval_of_a_ratio_agrees_with_scipys_bca() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, 800).astype(float)
    totals = sizes * random.exponential(1, 800)

    def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return numerator.sum(axis=axis) / denominator.sum(axis=axis)

    ours = ratios(totals[:, None], sizes[:, None], bootstrap=Bootstrap(replicates=20_000))[0]
    theirs = stats.bootstrap(
        (totals, sizes), ratio, paired=True, n_resamples=20_000, method="BCa", rng=1
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02 * (theirs.high - theirs.low))


@pytest.mark.parametrize("clusters", [3, 1_500, 2_048])
def test_clusters_are_drawn_as_often_as_a_multinomial_distribution_says(clusters: int) -> None:
    """Across the blocks that are drawn one after another, too."""
    groups = np.arange(clusters) * 3 // clusters  # thirds of the clusters, in order
    columns = np.stack([groups == group for group in range(3)], axis=1).astype(float)
    drawn = _replicates(columns, Bootstrap(replicates=20_000))
    shares = columns.mean(axis=0)
    assert (drawn.sum(axis=1) == clusters).all()
    expected = stats.multinomial(clusters, shares)
    assert drawn.mean(axis=0) == pytest.approx(expected.mean(), rel=0.02)
    assert np.cov(drawn.T) == pytest.approx(expected.cov(), rel=0.05)


def test_each_cluster_of_a_block_is_equally_likely() -> None:
    """The draws of one replicate, by a test of goodness of fit."""
    drawn = _replicates(np.eye(64), Bootstrap(replicates=5_000)).sum(axis=0)
    assert stats.chisquare(drawn).pvalue > 0.001


def beta(random: np.random.Generator) -> Sample:
    return random.beta(0.6, 0.3, (60, 1)), None, None


def clustered(random: np.random.Generator) -> Sample:
    of_context = np.repeat(np.arange(60), random.poisson(3, 60) + 1)
    centres = random.beta(2, 1, 60)[of_context]
    return random.beta(9 * centres + 0.1, 9 * (1 - centres) + 0.1)[:, np.newaxis], None, of_context


def weighted(random: np.random.Generator) -> Sample:
    rare = random.random(120) < 0.5
    return (random.random((120, 1)) < np.where(rare, 0.3, 0.6)[:, np.newaxis]) * 1.0, np.where(rare, 1.0, 10.0), None


@pytest.mark.parametrize(
    ("sample", "truth"),
    [(beta, 2 / 3), (clustered, (9 * 2 / 3 + 0.1) / 9.2), (weighted, 0.5 * (0.3 + 0.6 * 10) / 5.5)],
)
def test_95_percent_intervals_contain_the_truth_in_92_to_97_percent_of_samples(
    sample: Callable[[np.random.Generator], Sample], truth: float
) -> None:
    covered = 0
    for seed in range(600):
        low, high = interval(*sample(np.random.default_rng(seed)), seed)
        covered += low <= truth <= high
    assert 0.92 <= covered / 600 <= 0.97


def interval(
    values: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    clusters: NDArray[np.int64] | None,
    seed: int = 0,
) -> tuple[float, float]:
    estimate = weighted_means(values, weights, clusters, Bootstrap(replicates=500, seed=seed))[0]
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


def test_contexts_of_one_profile_count_as_one_observation() -> None:
    once = np.random.default_rng(0).random((40, 1))
    repeated = np.repeat(once, 25, axis=0)
    profiles = np.repeat(np.arange(40), 25)
    assert interval(repeated, None, profiles) == pytest.approx(interval(once, None, None))
    narrow = interval(repeated, None, None)
    wide = interval(repeated, None, profiles)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, np.nan]), st.integers(0, 4)), min_size=1, max_size=40))
def test_estimates_are_weighted_means_of_what_is_measured(rows: list[tuple[float, int]]) -> None:
    values, weights = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    estimate = weighted_means(values[:, np.newaxis], weights, bootstrap=Bootstrap(replicates=200))[0]
    counted = ~np.isnan(values) & (weights > 0)
    assert estimate.contexts == counted.sum()
    if not counted.any():
        assert estimate.value is None
    else:
        assert estimate.value == pytest.approx(np.average(values[counted], weights=weights[counted]))
    assert (estimate.low is not None) == (counted.sum() >= 10)
    if estimate.low is not None:
        assert values[counted].min() <= estimate.low <= estimate.high <= values[counted].max()


def test_a_paired_difference_is_narrower_than_what_two_means_suggest() -> None:
    random = np.random.default_rng(0)
    difficulty = random.random(500)
    production = np.clip(difficulty + random.normal(0, 0.05, 500), 0, 1)[:, np.newaxis]
    candidate = np.clip(production + random.normal(0.01, 0.05, (500, 1)), 0, 1)
    difference = paired_differences(candidate, production)[0]
    assert difference.excludes_zero
    assert difference.value == pytest.approx((candidate - production).mean())
    means = [weighted_means(values)[0] for values in (candidate, production)]
    assert means[0].low < means[1].high  # the two intervals overlap all the same


def test_a_context_that_one_of_two_rankings_does_not_measure_counts_for_neither() -> None:
    candidate, production = np.array([[1.0], [0.5]]), np.array([[0.5], [np.nan]])
    difference = paired_differences(candidate, production)[0]
    assert (difference.value, difference.contexts) == (0.5, 1)


def test_equal_seeds_give_equal_intervals() -> None:
    values = np.random.default_rng(0).random((50, 2))
    assert weighted_means(values) == weighted_means(values)
    assert weighted_means(values) != weighted_means(values, bootstrap=Bootstrap(seed=1))


def test_values_that_are_all_equal_have_an_interval_without_width() -> None:
    estimate = weighted_means(np.full((30, 1), 0.1), np.random.default_rng(0).random(30))[0]
    assert (estimate.low, estimate.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("clusters", [None, np.arange(60) // 3])
def test_shares_that_are_all_equal_are_not_certain(clusters: NDArray[np.int64] | None) -> None:
    """As many clusters could all be 1 by chance: the bound is that of an exact test of as many trials."""
    ones = np.random.default_rng(0).random((60, 1))  # weights: a ratio of sums of them is 1 up to rounding
    n = 60 if clusters is None else 20
    estimate = ratios(ones, ones, clusters, shares=True)[0]
    exact = stats.binomtest(n, n).proportion_ci(0.95, method="exact")
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))
    zero = ratios(ones * 0, ones, clusters, shares=True)[0]
    assert (zero.low, zero.high) == pytest.approx((1 - exact.high, 1 - exact.low))


def test_memory_does_not_grow_with_contexts_times_replicates() -> None:
    values = np.random.default_rng(0).random((100_000, 2))
    weighted_means(values[:20])
    tracemalloc.start()
    weighted_means(values, bootstrap=Bootstrap(replicates=1_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * values.nbytes


@pytest.mark.parametrize("settings", [{"level": 0.4}, {"level": 1.0}, {"replicates": 99}, {"level": np.nan}])
def test_settings_that_give_no_interval_are_rejected(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Bootstrap(**settings)


def test_infinite_values_are_rejected() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        weighted_means(np.array([[np.inf], [1.0]]))

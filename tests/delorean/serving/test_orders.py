"""Orders of shown items: by score, explored with exact propensities, and interleaved so that it can be replayed."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import factorial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from delorean.ab_tests.interleaving import NEITHER, team_draft
from delorean.comparison.counterfactual.estimate import estimate_rewards
from delorean.comparison.counterfactual.exposures import Exposures
from delorean.evaluation.settings import Bootstrap
from delorean.exposures import Exposure, ExposureLog, read_exposures
from delorean.ranking_data.ranking_data import RankingData
from delorean.serving.orders import best_first, by_score, explored, interleaved, seed_of
from schemas.data_keys import context_variable, item
from snapshotter.storage import open_storage

SCORES = st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, -1.0]), min_size=1, max_size=6).map(
    lambda values: np.array(values, np.float32)
)
PLACES = st.none() | st.integers(1, 8)


@given(SCORES, PLACES)
def test_a_ranking_by_score_is_certain(scores: NDArray[np.float32], k: int | None) -> None:
    order = by_score(scores, k)
    expected = sorted(range(len(scores)), key=lambda row: -scores[row])[:k]
    assert order.rows.tolist() == expected
    assert order.propensities is not None
    assert order.propensities.tolist() == [1.0] * len(expected)
    assert (order.team, order.seed) == (None, None)


@given(SCORES, PLACES, st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_propensities_are_those_of_all_orders_that_the_policy_could_show(
    scores: NDArray[np.float32], k: int | None, probability: float, seed: int
) -> None:
    order = explored(scores, k, probability, seed)
    certain = best_first(scores)[:k].tolist()
    assert sorted(order.rows.tolist()) == sorted(certain)  # only these places are shuffled
    shown: Counter[tuple[int, int]] = Counter()
    for possible in permutations(certain):
        for place, row in enumerate(possible):
            shown[place, row] += probability / factorial(len(certain))
    for place, row in enumerate(certain):
        shown[place, row] += 1 - probability
    assert order.propensities is not None
    expected = [shown[place, row] for place, row in enumerate(order.rows.tolist())]
    np.testing.assert_allclose(order.propensities, expected, atol=1e-12)
    again = explored(scores, k, probability, seed)
    assert again.rows.tolist() == order.rows.tolist()
    assert again.seed == seed


def test_requests_are_explored_as_often_as_the_propensities_say() -> None:
    scores, probability, requests = np.array([1, 3, 2, 0], np.float32), 0.3, 20_000
    seeds = [seed_of("homepage", 7, f"request-{n}") for n in range(requests)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    orders = Counter(tuple(explored(scores, 3, probability, seed).rows.tolist()) for seed in seeds)
    expected = dict.fromkeys(permutations([1, 2, 0]), probability / 6)
    expected[1, 2, 0] += 1 - probability
    assert {*orders} <= {*expected}
    counts = [orders[order] for order in expected]
    assert chisquare(counts, [share * requests for share in expected.values()]).pvalue > 1e-4


@settings(max_examples=50)
@given(
    st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.permutations(range(n))] * 2)), PLACES, st.integers(0, 2**63 - 1)
)
def test_an_interleaved_order_is_the_method_s_and_its_scores_are_those_of_the_item_s_ranker(
    rankings: tuple[list[int], list[int]], k: int | None, seed: int
) -> None:
    first, second = (-np.argsort(ranking).astype(np.float32) for ranking in rankings)
    order = interleaved(first, second, k, "team-draft", seed)
    rows, team = team_draft(np.array(rankings[0]), np.array(rankings[1]), seed, len(first) if k is None else k)
    assert (order.rows.tolist(), order.seed, order.propensities) == (rows.tolist(), seed, None)
    assert order.team is not None
    assert order.team.tolist() == team.tolist()
    chosen = [(first, second)[0 if ranker == NEITHER else ranker][row] for row, ranker in zip(rows, team, strict=True)]
    assert order.scores([first, second]).tolist() == chosen


def test_seeds_differ_by_test_seed_and_request() -> None:
    seeds = {seed_of(test, seed, f"r{n}") for test in ("a", "b") for seed in (0, 1) for n in range(1_000)}
    assert len(seeds) == 4_000


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_what_another_ranking_would_earn_is_estimated_from_an_explored_cell_s_log(
    tmp_path: Path, probability: float
) -> None:
    """Inverse propensities recover a truth that the log's own average is far from."""
    random, requests, items = np.random.default_rng(3), 4_000, 4
    storage = open_storage(f"file://{tmp_path}")
    scores = random.normal(size=(requests, items)).astype(np.float32)
    earns = 1 / (1 + np.exp(2 * scores))  # what ranks low earns most
    context, item_keys = (context_variable("profile_id", "int64"),), (item("video_id", "int64"),)
    with ExposureLog(storage, context, item_keys) as log:
        for request in range(requests):
            name = f"request-{request}"
            order = explored(scores[request], None, probability, seed_of("homepage", 0, name))
            log.append(
                Exposure(
                    name,
                    request,
                    "homepage",
                    "explored",
                    "abc",
                    None,
                    pa.table({"profile_id": [request]}),
                    pa.table({"video_id": order.rows}),
                    order.rows.astype(np.int32),
                    order.scores([scores[request]]),
                    order.propensities,
                    seed=order.seed,
                )
            )
    logged = read_exposures(storage, "homepage").read_all()
    assert len(logged) == requests
    profiles = logged["context"].combine_chunks().field("profile_id").to_numpy()
    video = logged["items"].combine_chunks().field("video_id").flatten().to_numpy()
    first = np.tile(np.arange(items) == 0, requests)  # only the first place counts; of others its propensity is unknown
    propensities = np.where(first, logged["propensities"].combine_chunks().flatten().to_numpy(), np.nan)
    earned = random.random(requests * items) < earns[profiles.repeat(items), video]
    part = RankingData(
        pa.table({"profile_id": profiles, "time": logged["time"]}),
        pa.table({"video_id": video, "shown": first, "propensity": propensities, "reward": earned.astype(float)}),
        np.arange(0, requests * items + 1, items),
        earned.astype(np.float32),
        np.ones((requests * items, 1), np.float32),
        ("nothing",),
    )
    reversed_ranking = -scores[profiles.repeat(items), video]
    exposures = Exposures("shown", "propensity", "reward")
    quick = Bootstrap(replicates=200)
    estimates = estimate_rewards(reversed_ranking, -reversed_ranking, part, exposures, bootstrap=quick)
    truths = [earns[np.arange(requests), best].mean() for best in (scores.argmin(axis=1), scores.argmax(axis=1))]
    assert truths[0] > 2 * truths[1]
    for side, truth in zip(estimates.sides, truths, strict=True):
        assert side.reward is not None, side.refused
        for estimate in (side.reward.ips, side.reward.snips):
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low < truth < estimate.high
    assert estimates.logged.high is not None
    assert estimates.logged.high < truths[0]  # which the log's own average is far from

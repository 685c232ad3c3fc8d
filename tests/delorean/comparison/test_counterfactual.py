from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from delorean import ComparisonError, ConfigError
from delorean.comparison.counterfactual.estimate import estimate_rewards
from delorean.comparison.counterfactual.exposures import Exposures, logged_exposures
from delorean.comparison.counterfactual.policies import display_probabilities
from delorean.evaluation.settings import Bootstrap
from delorean.ranking_data.ranking_data import RankingData

QUICK = Bootstrap(replicates=500)
ITEMS = 5


class Log:
    """A log of a softmax policy, whose propensities, and the expected rewards of all items, are known."""

    def __init__(self, contexts: int, seed: int, places: int = 1) -> None:
        random = np.random.default_rng(seed)
        self.features = random.normal(size=(contexts, ITEMS, 2))
        self.expected = 1 / (1 + np.exp(-(self.features[..., 0] + 0.5 * self.features[..., 1] - 1)))
        odds = np.exp(0.7 * self.features[..., 1])
        one = odds / odds.sum(axis=1, keepdims=True)
        self.propensities = one if places == 1 else np.clip(one * places * 0.9, 0.05, 1)
        if places == 1:
            chosen = (random.random((contexts, 1)) > np.cumsum(one, axis=1)[:, :-1]).sum(axis=1)
            self.shown = np.arange(ITEMS) == chosen[:, None]
        else:  # each item by itself
            self.shown = random.random(one.shape) < self.propensities
        self.rewards = ((random.random(one.shape) < self.expected) & self.shown).astype(np.float64)
        self.candidate = (self.features[..., 0] + 0.5 * self.features[..., 1]).astype(np.float32).ravel()
        self.production = self.features[..., 1].astype(np.float32).ravel()

    @property
    def part(self) -> RankingData:
        contexts = len(self.shown)
        times = pa.array(np.arange(contexts), pa.timestamp("us", "UTC"))
        return part_of(
            {"profile_id": np.arange(contexts), "time": times},
            {"shown": self.shown.ravel(), "p": self.propensities.ravel(), "reward": self.rewards.ravel()},
            contexts,
            self.features.reshape(-1, 2).astype(np.float32),
        )

    def truth(self, scores: NDArray[np.float32], exposures: Exposures) -> float:
        """The expected reward of a policy for each of these contexts, by definition."""
        own = scores.reshape(-1, ITEMS).astype(np.float64)
        if exposures.policy == "top":
            shown = (own[:, None, :] > own[:, :, None]).sum(axis=2) < exposures.places
        else:
            shown = np.exp(own / exposures.temperature)
            shown /= shown.sum(axis=1, keepdims=True)
        return float((shown * self.expected).sum(axis=1).mean())


def part_of(
    contexts: dict[str, Any], items: dict[str, Any], count: int, features: Any = None, **more: Any
) -> RankingData:
    table = pa.table(items)
    n = table.num_rows
    matrix = np.zeros((n, 1), np.float32) if features is None else features
    names = tuple(f"f{i}" for i in range(matrix.shape[1]))
    offsets = np.arange(0, n + 1, n // count)
    return RankingData(pa.table(contexts), table, offsets, np.zeros(n, np.float32), matrix, names, **more)


POLICIES = {
    "first": Exposures("shown", "p", "reward"),
    "softmax": Exposures("shown", "p", "reward", policy="softmax", temperature=0.5),
    "three": Exposures("shown", "p", "reward", places=3),
}


@pytest.mark.parametrize(
    ("policy", "turns", "learned"), [*((name, 400, False) for name in POLICIES), ("first", 30, True)]
)
def test_estimates_are_unbiased_and_their_intervals_cover_the_truth(policy: str, turns: int, learned: bool) -> None:
    """Of 95 % intervals over 400 logs, 92 to 97 % hold the truth that the simulation knows, and errors average out.

    Without features, rewards are predicted by their mean, which takes no time; with them, there are fewer logs.
    """
    exposures = replace(POLICIES[policy], folds=2, effective=1)
    errors: dict[str, list[float]] = {}
    covered: dict[str, list[bool]] = {}
    # The truth for all possible contexts, of which each log is a sample.
    many = Log(100_000, seed=10**6, places=exposures.places)
    truths = [many.truth(scores, exposures) for scores in (many.candidate, many.production)]
    for seed in range(turns):
        log = Log(400, 5_000 + seed, exposures.places)
        part = log.part if learned else replace(log.part, features=np.full_like(log.part.features, np.nan))
        found = estimate_rewards(log.candidate, log.production, part, exposures, bootstrap=QUICK)
        assert found.candidate.reward is not None
        assert found.difference is not None
        for side, rewards, truth in (
            ("candidate", found.candidate.reward, truths[0]),
            ("difference", found.difference, truths[0] - truths[1]),
        ):
            for name in ("ips", "snips", "doubly_robust"):
                estimate = getattr(rewards, name)
                errors.setdefault(f"{side} {name}", []).append(estimate.value - truth)
                covered.setdefault(f"{side} {name}", []).append(estimate.low <= truth <= estimate.high)
    for name, values in errors.items():
        spread = np.std(values) / np.sqrt(turns)
        assert abs(np.mean(values)) < 4 * spread, name
        lowest, highest = (0.92, 0.975) if turns == 400 else (0.8, 1)
        assert lowest <= np.mean(covered[name]) <= highest, (name, np.mean(covered[name]))


def test_a_model_of_rewards_narrows_the_doubly_robust_interval() -> None:
    log = Log(2_000, seed=1)
    log.rewards = np.where(log.shown, log.expected, 0)
    found = estimate_rewards(log.candidate, log.production, log.part, POLICIES["first"], bootstrap=QUICK)
    reward = found.candidate.reward
    assert reward is not None
    widths = {
        name: getattr(reward, name).high - getattr(reward, name).low for name in ("ips", "snips", "doubly_robust")
    }
    assert widths["doubly_robust"] < 0.7 * widths["snips"] < 0.7 * widths["ips"]
    truth = log.truth(log.candidate, POLICIES["first"])
    assert reward.doubly_robust.value == pytest.approx(truth, abs=0.04)
    assert found.candidate.reward.doubly_robust.value > found.logged.value  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([None, 1.5]))
def test_estimates_are_those_of_their_formulas(seed: int, places: int, clip: float | None) -> None:
    random = np.random.default_rng(seed)
    log = Log(40, seed, places)
    scores = random.integers(0, 4, len(log.candidate)).astype(np.float32)  # with ties
    exposures = Exposures("shown", "p", "reward", places=places, clip=clip, effective=1, unsupported=1)
    found = estimate_rewards(scores, log.production, log.part, exposures, bootstrap=QUICK)
    if found.candidate.reward is None:
        assert found.candidate.shown == 0
        return
    ips = weighted = total = shown = 0.0
    squares = 0.0
    for own, p, was_shown, reward in zip(
        scores.reshape(-1, ITEMS), log.propensities, log.shown, log.rewards, strict=True
    ):
        first = sorted(range(ITEMS), key=lambda i: -own[i])[:places]
        for i in first:
            shown += 1
            if was_shown[i]:
                weight = min(1 / p[i], clip or np.inf)
                ips += weight * reward[i]
                total += weight
                squares += weight**2
    del weighted
    assert found.candidate.reward.ips.value == pytest.approx(ips / 40)
    assert found.candidate.reward.snips.value == pytest.approx(ips / total * shown / 40)
    assert found.candidate.effective == pytest.approx(total**2 / squares)


def test_the_logging_policy_itself_earns_what_was_logged() -> None:
    log = Log(500, seed=3)
    scores = (0.7 * log.features[..., 1]).astype(np.float32).ravel()
    exposures = Exposures("shown", "p", "reward", policy="softmax")
    found = estimate_rewards(scores, scores, log.part, exposures, bootstrap=QUICK)
    assert found.candidate.reward is not None
    assert found.difference is not None
    assert found.candidate.reward.ips.value == pytest.approx(found.logged.value, rel=1e-6)
    assert found.candidate.reward.snips.value == pytest.approx(found.logged.value, rel=1e-6)
    assert found.candidate.effective == pytest.approx(500)
    assert (found.difference.ips.value, found.difference.doubly_robust.value) == (0, 0)


def test_what_was_never_shown_has_no_estimate() -> None:
    log = Log(300, seed=4)
    favourite = log.candidate.reshape(-1, ITEMS).argmax(axis=1)
    rows = np.arange(300)
    hidden = rows[:30][~log.shown[rows[:30], favourite[:30]]]
    log.propensities[hidden, favourite[hidden]] = 0
    found = estimate_rewards(log.candidate, log.production, log.part, Exposures("shown", "p", "reward", effective=1))
    assert found.candidate.reward is None
    assert found.difference is None
    assert found.candidate.refused == (
        f"{len(hidden) / 300:.1%} of what it shows was never shown (propensity 0): its reward is not known"
    )
    assert found.candidate.unsupported == pytest.approx(len(hidden) / 300)
    tolerant = Exposures("shown", "p", "reward", effective=1, unsupported=0.2)
    assert estimate_rewards(log.candidate, log.production, log.part, tolerant).candidate.reward is not None


def test_a_small_effective_sample_has_no_estimate() -> None:
    log = Log(60, seed=5)
    found = estimate_rewards(log.candidate, log.production, log.part, Exposures("shown", "p", "reward"))
    assert found.candidate.reward is None
    assert found.candidate.refused is not None
    assert "the effective sample is" in found.candidate.refused
    assert "below 100" in found.candidate.refused


def test_one_propensity_for_each_context_is_that_of_its_only_shown_item() -> None:
    log = Log(200, seed=6)
    whole, part = log.part, log.part
    contexts = part.contexts.append_column("p1", pa.array(log.propensities[log.shown]))
    part = RankingData(contexts, part.items, part.offsets, part.labels, part.features, part.names)
    options = {"reward": "reward", "effective": 1}
    by_context = estimate_rewards(log.candidate, log.production, part, Exposures("shown", "p1", **options))  # type: ignore[arg-type]
    by_item = estimate_rewards(log.candidate, log.production, whole, Exposures("shown", "p", **options))  # type: ignore[arg-type]
    assert by_context.candidate.reward == by_item.candidate.reward
    assert by_context.candidate.unsupported is None
    assert any("is not known" in note for note in by_context.notes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"p": [0.5, 0.0, 1.0, 0.5]}, r"1 of 2 shown items have a propensity such as 0 in column 'p'"),
        ({"p": [0.5, 1.5, 1.0, 0.5]}, r"1 of 2 shown items have a propensity such as 1.5"),
        ({"p": [0.5, None, 1.0, 0.5]}, r"1 of 2 shown items have a propensity such as nan"),
        ({"p": [-0.5, 0.5, 1.0, 0.5]}, r"column 'p' has 1 values that are not probabilities, such as -0.5"),
        ({"shown": [0, 0, 0, 0]}, "says that no item was shown"),
        ({"shown": [0, None, 1, 0]}, "column 'shown' has nulls"),
        ({"reward": [0.0, None, 1.0, 0.0]}, "shown items have rewards that are null or not finite in 'reward'"),
        ({"reward": ["a", "b", "c", "d"]}, "column 'reward' has values of type string, expected numbers"),
    ],
)
def test_what_cannot_be_a_log_is_refused(changed: dict[str, Any], message: str) -> None:
    items = {"shown": [0, 1, 1, 0], "p": [0.5, 0.5, 1.0, 0.5], "reward": [None, 1.0, 0.0, None], **changed}
    part = part_of({"profile_id": [1, 2]}, {name: pa.array(values) for name, values in items.items()}, 2)
    with pytest.raises(ComparisonError, match=message):
        logged_exposures(part, Exposures("shown", "p", "reward"))


def test_columns_that_do_not_exist_are_named() -> None:
    part = part_of({"profile_id": [1, 2]}, {"shown": [1, 1, 0, 1], "p": [1.0, 1.0, 1.0, 1.0]}, 2)
    with pytest.raises(ComparisonError, match="unknown column of lists 'show' → did you mean 'shown'"):
        logged_exposures(part, Exposures("show", "p"))
    with pytest.raises(ComparisonError, match="unknown column of propensities 'q'"):
        logged_exposures(part, Exposures("shown", "q"))
    with pytest.raises(ComparisonError, match="has one propensity for each context, but 1 show several items"):
        logged_exposures(part, Exposures("shown", "profile_id"))


@pytest.mark.parametrize(
    "options",
    [{"policy": "best"}, {"policy": "softmax", "places": 2}, {"places": 0}, {"temperature": 0}, {"clip": 0.5}],
)
def test_policies_that_cannot_be_estimated_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Exposures("shown", "p", **options)


def test_infinite_scores_share_all_of_the_probability() -> None:
    exposures = Exposures("shown", "p", policy="softmax")
    scores = np.float32([np.inf, 1, np.inf, -np.inf, -np.inf, 0, -np.inf])
    found = display_probabilities(scores, np.array([0, 3, 5, 7]), exposures)
    assert found.tolist() == [0.5, 0, 0.5, 0.5, 0.5, 1, 0]

"""Counts how often intervals of counterfactual estimates cover the truth, over simulated logs whose truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from delorean.comparison.counterfactual.estimate import estimate_rewards
from delorean.comparison.counterfactual.exposures import Exposures
from delorean.comparison.counterfactual.result import ESTIMATORS
from delorean.evaluation.settings import Bootstrap
from delorean.ranking_data.ranking_data import RankingData

_ITEMS = 5
_TRUTH_CONTEXTS = 400_000
_EXPOSURES = Exposures("shown", "propensity", "reward", folds=2, effective=1)


def coverage(runs: int = 1_000, contexts: int = 400, seed: int = 0, replicates: int = 500) -> Mapping[str, float]:
    """Return the share of 95 % intervals that cover the expected reward of a ranking, by estimator.

    A softmax policy shows one of five items, which earns a reward with a known probability; another ranking is
    estimated from its log. Rewards are predicted by their mean, so that a run takes no fitting.

    runs: number of logs; contexts: of each
    """
    truth = _log(np.random.default_rng(seed + 1_000_003), _TRUTH_CONTEXTS)[2]
    covered: Counter[str] = Counter()
    for run in range(runs):
        part, scores, _ = _log(np.random.default_rng(seed + run), contexts)
        bootstrap = Bootstrap(replicates=replicates, seed=run)
        found = estimate_rewards(scores, scores, part, _EXPOSURES, bootstrap=bootstrap).candidate.reward
        assert found is not None
        for name in ESTIMATORS:
            estimate = getattr(found, name)
            covered[name] += estimate.low <= truth <= estimate.high
    return {name: covered[name] / runs for name in ESTIMATORS}


def _log(random: np.random.Generator, contexts: int) -> tuple[RankingData, np.ndarray, float]:
    """Return a log, the scores of another ranking, and what it would have earned in these contexts."""
    appeal, known = random.normal(size=(2, contexts, _ITEMS))
    expected = 1 / (1 + np.exp(1 - appeal - 0.5 * known))
    odds = np.exp(0.7 * known)
    propensities = odds / odds.sum(axis=1, keepdims=True)
    chosen = (random.random((contexts, 1)) > np.cumsum(propensities, axis=1)[:, :-1]).sum(axis=1)
    shown = np.arange(_ITEMS) == chosen[:, np.newaxis]
    reward = (random.random(shown.shape) < expected) & shown
    scores = appeal + 0.5 * known
    earned = float(np.take_along_axis(expected, scores.argmax(axis=1)[:, np.newaxis], axis=1).mean())
    columns = {"shown": shown.ravel(), "propensity": propensities.ravel(), "reward": reward.ravel().astype(np.float64)}
    part = RankingData(
        pa.table({"time": pa.array(np.arange(contexts), pa.timestamp("us", "UTC"))}),
        pa.table(columns),
        np.arange(0, contexts * _ITEMS + 1, _ITEMS),
        np.zeros(contexts * _ITEMS, np.float32),
        np.full((contexts * _ITEMS, 1), np.nan, np.float32),
        ("none",),
    )
    return part, scores.astype(np.float32).ravel(), earned

"""Confidence intervals by the bootstrap over contexts, or over groups of contexts that are not independent.

Every metric here is a ratio of two sums over contexts, such as a weighted mean. A replicate draws as many clusters as
there are, with replacement, and is the ratio of its sums. Intervals are BCa (Efron 1987), because metrics are bounded
and skewed: the coverage of a percentile interval is off by the order of 1/√n, of BCa by 1/n, and its two corrections
cost nothing here, because the influence of a cluster on a ratio is known in closed form. The normal quantiles are
widened to those of Student's t, times √(n / (n − 1)), because a bootstrap of few clusters is too narrow (Hesterberg
2015).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numba import njit
from numpy.typing import NDArray

from delorean.evaluation.estimate import Estimate
from delorean.evaluation.settings import Bootstrap
from schemas.errors import TrainingError

__all__ = [
    "FEWEST_CLUSTERS",
    "Bootstrap",
    "contexts_needed",
    "paired_differences",
    "ratios",
    "simultaneous",
    "weighted_means",
]

FEWEST_CLUSTERS = 10  # fewer have no interval: nothing can be concluded from them
_MOST_REPLICATES = 10_000
_TAIL = 10  # replicates beyond each end of a simultaneous interval
_BLOCK = 1024  # clusters drawn together: their counts and sums stay in the processor's cache
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_NORMAL = NormalDist()
_ROUNDING = 1e-12  # replicates of equal values differ by no more


def weighted_means(
    values: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    clusters: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[Estimate]:
    """Estimate the weighted mean of each column.

    values: (contexts, metrics), NaN where a context has no value
    weights: (contexts,); None: all equal
    clusters: (contexts,) the number of each context's cluster, from 0 on; contexts of one cluster are drawn together.
        None: each context is its own
    """
    measured = ~np.isnan(values)
    denominators = measured * (np.ones(len(values)) if weights is None else weights)[:, np.newaxis]
    numerators = np.where(measured, values, 0) * denominators
    return ratios(numerators, denominators, clusters, bootstrap)


def paired_differences(
    values: NDArray[np.float64],
    others: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    clusters: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[Estimate]:
    """Estimate the weighted mean of `values − others` of each column, over the contexts in which both are measured.

    Both rankings are measured on the same contexts, so what makes a context hard cancels out, and the interval is
    narrower than those of the two means suggest.

    values, others: (contexts, metrics), NaN where a context has no value; the rest as for `weighted_means`

    >>> before, after = np.array([[0.2]] * 9 + [[0.8]] * 9), np.array([[0.3]] * 9 + [[0.9]] * 9)
    >>> difference = paired_differences(after, before)[0]
    >>> round(difference.value, 6), difference.excludes_zero
    (0.1, True)
    """
    if values.shape != others.shape:
        raise TrainingError.because(f"values of shape {values.shape} and {others.shape} cannot be paired")
    return weighted_means(values - others, weights, clusters, bootstrap)


def ratios(
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    clusters: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
    *,
    shares: bool = False,
) -> list[Estimate]:
    """Estimate Σ numerators / Σ denominators of each column.

    numerators, denominators: (contexts, metrics); a context counts as measured where its denominator is not 0
    clusters: as for `weighted_means`
    shares: each context's ratio is from 0 to 1. Where all are 0, or all 1, no sample differs from another, yet the
        truth may: if n clusters are all 1, the mean is at least (α / 2)^(1 / n), as after Clopper and Pearson (1934)
    """
    if not (np.isfinite(numerators).all() and np.isfinite(denominators).all()):
        raise TrainingError.because("values or weights are not finite, so they have no mean")
    bootstrap, metrics = bootstrap or Bootstrap(), numerators.shape[1]
    contexts = np.count_nonzero(denominators, axis=0)
    places: dict[bytes, int] = {}  # metrics over the same contexts have one denominator, which is drawn once
    of_metric = [places.setdefault(denominators[:, metric].tobytes(), len(places)) for metric in range(metrics)]
    columns = np.hstack([numerators, denominators[:, [of_metric.index(place) for place in range(len(places))]]])
    if clusters is not None:
        columns = _summed(columns, clusters)
    sums = columns.sum(axis=0)
    samples = _replicates(columns, bootstrap) if len(columns) >= FEWEST_CLUSTERS else None
    pairs = [[metric, metrics + place] for metric, place in enumerate(of_metric)]
    return [
        _estimate(
            columns[:, pair],
            sums[pair],
            None if samples is None else samples[:, pair],
            int(count),
            bootstrap.level,
            shares=shares,
        )
        for pair, count in zip(pairs, contexts, strict=True)
    ]


def simultaneous(bootstrap: Bootstrap, looks: int) -> Bootstrap:
    """Return how intervals are computed of which all of `looks` hold together with the level (Bonferroni).

    >>> simultaneous(Bootstrap(), 5).level
    0.99
    """
    if looks <= 1:
        return bootstrap
    level = 1 - (1 - bootstrap.level) / looks
    replicates = min(_MOST_REPLICATES, int(2 * _TAIL / (1 - level)))
    return Bootstrap(level, max(bootstrap.replicates, replicates), bootstrap.seed)


def contexts_needed(difference: Estimate, margin: float) -> int | None:
    """Return about how many contexts would narrow a difference's interval to ±margin; None without an interval.

    An interval's width falls with the root of their number.

    >>> contexts_needed(Estimate(0.0, -0.01, 0.01, 1_000), 0.005)
    4000
    """
    if difference.low is None or difference.high is None:
        return None
    ratio = ((difference.high - difference.low) / 2 / margin) ** 2
    return math.ceil(round(difference.contexts * max(ratio, 1.0) / 100, 6)) * 100


def _estimate(
    columns: NDArray[np.float64],
    sums: NDArray[np.float64],
    samples: NDArray[np.float64] | None,
    contexts: int,
    level: float,
    *,
    shares: bool,
) -> Estimate:
    """Estimate one ratio. columns: (clusters, 2), numerator and denominator, as in `sums` and `samples`."""
    if not sums[1] > 0:
        return Estimate(None, None, None, 0)
    value = sums[0] / sums[1]
    used = int(np.count_nonzero(columns.any(axis=1)))  # the others never change the ratio
    if samples is None or used < FEWEST_CLUSTERS:
        return Estimate(float(value), None, None, contexts)
    drawn = samples[samples[:, 1] > 0]
    low, high = _bca(value, drawn[:, 0] / drawn[:, 1], columns[:, 0] - value * columns[:, 1], used, level)
    if shares and low == high and min(abs(value), abs(value - 1)) <= _ROUNDING:
        bound = ((1 - level) / 2) ** (1 / used)
        low, high = (bound, 1.0) if value > 0.5 else (0.0, 1 - bound)
    return Estimate(float(value), low, high, contexts)


def _bca(
    value: float, samples: NDArray[np.float64], influences: NDArray[np.float64], clusters: int, level: float
) -> tuple[float, float]:
    """Return the BCa interval. influences: of each cluster on the value, up to a factor."""
    from scipy.special import stdtrit  # packages are served, and their reports read, where scipy is not installed

    spread = float((influences**2).sum())
    tiny = _ROUNDING * max(1.0, abs(value))
    if spread == 0 or float(np.ptp(samples)) <= tiny:
        return float(value), float(value)
    acceleration = float((influences**3).sum()) / (6 * spread**1.5)
    below = np.mean(samples < value - tiny) + np.mean(np.abs(samples - value) <= tiny) / 2
    bias = _NORMAL.inv_cdf(float(np.clip(below, 0.5 / len(samples), 1 - 0.5 / len(samples))))
    widened = float(stdtrit(clusters - 1, (1 + level) / 2)) * np.sqrt(clusters / (clusters - 1))
    ends = []
    for quantile in (-widened, widened):
        shifted = bias + quantile
        ends.append(_NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-3)))
    low, high = np.quantile(samples, ends)
    return float(low), float(high)


def _summed(columns: NDArray[np.float64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.stack([np.bincount(clusters, weights=column) for column in columns.T], axis=1)


def _replicates(columns: NDArray[np.float64], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return each replicate's sums, (replicates, columns): clusters drawn with replacement, as many as there are.

    How many of a replicate's draws fall into a block of clusters is binomial, given those of the earlier blocks; within
    the block they are uniform. So the counts are multinomial, exactly, and only a block's are held at a time.
    """
    random = np.random.default_rng(bootstrap.seed)
    columns = np.ascontiguousarray(columns)
    totals = np.zeros((bootstrap.replicates, columns.shape[1]))
    remaining = np.full(bootstrap.replicates, len(columns))
    for start in range(0, len(columns), _BLOCK):
        block = columns[start : start + _BLOCK]
        draws = random.binomial(remaining, len(block) / (len(columns) - start))
        _add_drawn(block, draws, random.integers(0, 1 << 63, bootstrap.replicates, dtype=np.uint64), totals)
        remaining -= draws
    return totals


@njit(cache=True)
def _add_drawn(
    block: NDArray[np.float64], draws: NDArray[np.int64], seeds: NDArray[np.uint64], totals: NDArray[np.float64]
) -> None:
    """Add rows of a block, drawn with replacement, to each replicate's totals.

    The random numbers are splitmix64's (Steele, Lea and Flood 2014), 32 bits for each draw, made to rows by multiplying
    (Lemire 2019): a row's probability is off by less than 2⁻²².
    """
    rows, width = block.shape
    size = np.uint64(rows)
    counts = np.zeros(rows)
    for replicate in range(len(draws)):
        counts[:] = 0
        state = seeds[replicate]
        for draw in range((draws[replicate] + 1) // 2):
            state += _GOLDEN
            bits = (state ^ (state >> np.uint64(30))) * _MIX_1
            bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
            bits ^= bits >> np.uint64(31)
            counts[np.int64(((bits & np.uint64(0xFFFFFFFF)) * size) >> np.uint64(32))] += 1
            if 2 * draw + 1 < draws[replicate]:
                counts[np.int64(((bits >> np.uint64(32)) * size) >> np.uint64(32))] += 1
        for row in range(rows):
            for column in range(width):
                totals[replicate, column] += counts[row] * block[row, column]

"""Whether scores are the probabilities that they claim to be."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.bootstrap import Bootstrap, ratios
from delorean.evaluation.by_context import sums
from delorean.evaluation.estimate import Estimate
from delorean.ranking_data.ranking_data import RankingData


class CalibrationBin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items of similar scores.

    items: number of them
    mean_score: what the scores claim: the weighted mean
    positives: what happened: the weighted share of positives, with its interval
    """

    items: int
    mean_score: float
    positives: Estimate


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reliability diagram and its summary.

    bins: by score, ascending
    error: expected calibration error: the mean over items of |mean score − share of positives| of their bins. Chance
        alone makes it larger than 0, so it has no interval; those of the bins say what is certain
    mean_score, positives: over all items
    """

    bins: tuple[CalibrationBin, ...]
    error: float
    mean_score: float
    positives: float


def calibration(
    scores: NDArray[np.float32],
    part: RankingData,
    bins: int = 10,
    clusters: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Calibration | None:
    """Compare probabilities with shares of positives; None without items of weight.

    Bins have equally many items, since most items of a recommender have small probabilities and bins of equal width
    would hold all of them in one (Nixon et al. 2019). Items of equal score are in one bin, so there may be fewer bins.

    scores: (items,) probabilities
    """
    weights = np.ones(len(scores)) if part.item_weights is None else part.item_weights
    if not weights.sum() > 0:
        return None
    of_item = _bins(scores, bins)
    count = int(of_item.max()) + 1
    hits, own = weights * part.positive, np.zeros((2, len(part), count))
    for each in range(count):
        inside = of_item == each
        own[0, :, each], own[1, :, each] = (sums(values * inside, part.offsets) for values in (hits, weights))
    of_bins, claimed = np.bincount(of_item, weights=weights), np.bincount(of_item, weights=weights * scores)
    measured = ratios(own[0], own[1], clusters, bootstrap, shares=True)
    items = np.bincount(of_item)
    result = tuple(
        CalibrationBin(int(items[each]), float(claimed[each] / of_bins[each]), measured[each])
        for each in range(count)
        if of_bins[each] > 0
    )
    gaps = np.abs(claimed - np.bincount(of_item, weights=hits))
    total = float(weights.sum())
    return Calibration(result, float(gaps.sum() / total), float(claimed.sum() / total), float(hits.sum() / total))


def _bins(scores: NDArray[np.float32], bins: int) -> NDArray[np.int64]:
    """Return the bin of each item, from 0 on without gaps."""
    edges = np.unique(np.quantile(scores, np.arange(1, bins) / bins, method="inverted_cdf"))
    codes: NDArray[np.int64] = np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)[1]
    return codes

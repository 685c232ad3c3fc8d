"""The area under the ROC curve over all items, as sums over contexts, so that it can be bootstrapped with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.by_context import sums
from delorean.ranking_data.ranking_data import RankingData


def area_by_context(scores: NDArray[np.float32], part: RankingData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each context's share in the area's numerator and denominator; the area is the ratio of their sums.

    An area counts pairs of items of different contexts, so no context has a value of its own. But to first order, which
    is what an interval needs, it depends on contexts through the shares of pairs that their items win (DeLong et al.
    1988; Obuchowski 1997 for clustered items). Both arrays are 0 where there are no pairs.

    scores: (items,) without NaN; ties count half, and items by their contexts' and their own weights
    """
    weights = np.ones(len(scores)) if part.item_weights is None else part.item_weights
    positive = part.positive
    positives, negatives = np.where(positive, weights, 0), np.where(positive, 0, weights)
    pairs = positives.sum() * negatives.sum()
    if not pairs > 0:
        return np.zeros(len(part)), np.zeros(len(part))
    codes = np.unique(scores, return_inverse=True)[1]
    of_positives, of_negatives = (np.bincount(codes, weights=each) for each in (positives, negatives))
    negatives_below = np.cumsum(of_negatives) - of_negatives / 2
    positives_above = positives.sum() - np.cumsum(of_positives) + of_positives / 2
    area = float((of_positives * negatives_below).sum() / pairs)
    won = positives * negatives_below[codes] + negatives * positives_above[codes]  # both sides of each pair
    numerators = sums(won / pairs - area * negatives / negatives.sum(), part.offsets)
    return numerators, sums(positives / positives.sum(), part.offsets)

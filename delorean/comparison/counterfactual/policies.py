"""What a ranking would show: the probability of each item, by policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delorean.comparison.counterfactual.exposures import Exposures


def display_probabilities(
    scores: NDArray[np.float32], offsets: NDArray[np.int64], exposures: Exposures
) -> NDArray[np.float64]:
    """Return the probability with which a policy shows each item.

    scores: (items,) without NaN; offsets: (contexts + 1,)

    >>> display_probabilities(np.float32([1, 3, 2]), np.array([0, 3]), Exposures("s", "p", places=2)).tolist()
    [0.0, 1.0, 1.0]
    """
    lengths = np.diff(offsets)
    of_context = np.repeat(np.arange(len(lengths)), lengths)
    if exposures.policy == "top":
        order = np.lexsort(
            (np.arange(len(scores)), -scores, of_context)
        )  # as serving ranks: equal scores keep their order
        places = np.arange(len(scores)) - np.repeat(offsets[:-1], lengths)
        shown = np.zeros(len(scores))
        shown[order] = places < exposures.places
        return shown
    values = scores.astype(np.float64) / exposures.temperature
    greatest = np.full(len(lengths), -np.inf)
    np.maximum.at(greatest, of_context, values)
    bound = greatest[of_context]
    # Infinite scores share all of the probability, or have none of it.
    shifted = np.where(
        np.isinf(bound), np.where(values == bound, 0.0, -np.inf), values - np.where(np.isinf(bound), 0, bound)
    )
    odds = np.exp(shifted)
    return odds / np.bincount(of_context, weights=odds, minlength=len(lengths))[of_context]

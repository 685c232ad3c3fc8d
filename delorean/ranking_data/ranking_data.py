"""Ranking data: contexts with their items, labels and features as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankingData:
    """Labelled items of many contexts, concatenated.

    contexts: one row for each context: its variables, `time` (timestamp[us, UTC]) and, where the feature set has it,
        `outcome_at`, the time at which its labels became known
    items: the items of all contexts, concatenated, one column for each item variable
    offsets: (contexts + 1,) where each context's items start and end
    labels: (items,) float32; above 0 is positive
    features: (items, features) float32, NaN where missing
    names: of the features, in the order of their columns
    weights: (contexts,) float64 weight of each context in training, None: all equal
    unread: number of contexts and of items of the feature set that a sample left out
    own_item_weights: (items,) float32 weight of each item within its context, None: all 1
    """

    contexts: pa.Table
    items: pa.Table
    offsets: NDArray[np.int64]
    labels: NDArray[np.float32]
    features: NDArray[np.float32]
    names: tuple[str, ...]
    weights: NDArray[np.float64] | None = None
    unread: tuple[int, int] = (0, 0)
    own_item_weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Return the number of contexts."""
        return len(self.offsets) - 1

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether each item is a positive."""
        return self.labels > 0

    @property
    def item_weights(self) -> NDArray[np.float64] | None:
        """Each item's weight: its context's, times its own."""
        if self.weights is None:
            return None if self.own_item_weights is None else self.own_item_weights.astype(np.float64)
        weights = np.repeat(self.weights, np.diff(self.offsets))
        return weights if self.own_item_weights is None else weights * self.own_item_weights

    def take(self, rows: NDArray[np.int64]) -> RankingData:
        """Return some contexts with their items, in the order of `rows`."""
        lengths = np.diff(self.offsets)[rows]
        positions = ranges(self.offsets[:-1][rows], lengths)
        return replace(
            self,
            contexts=self.contexts.take(rows),
            items=self.items.take(positions),
            offsets=offsets_of(lengths),
            labels=self.labels[positions],
            features=self.features[positions],
            weights=None if self.weights is None else self.weights[rows],
            own_item_weights=None if self.own_item_weights is None else self.own_item_weights[positions],
        )


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions start, start + 1, … of each range, concatenated.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) + np.repeat(starts - ends + lengths, lengths)


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each context's items start, and where the last one's end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])

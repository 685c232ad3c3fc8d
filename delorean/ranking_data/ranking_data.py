"""Ranking data: contexts with their items, labels and features as flat arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import TrainingError


@dataclass(frozen=True)
class RankingData:
    """What goes into a training: labelled items of many contexts, concatenated, a group for each context.

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
    other_labels: name → (items,) float32 labels that are not learned, NaN where missing
    inclusion_probabilities: (contexts,) float64 with which each was selected, None where the weights are not their
        inverse

    Raises TrainingError for arrays of another shape or type.
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
    other_labels: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    inclusion_probabilities: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Check the shapes and types."""
        contexts, items = len(self), len(self.labels)
        if len(self.contexts) != contexts or (contexts and (self.offsets[0], self.offsets[-1]) != (0, items)):
            raise TrainingError.because(
                f"offsets describe {contexts} contexts from item {self.offsets[0]} to {self.offsets[-1]}, expected "
                f"{len(self.contexts)} from 0 to {items}"
            )
        expected: dict[str, tuple[object, tuple[int, ...], type]] = {
            "labels": (self.labels, (items,), np.float32),
            "features": (self.features, (items, len(self.names)), np.float32),
            "weights": (self.weights, (contexts,), np.float64),
            "own_item_weights": (self.own_item_weights, (items,), np.float32),
            "inclusion_probabilities": (self.inclusion_probabilities, (contexts,), np.float64),
            **{f"label '{name}'": (each, (items,), np.float32) for name, each in self.other_labels.items()},
        }
        for name, (array, shape, kind) in expected.items():
            if array is not None and (not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (shape, kind)):
                found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise TrainingError.because(f"{name} is {found}, expected {np.dtype(kind)} {shape}")

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
        if len(rows) and (np.diff(rows) == 1).all():
            return self.between(int(rows[0]), int(rows[-1]) + 1)
        lengths = np.diff(self.offsets)[rows]
        positions = ranges(self.offsets[:-1][rows], lengths)
        return self._with(rows, positions, offsets_of(lengths), self.contexts.take(rows), self.items.take(positions))

    def between(self, first: int, end: int) -> RankingData:
        """Return the contexts from `first` up to `end`, without copying their features."""
        start, stop = int(self.offsets[first]), int(self.offsets[end])
        contexts, items = self.contexts.slice(first, end - first), self.items.slice(start, stop - start)
        return self._with(slice(first, end), slice(start, stop), self.offsets[first : end + 1] - start, contexts, items)

    def _with(
        self,
        rows: NDArray[np.int64] | slice,
        positions: NDArray[np.int64] | slice,
        offsets: NDArray[np.int64],
        contexts: pa.Table,
        items: pa.Table,
    ) -> RankingData:
        def some(array: NDArray[Any] | None, at: NDArray[np.int64] | slice) -> Any:
            return None if array is None else array[at]

        return replace(
            self,
            contexts=contexts,
            items=items,
            offsets=offsets,
            labels=self.labels[positions],
            features=self.features[positions],
            weights=some(self.weights, rows),
            own_item_weights=some(self.own_item_weights, positions),
            other_labels={name: each[positions] for name, each in self.other_labels.items()},
            inclusion_probabilities=some(self.inclusion_probabilities, rows),
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

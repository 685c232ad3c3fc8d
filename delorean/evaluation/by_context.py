"""Measures each context by itself: the values that means, intervals and comparisons are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.evaluation.context_kernel import AREA, AVERAGE_PRECISION, NDCG, RECALL, RECIPROCAL_RANK, contexts_metrics
from delorean.evaluation.settings import checked_places
from delorean.ranking_data.ranking_data import RankingData
from schemas.errors import TrainingError

PLACES = (10,)
_SMALLEST = float(np.finfo(np.float32).eps)  # probabilities are kept this far from 0 and 1, as scikit-learn does


@dataclass(frozen=True)
class ContextMetrics:
    """The metrics of each context; items of equal score count as if in random order.

    names: of the metrics, in the order of the columns: "ndcg@10", "recall@10", …, "mrr", "map", "auc_by_context"
    values: (contexts, metrics) float64, NaN where a context cannot be measured: it has no positive or, for the AUC, no
        negative
    positives: (contexts,) int64 number of positives
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    positives: NDArray[np.int64]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Return one metric of all contexts. Raises TrainingError for an unknown name."""
        if name not in self.names:
            raise TrainingError.unknown("metric", name, self.names)
        return self.values[:, self.names.index(name)]


def metrics_by_context(scores: NDArray[np.float32], part: RankingData, at: Sequence[int] = PLACES) -> pa.Table:
    """Measure how well scores rank the items of each context of a part.

    scores: (items,)
    at: numbers of first places, for NDCG and recall

    Returns a row for each context, in the order of the part: its variables and `time`, then `weight`, `items` and
    `positives`, then the metrics, null where a context has no positive or, for `auc_by_context`, no negative. Their
    means, weighted by `weight`, are the metrics of the part. `log_loss` is the mean over the context's items; there is
    none where scores are no probabilities.

    Raises TrainingError for scores that are NaN, and for a context variable that is named as one of these columns.
    """
    measured = measure_contexts(scores, part, at)
    lengths = np.diff(part.offsets)
    columns = {
        "weight": np.ones(len(part)) if part.weights is None else part.weights,
        "items": lengths,
        "positives": measured.positives,
        **dict(zip(measured.names, measured.values.T, strict=True)),
    }
    if are_probabilities(scores):
        losses, weights = summed_log_loss(scores, part)
        columns["log_loss"] = np.divide(losses, weights, out=np.full(len(part), np.nan), where=weights > 0)
    table = part.contexts
    for name, values in columns.items():
        if name in table.schema.names:
            raise TrainingError.because(
                f"context variable '{name}' is named as a column of the metrics", "rename it in the label data's query"
            )
        table = table.append_column(name, pa.array(values, from_pandas=True))
    return table


def measure_contexts(scores: NDArray[np.float32], part: RankingData, at: Sequence[int] = PLACES) -> ContextMetrics:
    """Measure each context of a part; `metrics_by_context` gives the same with the contexts' variables.

    Raises TrainingError for scores that are NaN and labels that are infinite, ConfigError for places below 1.
    """
    return measure_arrays(scores, part.labels, part.offsets, at, part.own_item_weights)


def measure_arrays(
    scores: NDArray[np.float32],
    labels: NDArray[np.float32],
    offsets: NDArray[np.int64],
    at: Sequence[int] = PLACES,
    item_weights: NDArray[np.float32] | None = None,
) -> ContextMetrics:
    """Measure each context of plain arrays, see `measure_contexts`.

    item_weights: (items,) multiply the gains, and count in the AUC; an item of weight 0 is no positive. None: all 1
    """
    places = checked_places(at)
    check_scores(scores, len(labels))
    gains = labels if item_weights is None else (labels * item_weights).astype(np.float32)
    if not np.isfinite(gains).all():
        raise TrainingError.because("labels have values that are not finite", "expected gains of 0 and more")
    weights = np.ones(len(labels)) if item_weights is None else item_weights.astype(np.float64)
    arrays = (np.ascontiguousarray(scores, np.float32), np.ascontiguousarray(gains, np.float32), weights)
    whole, first = contexts_metrics(*arrays, np.ascontiguousarray(offsets, np.int64), np.array(places))
    names = [f"{metric}@{k}" for k in places for metric in ("ndcg", "recall")]
    values = [first[:, i, metric] for i in range(len(places)) for metric in (NDCG, RECALL)]
    values += [whole[:, RECIPROCAL_RANK], whole[:, AVERAGE_PRECISION], whole[:, AREA]]
    positives = np.diff(np.concatenate([[0], np.cumsum(gains > 0)])[offsets])
    return ContextMetrics((*names, "mrr", "map", "auc_by_context"), np.stack(values, axis=1), positives)


def check_scores(scores: NDArray[np.float32], items: int) -> None:
    """Raise TrainingError unless there is a score for each item, and none is NaN."""
    if scores.shape != (items,):
        raise TrainingError.because(f"scores have the shape {scores.shape}, expected ({items},): one for each item")
    if np.isnan(scores).any():
        raise TrainingError.because(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")


def are_probabilities(scores: NDArray[np.float32]) -> bool:
    """Whether all scores are between 0 and 1, so that they can be compared with shares of positives."""
    return bool(len(scores)) and bool((scores >= 0).all()) and bool((scores <= 1).all())


def summed_log_loss(scores: NDArray[np.float32], part: RankingData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each context's summed log loss of its items' probabilities, and the sum of its items' weights.

    The loss of an item is −ln(score) if it is a positive, else −ln(1 − score), with scores kept 2⁻²³ from 0 and 1.
    """
    probabilities = np.clip(scores.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    losses = -np.log(np.where(part.positive, probabilities, 1 - probabilities))
    weights = np.ones(len(scores)) if part.own_item_weights is None else part.own_item_weights.astype(np.float64)
    return sums(losses * weights, part.offsets), sums(weights, part.offsets)


def sums(values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum the values of each context's items; 0 for a context without items."""
    contexts = len(offsets) - 1
    of_context = np.repeat(np.arange(contexts), np.diff(offsets))
    return np.bincount(of_context, weights=values, minlength=contexts).astype(np.float64, copy=False)

"""Baselines: popularity, which a model must beat, and shuffled labels, from which nothing can be learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData

SHUFFLED_ITEMS = 250_000


def popularity_scores(train: RankingData, data: RankingData) -> NDArray[np.float32]:
    """Score each item with its count of positives in the training part; an item that is not in it scores 0.

    Items are the same when all their variables are equal.
    """
    codes = _item_codes(pa.concat_tables([train.items, data.items]))
    seen, scored = codes[: len(train.labels)], codes[len(train.labels) :]
    counts = np.bincount(seen, weights=train.positive, minlength=int(codes.max(initial=0)) + 1)
    return counts[scored].astype(np.float32)


def with_shuffled_labels(data: RankingData, seed: int) -> RankingData:
    """Permute the labels within each context: all that can be learned then is how many positives a context has.

    A model fitted on these must rank the true labels no better than chance; otherwise features contain the labels.
    """
    context = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    order = np.lexsort((np.random.default_rng(seed).random(len(context)), context))
    return replace(data, labels=data.labels[order])


def shuffled_sample(data: RankingData, seed: int, most: int = SHUFFLED_ITEMS) -> RankingData:
    """Return `with_shuffled_labels` of at most about `most` items: a leak shows in a sample as well."""
    if len(data.labels) > most:
        share = most / len(data.labels)
        rows = np.flatnonzero(np.random.default_rng(seed).random(len(data)) < share)
        data = data.take(rows)
    return with_shuffled_labels(data, seed)


def _item_codes(items: pa.Table) -> NDArray[np.int64]:
    """Return for each item a number, the same for equal items."""
    codes = np.zeros(len(items), dtype=np.int64)
    for column in items.columns:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        own = encoded.indices.to_numpy().astype(np.int64)
        codes = np.unique(codes * (len(encoded.dictionary) + 1) + own, return_inverse=True)[1]
    return codes

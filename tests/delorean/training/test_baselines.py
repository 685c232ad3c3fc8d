from __future__ import annotations

import numpy as np
import pyarrow as pa

from delorean.ranking_data.ranking_data import RankingData
from delorean.training.baselines import popularity_scores, with_shuffled_labels


def ranking_data(items: pa.Table, labels: list[float], offsets: list[int]) -> RankingData:
    return RankingData(
        pa.table({"time": pa.array([0] * (len(offsets) - 1))}),
        items,
        np.array(offsets),
        np.array(labels, dtype=np.float32),
        np.zeros((len(labels), 0), dtype=np.float32),
        (),
    )


def test_popularity_counts_positives_by_all_item_variables() -> None:
    train = ranking_data(
        pa.table({"id": [1, 1, 1, 2, None], "row": ["a", "a", "b", "a", "a"]}), [1, 2, 1, 0, 1], [0, 5]
    )
    asked = ranking_data(
        pa.table({"id": [2, 1, 1, 3, None, 1], "row": ["a", "a", "b", "a", "a", "c"]}), [0] * 6, [0, 6]
    )
    assert popularity_scores(train, asked).tolist() == [0, 2, 1, 0, 1, 0]


def test_shuffled_labels_stay_within_their_context() -> None:
    labels = [*range(10), *range(100, 110), 1_000]
    data = ranking_data(pa.table({"id": list(range(21))}), labels, [0, 10, 10, 20, 21])
    shuffled = with_shuffled_labels(data, seed=5)
    for first, end in ((0, 10), (10, 20), (20, 21)):
        assert sorted(shuffled.labels[first:end]) == labels[first:end]
    assert shuffled.labels.tolist() != labels
    np.testing.assert_array_equal(shuffled.labels, with_shuffled_labels(data, seed=5).labels)

"""A feature set with real structure: one feature predicts, one is popularity, one is noise, one is mostly missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

START = datetime(2026, 1, 1, tzinfo=UTC)
FEATURES = ("affinity", "popularity", "noise", "rare")


def make_feature_set(contexts: int = 600, per_context: int = 12, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    n = contexts * per_context
    videos = random.integers(0, 80, n)
    popularity = (videos % 10).astype(np.float32)
    affinity, noise = random.normal(size=(2, n)).astype(np.float32)
    rare = np.where(random.random(n) < 0.9, np.nan, affinity).astype(np.float32)
    clicked = random.random(n) < 1 / (1 + np.exp(-(2 * affinity + 0.2 * popularity - 4)))
    lists = {
        "video_id": videos,
        "label": clicked.astype(np.float32),
        "affinity": affinity,
        "popularity": popularity,
        "noise": noise,
        "rare": rare,
    }
    offsets = pa.array(np.arange(0, n + 1, per_context), pa.int32())
    columns = {
        "profile_id": pa.array(random.integers(0, 100, contexts)),
        "country": pa.array(random.choice(["US", "DE"], contexts)),
        "time": pa.array(
            [START + timedelta(minutes=int(m)) for m in random.permutation(contexts)], pa.timestamp("us", "UTC")
        ),
    }
    return pa.table(
        {**columns, **{k: pa.ListArray.from_arrays(offsets, pa.array(v, from_pandas=False)) for k, v in lists.items()}}
    )

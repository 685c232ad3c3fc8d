"""A company of 40 profiles and 60 videos whose state, as of one moment, is known in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from company_encoders import listed, popularity, watched
from numpy.typing import NDArray

from delorean.packaging.package import ModelPackage, matrix
from delorean.packaging.writing import Lineage, write_package
from delorean.ranking_data.ranking_data import RankingData
from delorean.training.fitting import TrainedModel, train
from encoders import DataMaps, Element, FeatureModel
from encoders.library.keys import COUNTRY, MY_LIST, PROFILE_ID, VIDEO_ID, VIDEOS, VIEWING_HISTORY
from schemas.services import Service

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONTEXT, ITEMS = [PROFILE_ID, COUNTRY], [VIDEO_ID]
SERVICES = [Service(key.name, key, (PROFILE_ID,)) for key in (VIEWING_HISTORY, MY_LIST)]
MODEL = FeatureModel([watched.configured(window_days=20.0), listed, popularity])
CANDIDATE = FeatureModel([listed, popularity])
MODULES = ("company_encoders",)
PROFILES, PER_CONTEXT = 40, 20

_random = np.random.default_rng(7)


def _history() -> list[dict[str, Any]]:
    return [
        {
            "video_id": int(_random.integers(60)),
            "minutes": float(np.float32(_random.random() * 100)),
            "watched_at": NOW - timedelta(days=30) * float(_random.random()),
        }
        for _ in range(30)
    ]


HISTORIES = {profile: _history() for profile in range(PROFILES)}
LISTS = {
    profile: [{"video_id": int(v), "added_at": NOW - timedelta(days=1)} for v in _random.permutation(60)[:10]]
    for profile in range(PROFILES)
}
VIDEO_TABLE = pa.Table.from_pylist(
    [
        {
            "video_id": i,
            "title": f"Video {i}",
            "genres": ["Drama"],
            "release_year": 2000 + i % 20,
            "runtime_minutes": 90.0,
            "popularity": float(_random.random()),
        }
        for i in range(58)  # two videos are not in the catalogue yet
    ],
    schema=pa.schema(list(VIDEOS.type)),
)
CATALOGUE = pa.array([VIDEO_TABLE.to_pylist()], pa.list_(VIDEOS.type))


def data_maps(profiles: Sequence[int], times: Sequence[datetime] | None = None, seed: int = 0) -> DataMaps:
    """Build data maps of profiles; profile 3's history and profile 5's list are absent."""
    random = np.random.default_rng(seed)
    n = len(profiles)
    contexts = pa.table(
        {
            "profile_id": pa.array(profiles, pa.int64()),
            "country": pa.array(["US" if p % 2 else None for p in profiles], pa.string()),
            "time": pa.array(times or [NOW] * n, pa.timestamp("us", "UTC")),
        }
    )
    items = pa.table({"video_id": np.concatenate([random.permutation(60)[:PER_CONTEXT] for _ in range(n)])})
    elements = {
        "viewing_history": _element([None if p == 3 else HISTORIES[p] for p in profiles], VIEWING_HISTORY.type),
        "my_list": _element([None if p == 5 else LISTS[p] for p in profiles], MY_LIST.type),
        "videos": Element(CATALOGUE, np.zeros(n, dtype=np.int64)),
    }
    return DataMaps(contexts, items, np.arange(0, n * PER_CONTEXT + 1, PER_CONTEXT), elements)


def _element(values: list[Any], type: pa.DataType) -> Element:  # noqa: A002
    present = [value for value in values if value is not None]
    rows = np.cumsum([value is not None for value in values]) - 1
    return Element(pa.array(present, type), np.where([v is not None for v in values], rows, -1).astype(np.int64))


@cache
def ranking_data() -> RankingData:
    """Return what profiles would rather watch: popular, listed videos."""
    profiles = list(range(PROFILES)) * 8
    times = [NOW - timedelta(minutes=i) for i in range(len(profiles))]
    maps = data_maps(profiles, times)
    features = matrix(MODEL.features, MODEL.bind(CONTEXT, ITEMS).encode(maps))
    known = np.nan_to_num(features)
    wanted = 3 * known[:, 3] + 2 * known[:, 2] - 0.02 * known[:, 0] - 2
    labels: NDArray[np.float32] = (np.random.default_rng(1).random(len(wanted)) < 1 / (1 + np.exp(-wanted))).astype(
        np.float32
    )
    return RankingData(maps.contexts, maps.items, maps.item_offsets, labels, features, MODEL.features)


@cache
def train_company() -> TrainedModel:
    """Train the default model."""
    return train(ranking_data())


def write_company(path: Path, trained: TrainedModel) -> ModelPackage:
    lineage = Lineage({"path": "labels"}, {"path": "features", "version": 0}, {"my_list": ["run-1"]}, {}, "abc")
    golden = data_maps(range(PROFILES))
    return write_package(
        path, trained, MODEL, CONTEXT, ITEMS, SERVICES, golden, lineage, golden_contexts=12, modules=MODULES
    )


@cache
def train_candidate() -> TrainedModel:
    """Train a model that reads only lists and videos."""
    data = ranking_data()
    columns = [MODEL.features.index(name) for name in CANDIDATE.features]
    features = np.ascontiguousarray(data.features[:, columns])
    return train(replace(data, features=features, names=CANDIDATE.features))


def write_candidate(path: Path) -> ModelPackage:
    lineage = Lineage({"path": "labels"}, {"path": "features", "version": 1}, {"my_list": ["run-1"]}, {}, "def")
    golden = data_maps(range(PROFILES))
    elements = {name: golden.elements[name] for name in CANDIDATE.elements}
    golden = replace(golden, elements=elements)
    trained = train_candidate()
    return write_package(
        path, trained, CANDIDATE, CONTEXT, ITEMS, SERVICES, golden, lineage, golden_contexts=12, modules=MODULES
    )

"""Compiled encoders give the bits that their plain Python source gives, over random data maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import DataMaps, Element, FeatureModel, feature_encoder
from encoders.bound_model import BoundModel
from encoders.compilation.interpret import PlainArray
from encoders.library import ALL
from encoders.library.keys import (
    COUNTRY,
    DEVICE,
    MY_LIST,
    PREDICTED_RATINGS,
    PROFILE_ID,
    SEARCH_RESULTS,
    SEED_ID,
    SIMILAR_VIDEOS,
    VIDEO_ID,
    VIDEOS,
    VIEWING_HISTORY,
)
from schemas.data_keys import DataKey, Kind
from schemas.errors import EncoderError

DAY = 86_400_000_000
NOW = 1_700_000_000_000_000
IDS = st.integers(-2, 5)
TIMES = st.integers(-40, 3).map(lambda days: NOW + days * DAY) | st.integers(NOW - 3, NOW + 3)
FLOATS = st.none() | st.floats(-1000, 1000, width=32) | st.floats(width=32)
TEXTS = st.none() | st.sampled_from(["phone", "tv", "the great film", "great small film", "", "ünïcode film"])
VIDEO = st.fixed_dictionaries(
    {
        "title": TEXTS,
        "genres": st.lists(TEXTS, max_size=3),
        "release_year": st.integers(1900, 2030),
        "runtime_minutes": FLOATS,
        "popularity": FLOATS,
    }
)


def listed(**fields: Any) -> st.SearchStrategy[list[dict[str, Any]] | None]:
    return st.none() | st.lists(st.fixed_dictionaries(fields), max_size=6)


def version() -> st.SearchStrategy[list[dict[str, Any]]]:
    tables = st.dictionaries(IDS, VIDEO, max_size=5)
    return tables.map(lambda table: [{"video_id": i, **table[i]} for i in sorted(table)])


VALUES: dict[DataKey, st.SearchStrategy[Any]] = {
    VIEWING_HISTORY: listed(video_id=IDS, minutes=FLOATS, watched_at=TIMES),
    MY_LIST: listed(video_id=IDS, added_at=TIMES),
    PREDICTED_RATINGS: listed(video_id=IDS, rating=FLOATS),
    SEARCH_RESULTS: listed(video_id=IDS, score=FLOATS),
    SIMILAR_VIDEOS: listed(video_id=IDS, score=FLOATS),
    VIDEOS: version(),
}


@st.composite
def random_maps(draw: st.DrawFn) -> DataMaps:
    n = draw(st.integers(0, 4))
    items = draw(st.lists(st.lists(IDS, max_size=4), min_size=n, max_size=n))
    context = {
        "profile_id": pa.array(draw(st.lists(IDS, min_size=n, max_size=n)), pa.int64()),
        "country": pa.array(draw(st.lists(TEXTS, min_size=n, max_size=n)), pa.string()),
        "device": pa.array(draw(st.lists(TEXTS, min_size=n, max_size=n)), pa.string()),
        "seed_id": pa.array(draw(st.lists(IDS, min_size=n, max_size=n)), pa.int64()),
        "time": pa.array(draw(st.lists(TIMES, min_size=n, max_size=n)), pa.timestamp("us", "UTC")),
    }
    elements = {}
    for key, values in VALUES.items():
        kind = pa.list_(key.type) if key.kind is Kind.GLOBAL_ELEMENT else key.type
        some, before = draw(st.lists(values, max_size=3)), draw(st.integers(0, 1))
        array = pa.array([*draw(st.lists(values, min_size=before, max_size=before)), *some], kind).slice(before)
        rows = draw(st.lists(st.integers(-1, len(some) - 1), min_size=n, max_size=n))
        elements[key.name] = Element(array, np.array(rows, dtype=np.int64))
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in items], dtype=np.int64)]).astype(np.int64)
    return DataMaps(
        pa.table(context),
        pa.table({"video_id": pa.array([i for some in items for i in some], pa.int64())}),
        offsets,
        elements,
    )


@feature_encoder(data=[PREDICTED_RATINGS], features=["float_sum", "float_product", "integer_work", "powers"])
def arithmetic(context, items, data, out):
    """What differs most easily: single precision, integer division, remainders, powers, comparisons with NaN."""
    predicted = data.predicted_ratings
    for i in range(len(items.video_id)):
        total = 0.0
        product = 1.0
        work = 0
        powers = 0.0
        for j in range(len(predicted.rating)):
            a, b = predicted.rating[j], predicted.rating[j - 1]
            if abs(a) < 1e6 and abs(b) < 1e6:
                total += a - b * 0.1 + (a + b) / 3
                product = product * a * b % 7.5 if a != b else -product
                powers += math.sqrt(abs(a)) + abs(a) ** 0.3 + math.exp(-abs(b)) + math.log(1 + abs(b)) + a // 0.7
            work += (items.video_id[i] * 7 - predicted.video_id[j]) // 3 % 5 + (work >> 1)
        out.float_sum[i] = total
        out.float_product[i] = product
        out.integer_work[i] = work
        out.powers[i] = powers


@pytest.fixture(scope="module")
def bound(cache: Path) -> BoundModel:
    return FeatureModel([*ALL, arithmetic]).bind([PROFILE_ID, COUNTRY, DEVICE, SEED_ID], [VIDEO_ID], cache)


@settings(max_examples=150, deadline=None)
@given(maps=random_maps())
def test_compiled_equals_interpreted_bit_for_bit(bound: BoundModel, maps: DataMaps) -> None:
    compiled, interpreted = bound.encode(maps), bound.interpret(maps)
    assert list(compiled) == list(interpreted) == list(bound.features)
    for feature, values in compiled.items():
        other = interpreted[feature]
        nan = np.isnan(values)
        assert len(values) == maps.items.num_rows
        assert (nan == np.isnan(other)).all(), feature
        assert values[~nan].tobytes() == other[~nan].tobytes(), feature


@settings(max_examples=50, deadline=None)
@given(maps=random_maps())
def test_a_batch_gives_what_its_contexts_give_one_by_one(bound: BoundModel, maps: DataMaps) -> None:
    """Offline a partition is encoded, online one request: an encoder must not see the difference."""
    together = bound.encode(maps)
    for i in range(len(maps)):
        first, end = int(maps.item_offsets[i]), int(maps.item_offsets[i + 1])
        elements = {}
        for name, element in maps.elements.items():
            row = int(element.rows[i])
            values = element.values.slice(max(row, 0), 1 if row >= 0 else 0)
            elements[name] = Element(pa.array(values.to_pylist(), values.type), np.array([0 if row >= 0 else -1]))
        alone = bound.encode(
            DataMaps(
                maps.contexts.slice(i, 1), maps.items.slice(first, end - first), np.array([0, end - first]), elements
            )
        )
        for feature, values in alone.items():
            assert values.tobytes() == together[feature][first:end].tobytes(), feature


def test_elements_of_plain_arrays_are_pythons_own_numbers() -> None:
    array = PlainArray.of(np.array([1.0, 2.0], dtype=np.float32))
    assert type(array[0]) is float
    assert [type(x) for x in array] == [float, float]
    assert type(array.sum()) is float
    assert isinstance(array[:1], PlainArray)
    assert (array * 2).tolist() == [2.0, 4.0]


def test_no_encoder_can_change_its_input(cache: Path, define: Callable[..., dict[str, Any]]) -> None:
    source = """
def spoil(values):
    values[0] = 9

@feature_encoder(features=["f"])
def f(context, items, data, out):
    out.f[0] = 1
    spoil(items.video_id)
"""
    bound = FeatureModel([define(source, feature_encoder=feature_encoder)["f"]]).bind([], [VIDEO_ID], cache)
    time = pa.array([0], pa.timestamp("us", "UTC"))
    maps = DataMaps(pa.table({"time": time}), pa.table({"video_id": [1]}), np.array([0, 1]), {})
    with pytest.raises(EncoderError, match="readonly array"):
        bound.encode(maps)
    with pytest.raises(EncoderError, match="read-only"):
        bound.interpret(maps)

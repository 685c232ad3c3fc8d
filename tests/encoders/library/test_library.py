"""The library's features against straightforward oracles over Python objects, pandas and Polars."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from encoders import DataMaps, Element, FeatureModel
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

DAY = pd.Timedelta(days=1)
NOW = pd.Timestamp("2026-03-01", tz="UTC")
NAN = math.nan
GENRES = ["comedy", "drama", "crime", "family"]
WORDS = ["night", "train", "river", "of", "golden", "x2", "NIGHT"]
Row = dict[str, Any]


def random_maps(seed: int, contexts: int = 40) -> DataMaps:
    g = np.random.default_rng(seed)

    def time_before() -> pd.Timestamp:
        # Whole days at times, so that windows are met at their very edge; some lie after the context's time.
        return NOW - pd.Timedelta(days=int(g.integers(-3, 45))) - pd.Timedelta(seconds=int(g.integers(0, 2)) * 3600)

    def number() -> float | None:
        return None if g.random() < 0.05 else float(np.float32(g.random() * 90))

    def video(i: int) -> Row:
        return {
            "video_id": i,
            "title": None if g.random() < 0.1 else " ".join(g.choice(WORDS, 3)),
            "genres": list(g.choice(GENRES, g.integers(0, 3), replace=False)),
            "release_year": int(g.integers(1950, 2026)),
            "runtime_minutes": number(),
            "popularity": number(),
        }

    def some(most: int, make: Callable[[], Row]) -> list[Row] | None:
        return None if g.random() < 0.1 else [make() for _ in range(g.integers(0, most))]

    def known() -> int:
        return int(g.integers(0, 14))

    def minutes() -> float:
        return float(np.float32(g.random() * 90))

    values: dict[Any, list[Any]] = {
        VIEWING_HISTORY: [
            some(30, lambda: {"video_id": known(), "minutes": minutes(), "watched_at": time_before()})
            for _ in range(contexts)
        ],
        MY_LIST: [some(6, lambda: {"video_id": known(), "added_at": time_before()}) for _ in range(contexts)],
        PREDICTED_RATINGS: [some(15, lambda: {"video_id": known(), "rating": number()}) for _ in range(contexts)],
        SEARCH_RESULTS: [some(15, lambda: {"video_id": known(), "score": minutes()}) for _ in range(contexts)],
        SIMILAR_VIDEOS: [some(15, lambda: {"video_id": known(), "score": minutes()}) for _ in range(contexts)],
    }
    elements = {key.name: Element(pa.array(v, key.type), np.arange(contexts)) for key, v in values.items()}
    tables = [[video(i) for i in range(12)], [video(i) for i in range(1, 9)]]
    elements["videos"] = Element(pa.array(tables, pa.list_(VIDEOS.type)), g.integers(-1, 2, contexts))
    items = [g.permutation(14)[: g.integers(0, 8)].tolist() for _ in range(contexts)]
    table = pa.table(
        {
            "profile_id": list(range(contexts)),
            "country": ["US"] * contexts,
            "device": pa.array(g.choice(["phone", "tv", "tablet"], contexts)),
            "seed_id": g.integers(-1, 13, contexts),
            "time": pa.array([NOW] * contexts, pa.timestamp("us", "UTC")),
        }
    )
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in items])]).astype(np.int64)
    return DataMaps(
        table, pa.table({"video_id": pa.array([i for s in items for i in s], pa.int64())}), offsets, elements
    )


def history_oracle(shown: Row) -> dict[str, list[float]]:
    """With pandas, candidate by candidate."""
    history = pd.DataFrame(shown["viewing_history"] or [], columns=["video_id", "minutes", "watched_at"])
    history["watched_at"] = pd.to_datetime(history["watched_at"], utc=True)
    history = history[history["watched_at"] <= NOW]
    age = NOW - history["watched_at"]
    found: dict[str, list[float]] = {}
    for video_id in shown["video_id"]:
        own = history["video_id"] == video_id
        plays = int(own.sum())
        row = {
            "minutes_watched": history[own & (age <= 30 * DAY)]["minutes"].sum(),
            "times_watched": plays,
            "days_since_watched": age[own].min() / DAY if plays else NAN,
            "plays_7d": (age <= 7 * DAY).sum(),
            "plays_30d": (age <= 30 * DAY).sum(),
            "recency_weighted_plays": (0.5 ** (age[own] / DAY / 14)).sum(),
        }
        for name, value in row.items():
            found.setdefault(name, []).append(float(value))
    return found


def ratings_oracle(shown: Row) -> dict[str, list[float]]:
    """With Polars: join the candidates with the first prediction of each video."""
    schema = {"video_id": pl.Int64, "rating": pl.Float64}
    predicted = pl.DataFrame(shown["predicted_ratings"] or [], schema=schema)
    joined = pl.DataFrame({"video_id": shown["video_id"]}, schema={"video_id": pl.Int64}).join(
        predicted.unique("video_id", keep="first"), on="video_id", how="left", maintain_order="left"
    )
    mean = predicted["rating"].mean()
    rank = joined["rating"].rank("min", descending=True)
    return {
        "predicted_rating": joined["rating"].fill_null(NAN).to_list(),
        "predicted_rating_above_mean": (joined["rating"] - (NAN if mean is None else mean)).fill_null(NAN).to_list(),
        "predicted_rating_rank": rank.cast(pl.Float64).fill_null(NAN).to_list(),
    }


def results_oracle(shown: Row) -> dict[str, list[float]]:
    """With lists: a video's first result counts."""
    found: dict[str, list[float]] = {}
    for element, prefix in (("search_results", "search"), ("similar_videos", "co_watched")):
        results = shown[element] or []
        ids = [result["video_id"] for result in results]
        ranks = [ids.index(video_id) if video_id in ids else None for video_id in shown["video_id"]]
        found[f"{prefix}_score"] = [NAN if rank is None else results[rank]["score"] for rank in ranks]
        found[f"{prefix}_rank"] = [NAN if rank is None else rank + 1.0 for rank in ranks]
    return found


def words(title: str | None) -> set[str]:
    return {word for word in re.split(r"[^a-z]+", (title or "").lower()) if len(word) >= 3}


def metadata_oracle(shown: Row) -> dict[str, list[float]]:
    """With dicts and sets."""
    videos = {video["video_id"]: video for video in shown["videos"] or []}
    history = [play for play in shown["viewing_history"] or [] if play["watched_at"] <= NOW]
    wanted = [entry for entry in shown["my_list"] or [] if entry["added_at"] <= NOW]
    in_catalogue = [play for play in history if play["video_id"] in videos]
    total = sum(play["minutes"] for play in in_catalogue)
    all_minutes = sum(play["minutes"] for play in history)
    late = [p for p in in_catalogue if NOW - p["watched_at"] <= 30 * DAY]
    seed = videos.get(shown["seed_id"])
    seed_genres = set(seed["genres"]) if seed else set()
    watched_words = set().union(*(words(videos[p["video_id"]]["title"]) for p in late))
    found: dict[str, list[float]] = {}
    for video_id in shown["video_id"]:
        video = videos.get(video_id)
        genres = set(video["genres"]) if video else set()
        alike = sum(p["minutes"] for p in in_catalogue if genres & set(videos[p["video_id"]]["genres"]))
        entry = next((e for e in wanted if e["video_id"] == video_id), None)
        title = words(video["title"]) if video else set()
        runtime = NAN if video is None or video["runtime_minutes"] is None else video["runtime_minutes"]
        small = shown["device"] == "phone"
        since_1970 = (NOW - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=365.2425)
        row = {
            "in_my_list": NAN if shown["my_list"] is None else float(entry is not None),
            "days_in_my_list": (NOW - entry["added_at"]) / DAY if entry else NAN,
            "genre_affinity": alike / total if total else 0.0,
            "same_genre_in_my_list": sum(
                bool(genres & set(videos[e["video_id"]]["genres"]))
                for e in wanted
                if e["video_id"] in videos and e["video_id"] != video_id
            ),
            "popularity": NAN if video is None or video["popularity"] is None else video["popularity"],
            "runtime_minutes": runtime,
            "years_since_release": 1970 + since_1970 - video["release_year"] if video else NAN,
            "short_enough_for_device": NAN if video is None else float(not small or runtime <= 45),
            "runtime_over_usual": runtime * len(history) / all_minutes if all_minutes else NAN,
            "seed_genres": NAN
            if video is None or seed is None
            else len(genres & seed_genres) / max(1, len(genres | seed_genres)),
            "seed_years": NAN if video is None or seed is None else abs(video["release_year"] - seed["release_year"]),
            "title_overlap": len(title & watched_words) / len(title | watched_words) if title | watched_words else 0.0,
        }
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_feature_of_the_library_is_what_its_oracle_says(seed: int, cache: Path) -> None:
    maps = random_maps(seed)
    model = FeatureModel(ALL)
    found = model.bind([PROFILE_ID, COUNTRY, DEVICE, SEED_ID], [VIDEO_ID], cache).encode(maps)
    expected: dict[str, list[float]] = {feature: [] for feature in model.features}
    for i in range(len(maps)):
        shown = maps.data_map(i)
        if shown["video_id"]:
            for oracle in (history_oracle, ratings_oracle, results_oracle, metadata_oracle):
                for feature, values in oracle(shown).items():
                    expected[feature] += values
    for feature, values in expected.items():
        assert len(values) == maps.items.num_rows > 100, feature
        np.testing.assert_allclose(found[feature], values, rtol=2e-5, atol=1e-6, err_msg=feature)
        assert np.isfinite(found[feature]).mean() > 0.05, f"{feature} is hardly ever there: the test shows nothing"


def test_the_library_has_the_breadth_that_the_demo_needs() -> None:
    model = FeatureModel(ALL)
    assert len(model.encoders) >= 10
    assert len(model.features) >= 15
    assert [encoder.name for encoder in model.encoders if not encoder.compiled] == [
        "encoders.library.text:title_overlap"
    ]

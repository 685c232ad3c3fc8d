"""Generates videos and profiles, with the latent tastes and qualities that drive choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.demo.world import DAY, Floats, Ints, table

GENRES: Final = (
    "Action",
    "Animation",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Family",
    "Fantasy",
    "Horror",
    "Mystery",
    "Romance",
    "Science Fiction",
)
COUNTRIES: Final = {"US": 0.28, "BR": 0.18, "DE": 0.16, "IN": 0.15, "JP": 0.12, "FR": 0.11}
DEVICES: Final = {"tv": 0.45, "phone": 0.35, "tablet": 0.12, "web": 0.08}

_HIDDEN: Final = 5  # latent tastes that no genre expresses
# The words of titles.
_FIRST: Final = (
    "Silent, Golden, Broken, Last, Hidden, Midnight, Electric, Paper, Winter, Burning, Distant, Velvet, Little, Lost"
)
_SECOND: Final = (
    "River, Crown, City, Letter, Garden, Signal, Harbor, Train, Mirror, Summer, Horizon, Empire, Secret, Island"
)
_THIRD: Final = "of Glass, Rising, at Dawn, Returns, for Two, in the Dark, Forever, and the Sea, Unbound, Below"
_RELEASES: Final = 0.05  # share of the catalogue that is released around the days of the demo


@dataclass(frozen=True)
class Catalogue:
    """The videos.

    genres: (videos, genres), each row's weights sum to 1
    hidden: (videos, hidden tastes)
    available_from: microseconds, 0 for videos that were always available
    """

    table: pa.Table
    ids: NDArray[np.int64]
    genres: Floats
    hidden: Floats
    quality: Floats
    freshness: Floats
    runtime: Floats
    available_from: NDArray[np.int64]

    def similarity(self, seeds: Ints) -> Floats:
        """Compare seeds (rows of the catalogue) with every video: (seeds, videos), 1 for equal ones, 0 on average."""
        genres = self.genres / np.linalg.norm(self.genres, axis=1, keepdims=True)
        hidden = self.hidden / np.linalg.norm(self.hidden, axis=1, keepdims=True)
        alike: Floats = np.float32(0.6) * (genres[seeds] @ genres.T) + np.float32(0.4) * (hidden[seeds] @ hidden.T)
        return alike


@dataclass(frozen=True)
class People:
    """The profiles.

    fit: (profiles, videos), affinity; mean 0 and deviation 1 before quality
    activity: probability of watching on an evening
    temper: bias of the ratings
    """

    table: pa.Table
    ids: NDArray[np.int64]
    country: NDArray[Any]
    device: NDArray[Any]
    fit: Floats
    activity: Floats
    temper: Floats


def generate_catalogue(rng: np.random.Generator, videos: int, start: int, days: int) -> Catalogue:
    """Generate videos; some of them are released between ten days before `start` and the last of the days."""
    ids = np.sort(rng.choice(np.arange(10_000, 100_000), videos, replace=False))
    genres = _genre_weights(rng, videos)
    series = rng.random(videos) < 0.6
    runtime = np.where(series, rng.uniform(22, 58, videos), rng.normal(104, 18, videos).clip(70, 175)).round()
    year = 2025 - np.floor(rng.exponential(9, videos)).clip(0, 60)
    released = rng.random(videos) < _RELEASES
    release = start + ((rng.uniform(-10, days, videos)).round() * DAY).astype(np.int64)
    available = np.where(released, release, 0)
    year = np.where(released, 2025, year).astype(np.int32)
    titles = _titles(rng, videos)
    return Catalogue(
        table=table(
            "videos",
            {
                "video_id": ids,
                "title": titles,
                "genres": [[GENRES[g] for g in np.flatnonzero(row)] for row in genres],
                "release_year": year,
                "runtime_minutes": runtime,
                "available_from": [moment or None for moment in available.tolist()],
            },
        ),
        ids=ids,
        genres=genres,
        hidden=rng.normal(size=(videos, _HIDDEN)).astype(np.float32),
        quality=rng.normal(size=videos).astype(np.float32),
        freshness=np.exp((year - 2025) / 6).astype(np.float32),
        runtime=runtime.astype(np.float32),
        available_from=available,
    )


def generate_people(rng: np.random.Generator, profiles: int, catalogue: Catalogue) -> People:
    """Generate profiles whose tastes depend on their country."""
    ids = np.sort(rng.choice(np.arange(1_000_000, 9_999_999), profiles, replace=False))
    country = rng.choice(len(COUNTRIES), profiles, p=list(COUNTRIES.values()))
    device = rng.choice(len(DEVICES), profiles, p=list(DEVICES.values()))
    national = rng.normal(0, 0.4, (len(COUNTRIES), len(GENRES)))
    taste = np.log(rng.dirichlet(np.full(len(GENRES), 0.5), profiles) + 0.02) + national[country]
    by_genre = _standardised(taste @ catalogue.genres.T)
    by_hidden = _standardised(rng.normal(size=(profiles, _HIDDEN)) @ catalogue.hidden.T)
    countries, devices = np.array(list(COUNTRIES)), np.array(list(DEVICES))
    columns = {"profile_id": ids, "country": countries[country], "device": devices[device]}
    return People(
        table=table("profiles", dict(columns)),
        ids=ids,
        country=columns["country"],
        device=columns["device"],
        fit=(0.8 * by_genre + 0.6 * by_hidden).astype(np.float32),
        activity=rng.beta(4, 2.2, profiles).astype(np.float32),
        temper=rng.normal(0, 0.35, profiles).astype(np.float32),
    )


def _genre_weights(rng: np.random.Generator, videos: int) -> Floats:
    """Give each video one to three genres, some genres more common than others."""
    common = rng.dirichlet(np.full(len(GENRES), 4.0))
    draws = rng.standard_exponential((videos, len(GENRES))) / common
    ranks = np.argsort(np.argsort(draws, axis=1), axis=1)
    has = ranks < rng.integers(1, 4, videos)[:, None]
    weights: Floats = (has / has.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _titles(rng: np.random.Generator, videos: int) -> list[str]:
    first, second, third = (words.split(", ") for words in (_FIRST, _SECOND, _THIRD))
    every = [f"{a} {b} {c}".strip() for a in first for b in second for c in ["", *third]]
    picks = rng.permutation(max(len(every), videos))[:videos]
    return [
        every[pick] if pick < len(every) else f"{every[pick % len(every)]} {pick // len(every) + 1}" for pick in picks
    ]


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = (values - values.mean()) / values.std()
    return scaled

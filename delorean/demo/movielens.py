"""Drives the demo's company from MovieLens: everybody's ratings, in their own order, on the company's time line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from delorean.demo.catalogue import COUNTRIES, DEVICES
from delorean.demo.homepages import Homepages
from delorean.demo.movielens_files import MovieLens, read_movielens
from delorean.demo.simulation import STARTS_AT
from delorean.demo.world import DAY, HISTORY_DAYS, HOUR, OUTCOME_HOURS, World, table
from schemas.errors import ConfigError
from snapshotter.records import to_micros

MAX_USERS: Final = 800
_BEFORE: Final = 0.7  # of everybody's ratings come before the first day
_AN_EVENING: Final = 5  # films, as many as one watches in an evening at most before the company's days are short
_SAME_SITTING: Final = 3600  # seconds between two ratings given in one sitting
_MINUTE: Final = 60_000_000
_MINUTES_A_STAR: Final = 24

Ints = NDArray[np.int64]


def movielens_world(folder: Path, seed: int, days: int = 7, max_users: int = MAX_USERS) -> World:
    """Read a MovieLens data set as a company's life of HISTORY_DAYS before the first day and `days` from it on.

    max_users: with more, that many users drawn by the seed
    Raises ConfigError that names the file and line of what is broken, and for fewer than 10 users.
    """
    data = read_movielens(folder, max_users, seed)
    people = np.unique(data.users)
    if len(people) < 10:
        raise ConfigError.because(f"{folder} has {len(people)} users, expected at least 10")
    rng = np.random.default_rng(seed)
    line = _time_line(data, days, rng)
    country = np.array(list(COUNTRIES))[rng.choice(len(COUNTRIES), len(people), p=list(COUNTRIES.values()))]
    device = np.array(list(DEVICES))[rng.choice(len(DEVICES), len(people), p=list(DEVICES.values()))]
    films = [data.films[movie] for movie in np.unique(data.movies).tolist()]
    first_rated = _first_years(data)
    homepages = Homepages(rng, len(people), films)
    videos = np.searchsorted(np.unique(data.movies), data.movies)
    homepages.live(np.searchsorted(people, data.users), videos, line.day, line.started_at, data.stars)
    who = homepages.impressions.pop("profile")
    entries = homepages.list_entries
    movie_ids = np.array([film.movie_id for film in films])
    return World(
        name="MovieLens",
        starts_at=STARTS_AT,
        days=days,
        notes=_notes(data, len(people), days),
        profiles=table("profiles", {"profile_id": people, "country": country, "device": device}),
        videos=table(
            "videos",
            {
                "video_id": movie_ids,
                "title": [film.title for film in films],
                "genres": [list(film.genres) for film in films],
                "release_year": [film.year or first_rated[film.movie_id] for film in films],
                "runtime_minutes": [None] * len(films),
                "available_from": [None] * len(films),
            },
        ),
        **_events(data, line),
        list_entries=table(
            "list_entries",
            {
                "profile_id": people[[entry.profile for entry in entries]],
                "video_id": movie_ids[[entry.video for entry in entries]],
                "added_at": [entry.added_at for entry in entries],
                "removed_at": [entry.removed_at for entry in entries],
            },
        ),
        impressions=table(
            "impressions",
            {
                "profile_id": people[who],
                "country": country[who],
                "device": device[who],
                "time": homepages.impressions["time"],
                "video_ids": [movie_ids[shown] for shown in homepages.impressions["videos"]],
            },
        ),
    )


@dataclass(frozen=True)
class _TimeLine:
    """When each rating of a MovieLens happens in the company's life. day: 0 is the first day; times: microseconds."""

    day: Ints
    started_at: Ints
    watched_at: Ints


def _time_line(data: MovieLens, days: int, rng: np.random.Generator) -> _TimeLine:
    """Lay everybody's ratings, in their own order, on the company's evenings."""
    people, first, who, counts = np.unique(data.users, return_index=True, return_inverse=True, return_counts=True)
    rank = np.arange(len(who)) - first[who]
    later = np.minimum((counts * (1 - _BEFORE)).astype(np.int64), days * _AN_EVENING)
    after = rank >= (counts - later)[who]
    part = 2 * who + after  # each person's past and each person's days: two parts with evenings of their own
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    gap = np.diff(data.seconds, prepend=data.seconds[0]) > _SAME_SITTING
    sitting = _since_last(np.isin(np.arange(len(who)), starts) | gap)
    evening = np.cumsum(sitting % _AN_EVENING == 0) - 1  # numbers every evening of everybody
    first_evening = np.zeros(2 * len(people), dtype=np.int64)
    first_evening[part[starts]] = evening[starts]
    evenings = np.bincount(part, weights=sitting % _AN_EVENING == 0, minlength=2 * len(people))
    length = np.where(after, days, HISTORY_DAYS)
    place = (evening - first_evening[part] + rng.random(int(evening[-1]) + 1)[evening]) / evenings[part]
    day = np.floor(place * length).astype(np.int64) - np.where(after, 0, HISTORY_DAYS)
    return _evening_times(who, day, rng)


def _evening_times(who: Ints, day: Ints, rng: np.random.Generator) -> _TimeLine:
    """Start each evening at an hour of its own and let its films follow one another within the outcome's hours."""
    begins = (np.diff(who, prepend=-1) != 0) | (np.diff(day, prepend=day[0]) != 0)
    number = np.cumsum(begins) - 1
    size = np.bincount(number)
    hours = rng.uniform(17.1, 19.6, len(size))
    spacing = np.minimum(45 * _MINUTE, (OUTCOME_HOURS - 0.5) * HOUR / size).astype(np.int64)
    opened = to_micros(STARTS_AT) + day * DAY + (hours * HOUR).astype(np.int64)[number]
    started = opened + _since_last(begins) * spacing[number] + _MINUTE
    return _TimeLine(day, started, started + spacing[number] - 1)


def _since_last(marks: NDArray[np.bool_]) -> Ints:
    """Count the places since the last mark; the first place is marked."""
    places = np.arange(len(marks))
    since: Ints = places - np.maximum.accumulate(np.where(marks, places, 0))
    return since


def _events(data: MovieLens, line: _TimeLine) -> dict[str, Any]:
    events: dict[str, NDArray[Any]] = {"profile_id": data.users, "video_id": data.movies, "started_at": line.started_at}
    plays = {**events, "watched_at": line.watched_at, "minutes": data.stars * _MINUTES_A_STAR}
    ratings = {**events, "rating": data.stars, "rated_at": line.watched_at + 1}
    order = np.lexsort((data.users, line.watched_at))
    return {
        name: table(name, {key: values[order] for key, values in columns.items()})
        for name, columns in {"plays": plays, "ratings": ratings}.items()
    }


def _first_years(data: MovieLens) -> dict[int, int]:
    """Give the year of each film's first rating: what stands in for a year that its title does not say."""
    movies, place = np.unique(data.movies, return_inverse=True)
    first = np.full(len(movies), np.iinfo(np.int64).max)
    np.minimum.at(first, place, data.seconds)
    years = first.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    return dict(zip(movies.tolist(), years.tolist(), strict=True))


def _notes(data: MovieLens, people: int, days: int) -> tuple[str, ...]:
    return (
        f"{len(data.stars):,} ratings of {people:,} users"
        + (f", drawn by seed from {data.users_published:,}" if people < data.users_published else "")
        + ", each taken as one film watched. Most people there rate in one or two bursts, years apart, so calendar "
        "time is given up: only each person's own order is kept.",
        f"The first {_BEFORE:.0%} of everybody's ratings are spread over the {HISTORY_DAYS} evenings before the first "
        f"day, the rest (at most {days * _AN_EVENING}) over the {days} evenings from it on; ratings of one sitting "
        f"stay together, up to {_AN_EVENING} films an evening, more only where there are too few evenings.",
        "Popularity and predicted ratings are computed from what had happened by then on this time line.",
        f"MovieLens has no minutes, lists, homepages, countries and devices. Minutes are {_MINUTES_A_STAR} a star. "
        "Lists hold what was popular by then in genres watched by then. A homepage shows what was played that evening "
        "beside unseen films, six of ten drawn by popularity, three from the person's genres, one at random. "
        "Countries and devices are drawn by seed.",
    )

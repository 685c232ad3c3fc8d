"""Builds a world from MovieLens: each user's ratings, in their order, mapped to the company's time line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.demo.catalogue import COUNTRIES, DEVICES
from delorean.demo.homepages import Homepages, ListEntry
from delorean.demo.movielens_files import MovieLens, read_movielens
from delorean.demo.notifications import with_notifications
from delorean.demo.searches import with_searches
from delorean.demo.simulation import STARTS_AT
from delorean.demo.world import DAY, HISTORY_DAYS, HOUR, OUTCOME_HOURS, Ints, World, table
from schemas.errors import ConfigError
from snapshotter.records import to_micros

_MOST_USERS: Final = 800
_BEFORE: Final = 0.7  # share of each user's ratings that come before the first day
_AN_EVENING: Final = 5  # films in an evening, unless there are too few evenings
_SAME_SITTING: Final = 3600  # seconds between two ratings given in one sitting
_MINUTE: Final = 60_000_000
_MINUTES_A_STAR: Final = 24


def movielens_world(folder: Path, seed: int, days: int = 7) -> World:
    """Read a MovieLens data set as a world of HISTORY_DAYS before the first day and `days` from it on.

    Of a data set with more than 800 users, as many are sampled by seed.

    Raises ConfigError that names the file and line of what is broken, and for fewer than 10 users.
    """
    data = read_movielens(folder, _MOST_USERS, seed)
    people = np.unique(data.users)
    if len(people) < 10:
        raise ConfigError.because(f"{folder} has {len(people)} users, expected at least 10")
    rng = np.random.default_rng(seed)
    line = _time_line(data, days, rng)
    country = np.array(list(COUNTRIES))[rng.choice(len(COUNTRIES), len(people), p=list(COUNTRIES.values()))]
    device = np.array(list(DEVICES))[rng.choice(len(DEVICES), len(people), p=list(DEVICES.values()))]
    homepages = _homepages(data, people, line, rng)
    world = World(
        name="MovieLens",
        starts_at=STARTS_AT,
        days=days,
        notes=_notes(data, len(people), days),
        profiles=table("profiles", {"profile_id": people, "country": country, "device": device}),
        videos=_videos(data),
        **_events(data, line),
        list_entries=_list_entries(homepages.list_entries, people, np.unique(data.movies)),
        impressions=_impressions(homepages.impressions, people, np.unique(data.movies), country, device),
        pages=_pages(homepages.pages, people, np.unique(data.movies), country),
    )
    return with_notifications(with_searches(world, seed), seed)


def _homepages(data: MovieLens, people: Ints, line: _TimeLine, rng: np.random.Generator) -> Homepages:
    """Simulate homepages and lists for all plays."""
    homepages = Homepages(rng, len(people), [data.films[movie] for movie in np.unique(data.movies).tolist()])
    videos = np.searchsorted(np.unique(data.movies), data.movies)
    homepages.live(np.searchsorted(people, data.users), videos, line.day, line.started_at, data.stars)
    return homepages


def _videos(data: MovieLens) -> pa.Table:
    films = [data.films[movie] for movie in np.unique(data.movies).tolist()]
    first_rated = _first_years(data)
    return table(
        "videos",
        {
            "video_id": [film.movie_id for film in films],
            "title": [film.title for film in films],
            "genres": [list(film.genres) for film in films],
            "release_year": [film.year or first_rated[film.movie_id] for film in films],
            "runtime_minutes": [None] * len(films),
            "available_from": [None] * len(films),
        },
    )


def _list_entries(entries: Sequence[ListEntry], people: Ints, movie_ids: Ints) -> pa.Table:
    return table(
        "list_entries",
        {
            "profile_id": people[[entry.profile for entry in entries]],
            "video_id": movie_ids[[entry.video for entry in entries]],
            "added_at": [entry.added_at for entry in entries],
            "removed_at": [entry.removed_at for entry in entries],
        },
    )


def _impressions(
    shown: Mapping[str, Any], people: Ints, movie_ids: Ints, country: NDArray[Any], device: NDArray[Any]
) -> pa.Table:
    who = shown["profile"]
    return table(
        "impressions",
        {
            "profile_id": people[who],
            "country": country[who],
            "device": device[who],
            "time": shown["time"],
            "video_ids": [movie_ids[videos] for videos in shown["videos"]],
        },
    )


def _pages(opened: Mapping[str, Any], people: Ints, movie_ids: Ints, country: NDArray[Any]) -> pa.Table:
    who = opened["profile"]
    return table(
        "pages",
        {
            "seed_id": movie_ids[opened["seed"]],
            "profile_id": people[who],
            "country": country[who],
            "time": opened["time"],
            "video_ids": [movie_ids[videos] for videos in opened["videos"]],
        },
    )


@dataclass(frozen=True)
class _TimeLine:
    """When each rating happens in the world. day: 0 is the first day; times: microseconds."""

    day: Ints
    started_at: Ints
    watched_at: Ints


def _time_line(data: MovieLens, days: int, rng: np.random.Generator) -> _TimeLine:
    """Assign each user's ratings, in their order, to evenings."""
    people, first, who, counts = np.unique(data.users, return_index=True, return_inverse=True, return_counts=True)
    rank = np.arange(len(who)) - first[who]
    later = np.minimum((counts * (1 - _BEFORE)).astype(np.int64), days * _AN_EVENING)
    after = rank >= (counts - later)[who]
    part = 2 * who + after  # each user has two parts with separate evenings: before and from the first day
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    gap = np.diff(data.seconds, prepend=data.seconds[0]) > _SAME_SITTING
    sitting = _since_last(np.isin(np.arange(len(who)), starts) | gap)
    evening = np.cumsum(sitting % _AN_EVENING == 0) - 1  # numbers the evenings of all users
    first_evening = np.zeros(2 * len(people), dtype=np.int64)
    first_evening[part[starts]] = evening[starts]
    evenings = np.bincount(part, weights=sitting % _AN_EVENING == 0, minlength=2 * len(people))
    length = np.where(after, days, HISTORY_DAYS)
    place = (evening - first_evening[part] + rng.random(int(evening[-1]) + 1)[evening]) / evenings[part]
    day = np.floor(place * length).astype(np.int64) - np.where(after, 0, HISTORY_DAYS)
    return _evening_times(who, day, rng)


def _evening_times(who: Ints, day: Ints, rng: np.random.Generator) -> _TimeLine:
    """Start each evening at a random hour; its films follow one another within the outcome window."""
    begins = (np.diff(who, prepend=-1) != 0) | (np.diff(day, prepend=day[0]) != 0)
    number = np.cumsum(begins) - 1
    size = np.bincount(number)
    hours = rng.uniform(17.1, 19.6, len(size))
    spacing = np.minimum(45 * _MINUTE, (OUTCOME_HOURS - 0.5) * HOUR / size).astype(np.int64)
    opened = to_micros(STARTS_AT) + day * DAY + (hours * HOUR).astype(np.int64)[number]
    started = opened + _since_last(begins) * spacing[number] + _MINUTE
    return _TimeLine(day, started, started + spacing[number] - 1)


def _since_last(marks: NDArray[np.bool_]) -> Ints:
    """Count the positions since the last mark; the first position is marked."""
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
    """Return the year of each film's first rating, used where the title has no year."""
    movies, place = np.unique(data.movies, return_inverse=True)
    first = np.full(len(movies), np.iinfo(np.int64).max)
    np.minimum.at(first, place, data.seconds)
    years = first.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    return dict(zip(movies.tolist(), years.tolist(), strict=True))


def _notes(data: MovieLens, people: int, days: int) -> tuple[str, ...]:
    return (
        f"{len(data.stars):,} ratings of {people:,} users"
        + (f", sampled by seed from {data.users_published:,}" if people < data.users_published else "")
        + ", each taken as one film watched. Most users rate in one or two bursts, years apart, so calendar time is "
        "dropped and only the order within each user is kept.",
        f"The first {_BEFORE:.0%} of each user's ratings are spread over the {HISTORY_DAYS} evenings before the first "
        f"day, the rest (at most {days * _AN_EVENING}) over the {days} evenings from it on; ratings of one sitting "
        f"stay together, up to {_AN_EVENING} films an evening, more only where there are too few evenings.",
        "Popularity and predicted ratings are computed from earlier events on this time line.",
        f"MovieLens has no minutes, lists, homepages, countries and devices. Minutes are {_MINUTES_A_STAR} a star. "
        "Lists hold what was popular by then in genres watched by then. A homepage shows what was played that evening "
        "beside unseen films, six of ten drawn by popularity, three from the person's genres, one at random. The "
        "page of an evening's first film, if opened, shows the second beside unseen ones of its genres. "
        "Countries, devices and searches, for a genre or a word of a title, are drawn by seed.",
    )

"""Simulates lists, homepages and films' pages, which MovieLens does not publish, from events up to each moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from delorean.demo.movielens_files import Movie
from delorean.demo.world import Ints

SHOWN: Final = 20
MOST_PLAYED_SHOWN: Final = 10
SIMILAR_SHOWN: Final = 10  # on a film's page
_FADES: Final = 0.88  # popularity, a day
_OPENS_PAGE: Final = 0.5  # chance that the first film of an evening leads to the second by its page
_ADDS: Final = 0.5  # chance that somebody puts a film into the list after an evening
_MINUTE: Final = 60_000_000


@dataclass
class ListEntry:
    """An entry of a list; profile and video are positions, times are microseconds."""

    profile: int
    video: int
    added_at: int
    removed_at: int | None = None


class Homepages:
    """Processes evenings in order, so that no draw depends on the future.

    Afterwards `impressions` has the profile, time and videos (positions) of each homepage from day 0 on, with fewer
    than SHOWN videos where almost all have been seen, `pages` those of each film's page that was opened, and
    `list_entries` every entry of every list.
    """

    def __init__(self, rng: np.random.Generator, profiles: int, films: Sequence[Movie]) -> None:
        self.rng = rng
        genres = sorted({genre for film in films for genre in film.genres}) or ["none"]
        self.has = np.array([[genre in film.genres for genre in genres] for film in films], dtype=bool)
        self.popularity = np.zeros(len(films))
        self.liking = np.zeros((profiles, len(genres)))
        self.seen: list[set[int]] = [set() for _ in range(profiles)]
        self.open_entries: list[dict[int, ListEntry]] = [{} for _ in range(profiles)]
        self.list_entries: list[ListEntry] = []
        self.impressions: dict[str, Any] = {"profile": [], "time": [], "videos": []}
        self.pages: dict[str, Any] = {"profile": [], "time": [], "videos": [], "seed": []}

    def live(self, who: Ints, video: Ints, day: Ints, started_at: Ints, stars: NDArray[np.float32]) -> None:
        """Process all plays, which are ordered by time within each profile."""
        order = np.lexsort((started_at, who, day))
        cuts = np.flatnonzero((np.diff(who[order]) != 0) | (np.diff(day[order]) != 0)) + 1
        today = np.iinfo(np.int64).min
        for evening in np.split(order, cuts):
            if int(day[evening[0]]) != today:
                today = int(day[evening[0]])
                self.begin_day()
            profile, played = int(who[evening[0]]), video[evening]
            if today >= 0:
                self.show(profile, played, int(started_at[evening[0]]) - _MINUTE)
                if len(played) > 1 and self.rng.random() < _OPENS_PAGE:
                    self.open_page(profile, played, int(started_at[evening[1]]) - _MINUTE)
            self.watch(profile, played, started_at[evening], stars[evening])
        for key in ("profile", "time"):
            self.impressions[key] = np.array(self.impressions[key], dtype=np.int64)
            self.pages[key] = np.array(self.pages[key], dtype=np.int64)

    def begin_day(self) -> None:
        """Compute the day's popularity, over the catalogue and within each genre."""
        self.popularity *= _FADES
        weights = self.popularity + 0.02
        self.by_popularity = np.cumsum(weights)
        self.by_genre = np.cumsum(weights[:, None] * self.has, axis=0)

    def show(self, profile: int, played: Ints, moment: int) -> None:
        """Show the films that will be played together with unseen ones, in random order."""
        shown = list(dict.fromkeys(played.tolist()))[:MOST_PLAYED_SHOWN]
        barred = self.seen[profile].union(played.tolist())
        others = SHOWN - len(shown)
        for source, quota in (("popular", round(0.6 * others)), ("genres", round(0.3 * others)), ("random", others)):
            fresh = [film for film in dict.fromkeys(self.draw(source, profile, 4 * SHOWN)) if film not in barred]
            fresh = fresh[: min(quota, SHOWN - len(shown))]
            barred.update(fresh)
            shown += fresh
        self.impressions["profile"].append(profile)
        self.impressions["time"].append(moment)
        self.impressions["videos"].append(self.rng.permutation(np.array(shown)))

    def open_page(self, profile: int, played: Ints, moment: int) -> None:
        """Open the page of the first film played: it shows the second beside unseen ones of its genres."""
        seed, chosen = int(played[0]), int(played[1])
        alike = np.cumsum((self.popularity + 0.02) * self.has[:, self.has[seed]].sum(axis=1))
        drawn: list[int] = []
        if alike[-1] > 0:
            chances = self.rng.random(4 * SIMILAR_SHOWN)
            drawn = np.searchsorted(alike, chances * alike[-1], side="right").tolist()
        barred = self.seen[profile].union(played.tolist())
        fresh = [film for film in dict.fromkeys([*drawn, *self.draw("popular", profile, 40)]) if film not in barred]
        self.pages["profile"].append(profile)
        self.pages["seed"].append(seed)
        self.pages["time"].append(moment)
        self.pages["videos"].append(self.rng.permutation(np.array([chosen, *fresh[: SIMILAR_SHOWN - 1]])))

    def draw(self, source: str, profile: int, n: int) -> list[int]:
        """Draw films with repetition: by popularity, by popularity within genres watched so far, or at random."""
        chances = self.rng.random(n)
        liking = self.liking[profile]
        if source == "random" or (source == "genres" and not liking.any()):
            drawn = (chances * len(self.popularity)).astype(np.int64)
        elif source == "popular":
            drawn = np.searchsorted(self.by_popularity, chances * self.by_popularity[-1], side="right")
        else:
            genre = int(np.searchsorted(np.cumsum(liking), self.rng.random() * liking.sum(), side="right"))
            within = self.by_genre[:, genre]
            drawn = np.searchsorted(within, chances * within[-1], side="right")
        films: list[int] = drawn.tolist()
        return films

    def watch(self, profile: int, played: Ints, started_at: Ints, stars: NDArray[np.float32]) -> None:
        """Update popularity, liking, seen films and the list after an evening."""
        np.add.at(self.popularity, played, 1.0)
        self.liking[profile] += (self.has[played] * np.maximum(stars - 2, 0.1)[:, None]).sum(axis=0)
        self.seen[profile].update(played.tolist())
        entries = self.open_entries[profile]
        for film, moment in zip(played.tolist(), started_at.tolist(), strict=True):
            if film in entries:
                entries.pop(film).removed_at = moment
        if self.rng.random() < _ADDS:
            candidates = [film for film in self.draw("genres", profile, 8) if film not in self.seen[profile]]
            if candidates and candidates[0] not in entries:
                entries[candidates[0]] = ListEntry(profile, candidates[0], int(started_at[-1]) + _MINUTE)
                self.list_entries.append(entries[candidates[0]])

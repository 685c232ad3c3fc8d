"""How the people of a generated company live: what they see, choose, watch, list and rate, evening by evening."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from delorean.demo.catalogue import GENRES, Catalogue, People
from delorean.demo.world import DAY, HOUR, Floats, Ints, table

SHOWN: Final = {"popular": 7, "personal": 8, "random": 5}  # of each homepage's candidates
SIMILAR_SHOWN: Final = 10  # on a video's page

_MINUTE: Final = 60_000_000
_SLOTS: Final = ((7.0, 13.5, 0.45), (17.1, 22.5, 1.0))  # from hour, to hour, activity relative to the evening
_FINISHED: Final = 0.75  # share of its runtime at which a video counts as finished
_OPENS_PAGE: Final = 0.5  # chance that a member opens the page of the last watched video
_STARTS_SIMILAR: Final = 0.6  # chance that they start one of the similar videos on it


@dataclass
class Life:
    """The state on which choices depend, and the log of events. Rows are profiles, columns are videos.

    start: microseconds; impressions and pages are logged from there on
    """

    rng: np.random.Generator
    catalogue: Catalogue
    people: People
    start: int
    log: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"plays": [], "list_entries": [], "ratings": [], "impressions": [], "pages": []}
    )

    def __post_init__(self) -> None:
        """Begin with empty lists and nothing watched."""
        shape = self.people.fit.shape
        self.listed_at: Ints = np.full(shape, -1, dtype=np.int64)
        self.unfinished = np.zeros(shape, dtype=bool)
        self.finished = np.zeros(shape, dtype=bool)
        self.mood: Floats = np.zeros((shape[0], len(GENRES)), dtype=np.float32)
        self.popularity: Floats = np.exp(self.catalogue.quality).astype(np.float32)
        self.patience: Floats = np.exp(-1.1 * self.people.fit).astype(np.float32)  # small where the taste is strong

    def live_a_day(self, day: int) -> None:
        """Let some people watch by day and others in the evening. day: counted from `start`."""
        midnight = self.start + day * DAY
        self.popularity *= np.float32(0.88)
        for first, last, weight in _SLOTS:
            active = np.flatnonzero(self.rng.random(len(self.mood)) < self.people.activity * weight)
            hours = self.rng.uniform(first, last, len(active))
            moments = midnight + (hours * HOUR).astype(np.int64)
            self.live_a_session(active, moments)

    def live_a_session(self, who: Ints, moments: Ints) -> None:
        """Show homepages, and let people choose from them, watch and open a page."""
        shown = self.show(who, moments)
        wish = self.wish(who, shown, moments)
        if moments.size and moments.min() >= self.start:
            self.log["impressions"].append({"profile": who, "time": moments, "videos": shown})
        self.add_to_lists(who, shown, wish, moments)
        wish += self.rng.gumbel(size=wish.shape).astype(np.float32)
        order = np.argsort(-wish, axis=1)
        plays = np.where(self.rng.random(len(who)) < 0.08, 0, 1 + self.rng.binomial(2, 0.35, len(who)))
        clock = moments + self.rng.integers(1, 4 * _MINUTE, len(who))
        watched = np.full(len(who), -1)
        for nth in range(3):
            playing = np.flatnonzero(plays > nth)
            watched[playing] = shown[playing, order[playing, nth]]
            clock[playing] = self.play(who[playing], watched[playing], clock[playing])
        opens = np.flatnonzero((watched >= 0) & (self.rng.random(len(who)) < _OPENS_PAGE))
        self.open_pages(who[opens], watched[opens], clock[opens])

    def open_pages(self, who: Ints, seeds: Ints, moments: Ints) -> None:
        """Let people open the pages of videos, which show similar ones, and start one of these or none."""
        alike = self.catalogue.similarity(seeds)
        wait = self.rng.standard_exponential(alike.shape, dtype=np.float32)
        wait /= np.exp(4 * alike) * np.sqrt(self.popularity + np.float32(0.05))
        wait[self.catalogue.available_from > moments[:, None]] = np.inf
        rows = np.arange(len(who))
        wait[rows, seeds] = np.inf
        shown = self.rng.permuted(np.argpartition(wait, SIMILAR_SHOWN, axis=1)[:, :SIMILAR_SHOWN], axis=1)
        if moments.size and moments.min() >= self.start:
            self.log["pages"].append({"profile": who, "seed": seeds, "time": moments, "videos": shown})
        wish = 0.5 * self.wish(who, shown, moments) + 2.5 * alike[rows[:, None], shown]
        wish += self.rng.gumbel(size=wish.shape).astype(np.float32)
        starts = np.flatnonzero(self.rng.random(len(who)) < _STARTS_SIMILAR)
        chosen = shown[rows, np.argmax(wish, axis=1)] if len(who) else seeds
        self.play(who[starts], chosen[starts], moments[starts] + _MINUTE)

    def show(self, who: Ints, moments: Ints) -> Ints:
        """Choose each homepage's distinct candidates: popular, personal and random ones."""
        gone = self.catalogue.available_from > moments[:, None]
        pressing = (self.listed_at[who] >= 0) | self.unfinished[who]
        personal = np.where(pressing, np.float32(0.1), np.float32(1)) * self.patience[who]
        waits: dict[str, Any] = {
            "popular": 1 / (self.popularity + np.float32(0.05)),
            "personal": personal,
            "random": np.float32(1),
        }
        rows = np.arange(len(who))[:, None]
        shown = []
        for source, n in SHOWN.items():
            # the n smallest of Exponential(1) / weight are n draws without replacement by weight
            draw = self.rng.standard_exponential(gone.shape, dtype=np.float32)
            draw *= waits[source]
            draw[gone] = np.inf
            drawn = np.argpartition(draw, n, axis=1)[:, :n]
            gone[rows, drawn] = True
            shown.append(drawn)
        everything: Ints = np.concatenate(shown, axis=1)
        return self.rng.permuted(everything, axis=1)

    def wish(self, who: Ints, shown: Ints, moments: Ints) -> Floats:
        """Say how much each person wants each candidate, chance aside."""
        rows = who[:, None]
        mood = np.einsum("pg,pcg->pc", self.mood[who], self.catalogue.genres[shown])
        age = np.maximum(moments[:, None] - self.catalogue.available_from[shown], 0) / DAY
        wish = 1.5 * self.people.fit[rows, shown] + 0.7 * self.catalogue.quality[shown]
        wish += 1.3 * np.exp(-age / 8) + 0.25 * self.catalogue.freshness[shown] + 1.2 * np.minimum(mood, 1.5)
        wish += 1.8 * (self.listed_at[rows, shown] >= 0) + 2.2 * self.unfinished[rows, shown]
        wish -= 2.5 * self.finished[rows, shown]
        return wish.astype(np.float32)

    def add_to_lists(self, who: Ints, shown: Ints, wish: Floats, moments: Ints) -> None:
        """Put the candidate that a member wants most, by a noisy judgement, into the list with some probability."""
        rows = np.flatnonzero(self.rng.random(len(who)) < 0.5)
        noisy = wish[rows] + self.rng.normal(0, 1.5, wish[rows].shape)
        noisy -= 9 * ((self.listed_at[who[rows, None], shown[rows]] >= 0) | self.finished[who[rows, None], shown[rows]])
        best = np.argmax(noisy, axis=1)
        self.listed_at[who[rows], shown[rows, best]] = moments[rows] + _MINUTE // 2

    def play(self, who: Ints, video: Ints, starts: Ints) -> Ints:
        """Let people watch; gives the moments at which they are ready for another."""
        fit = self.people.fit[who, video] + 0.5 * self.catalogue.quality[video]
        share = np.clip(0.72 + 0.2 * fit + self.rng.normal(0, 0.25, len(who)), 0.04, 1.0)
        minutes = (share * self.catalogue.runtime[video]).astype(np.float32)
        ends = starts + (minutes * _MINUTE).astype(np.int64)
        self.log["plays"].append(
            {"profile": who, "video": video, "started_at": starts, "watched_at": ends, "minutes": minutes}
        )
        done = share >= _FINISHED
        self.unfinished[who, video] = ~done
        self.finished[who, video] |= done
        self.mood[who] = 0.75 * self.mood[who] + 0.5 * self.catalogue.genres[video]
        np.add.at(self.popularity, video, np.float32(1))
        leaves = done & (self.listed_at[who, video] >= 0)
        self.close_entries(who[leaves], video[leaves], ends[leaves])
        self.rate(who, video, fit, ends)
        return ends + self.rng.integers(1, 3 * _MINUTE, len(who))

    def close_entries(self, who: Ints, video: Ints, moments: Ints) -> None:
        """Take videos that were watched off the lists."""
        added = self.listed_at[who, video]
        self.log["list_entries"].append({"profile": who, "video": video, "added_at": added, "removed_at": moments})
        self.listed_at[who, video] = -1

    def rate(self, who: Ints, video: Ints, fit: Floats, ends: Ints) -> None:
        """Let half of them rate, from their affinity and their bias."""
        rates = self.rng.random(len(who)) < 0.5
        stars = 2.6 + 1.0 * fit[rates] + self.people.temper[who[rates]] + self.rng.normal(0, 0.4, int(rates.sum()))
        stars = np.clip(np.round(2 * stars) / 2, 0.5, 5).astype(np.float32)
        moments = ends[rates] + self.rng.integers(1, _MINUTE, len(stars))
        self.log["ratings"].append({"profile": who[rates], "video": video[rates], "rating": stars, "rated_at": moments})

    def tables(self) -> dict[str, Any]:
        """Return the log as a world's tables, ordered by time."""
        who, video = np.nonzero(self.listed_at >= 0)
        still = {"profile": who, "video": video, "added_at": self.listed_at[who, video], "removed_at": -1 + 0 * who}
        self.log["list_entries"].append(still)
        orders = {
            "plays": "watched_at",
            "list_entries": "added_at",
            "ratings": "rated_at",
            "impressions": "time",
            "pages": "time",
        }
        tables = {}
        for name, moment in orders.items():
            parts = self.log[name]
            columns: dict[str, Any] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            order = np.lexsort((columns["profile"], columns[moment]))
            columns = {key: values[order] for key, values in columns.items()}
            profile = columns.pop("profile")
            columns["profile_id"] = self.people.ids[profile]
            if name in ("impressions", "pages"):
                columns["country"], columns["device"] = self.people.country[profile], self.people.device[profile]
                columns["video_ids"] = list(self.catalogue.ids[columns.pop("videos")])
                if name == "pages":
                    columns["seed_id"] = self.catalogue.ids[columns.pop("seed")]
            else:
                columns["video_id"] = self.catalogue.ids[columns.pop("video")]
            if name == "list_entries":
                removed = columns["removed_at"]
                columns["removed_at"] = [None if moment < 0 else moment for moment in removed.tolist()]
            tables[name] = table(name, columns)
        return tables

"""The state of the company's services at a moment: pure functions of the event log and the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.demo.factorisation import Factors, factorise
from delorean.demo.world import DAY, Ints, World, micros_of
from snapshotter.records import from_micros, to_micros

LONGEST_HISTORY: Final = 50  # plays
BEST: Final = 200  # videos with the highest predicted rating in an answer
POPULAR: Final = 200  # most popular videos in an answer: homepages are made of them
MATCHES: Final = 50  # videos in an answer of the search
ALIKE: Final = 50  # similar videos in an answer
_HALF_LIFE: Final = 5 * DAY
_POPULARITY_WINDOW: Final = 28 * DAY  # older plays no longer count
_DAYS_KEPT: Final = 32
_COUNTRIES_KEPT: Final = 64
_NONE: Final = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class CompanyState:
    """Computes the services' answers at any moment, past ones included."""

    world: World

    def viewing_history(self, profile_id: int, now: int) -> list[dict[str, Any]]:
        """Return the latest 50 plays that ended by now (microseconds), oldest first."""
        plays = self._plays
        mine = plays.of(profile_id)
        end = mine.start + int(np.searchsorted(plays.moments[mine], now, side="right"))
        rows = slice(max(mine.start, end - LONGEST_HISTORY), end)
        columns = (values[rows].tolist() for values in (plays.videos, plays.values, plays.moments))
        return [
            {"video_id": video, "minutes": minutes, "watched_at": moment}
            for video, minutes, moment in zip(*columns, strict=True)
        ]

    def my_list(self, profile_id: int, now: int) -> list[dict[str, Any]]:
        """Return the current entries of the list, oldest first, with times as text."""
        entries = self._entries
        mine = entries.of(profile_id)
        current = (entries.moments[mine] <= now) & ((entries.values[mine] < 0) | (entries.values[mine] > now))
        columns = zip(entries.videos[mine][current].tolist(), entries.moments[mine][current].tolist(), strict=True)
        return [{"video_id": video, "added_at": from_micros(moment).isoformat()} for video, moment in columns]

    def my_list_with_devices(self, profile_id: int, now: int) -> list[dict[str, Any]]:
        """Return `my_list` as the service's next release does: with the device on which each entry was added."""
        device = self._devices.get(profile_id, "unknown")
        return [{**entry, "device": device} for entry in self.my_list(profile_id, now)]

    def predicted_ratings(self, profile_id: int, now: int) -> list[dict[str, Any]] | None:
        """Predict ratings of the best and the most popular videos from ratings made before today.

        None for a profile without such ratings.
        """
        day = self._day_of(now)
        factors = day.factors
        if not factors.knows(profile_id):
            return None
        expected = factors.expected(profile_id)
        chosen = np.union1d(np.argsort(-expected, kind="stable")[:BEST], day.popular)
        columns = zip(factors.video_ids[chosen].tolist(), expected[chosen].tolist(), strict=True)
        return [{"video_id": video, "rating": round(stars, 3)} for video, stars in columns]

    def search_results(self, query: str, country: str, now: int) -> list[dict[str, Any]]:
        """Return the most popular videos whose genres or title contain a word, the best first.

        Plays in the country count as much again.
        """
        matches = self._words.get(query.casefold(), _NONE)
        matches = matches[micros_of(self.world.videos["available_from"])[matches] <= now]
        scores = self._popularity_in(country, now)[matches]
        best = np.argsort(-scores, kind="stable")[:MATCHES]
        ids = self.world.videos["video_id"].to_numpy()[matches[best]]
        columns = zip(ids.tolist(), scores[best].tolist(), strict=True)
        return [{"video_id": video, "score": round(score, 3)} for video, score in columns]

    def similar_videos(self, seed_id: int, now: int) -> list[dict[str, Any]]:
        """Return what the seed's viewers of the last four weeks watched most, the best first, as of midnight.

        Viewers of both, over the root of all viewers of the other, so that what everybody watches does not always win.
        """
        seen, weight = self._viewers(now - now % DAY)
        row = int(np.searchsorted(self._video_ids, seed_id))
        if row == len(self._video_ids) or self._video_ids[row] != seed_id:
            return []
        scores = seen[seen[:, row]].sum(axis=0) * weight
        scores[row] = 0.0
        best = np.argsort(-scores, kind="stable")[:ALIKE]
        best = best[scores[best] > 0]
        columns = zip(self._video_ids[best].tolist(), scores[best].tolist(), strict=True)
        return [{"video_id": video, "score": round(score, 3)} for video, score in columns]

    def prepare(self, now: int) -> None:
        """Fit the day's factorisation in advance, so that the day's first answer does not wait for it."""
        self._day_of(now)

    def catalogue(self, moment: datetime) -> pa.Table:
        """Return the videos available at a moment, with their popularity from plays started before it."""
        now = to_micros(moment)
        videos = self.world.videos
        available = micros_of(videos["available_from"]) <= now
        shown = videos.append_column("popularity", pa.array(self.popularity(now), pa.float32()))
        return shown.filter(pa.array(available)).drop_columns("available_from").sort_by("video_id")

    def popularity(self, now: int, country: str | None = None) -> NDArray[np.float32]:
        """Count the plays of each row of `videos` started before now; a play counts half after five days.

        country: count only plays there
        """
        plays = self.world.plays
        started = micros_of(plays["started_at"])
        counted = (started < now) & (started > now - _POPULARITY_WINDOW)
        if country is not None:
            there = self.world.profiles.filter(pc.equal(self.world.profiles["country"], country))["profile_id"]
            counted &= np.isin(plays["profile_id"].to_numpy(), there.to_numpy())
        ids = self.world.videos["video_id"].to_numpy()
        order = np.argsort(ids)
        rows = order[np.searchsorted(ids[order], plays["video_id"].to_numpy()[counted])]
        weights = 0.5 ** ((now - started[counted]) / _HALF_LIFE)
        return np.bincount(rows, weights, minlength=len(ids)).astype(np.float32)

    @cached_property
    def _popularity_in(self) -> Callable[[str, int], NDArray[np.float32]]:
        return lru_cache(maxsize=_COUNTRIES_KEPT)(
            lambda country, now: self.popularity(now) + self.popularity(now, country)
        )

    @cached_property
    def _video_ids(self) -> Ints:
        ids: Ints = np.sort(self.world.videos["video_id"].to_numpy())
        return ids

    @cached_property
    def _viewers(self) -> Callable[[int], tuple[NDArray[np.bool_], NDArray[np.float64]]]:
        return lru_cache(maxsize=2)(self._viewers_before)

    def _viewers_before(self, midnight: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Tell who watched what in the four weeks before (profiles, videos), and weigh each video."""
        plays = self.world.plays
        ended = micros_of(plays["watched_at"])
        counted = (ended < midnight) & (ended > midnight - _POPULARITY_WINDOW)
        people, who = np.unique(plays["profile_id"].to_numpy()[counted], return_inverse=True)
        seen = np.zeros((len(people), len(self._video_ids)), dtype=bool)
        seen[who, np.searchsorted(self._video_ids, plays["video_id"].to_numpy()[counted])] = True
        return seen, 1 / np.sqrt(np.maximum(seen.sum(axis=0), 1))

    @cached_property
    def _words(self) -> dict[str, Ints]:
        """The rows of `videos` by each word of their titles and each genre, in lower case."""
        rows: dict[str, list[int]] = {}
        videos = self.world.videos
        for row, (title, genres) in enumerate(
            zip(videos["title"].to_pylist(), videos["genres"].to_pylist(), strict=True)
        ):
            for word in {text.casefold() for text in (*title.split(), *genres)}:
                rows.setdefault(word, []).append(row)
        return {word: np.array(found, np.int64) for word, found in rows.items()}

    @cached_property
    def _devices(self) -> dict[int, str]:
        profiles = self.world.profiles
        return dict(zip(profiles["profile_id"].to_pylist(), profiles["device"].to_pylist(), strict=True))

    @cached_property
    def _plays(self) -> _Events:
        plays = self.world.plays
        return _Events.grouped(plays, "watched_at", plays["minutes"].to_numpy())

    @cached_property
    def _entries(self) -> _Events:
        entries = self.world.list_entries
        return _Events.grouped(entries, "added_at", micros_of(entries["removed_at"], absent=-1))

    def _day_of(self, now: int) -> _DayModel:
        return self._days(now - now % DAY)

    @cached_property
    def _days(self) -> Callable[[int], _DayModel]:
        return lru_cache(maxsize=_DAYS_KEPT)(self._begin_day)

    def _begin_day(self, midnight: int) -> _DayModel:
        factors = factorise(self.world.ratings, midnight)
        ids = self.world.videos["video_id"].to_numpy()
        popular = ids[np.argsort(-self.popularity(midnight), kind="stable")[:POPULAR]]
        rated = np.searchsorted(factors.video_ids, popular[np.isin(popular, factors.video_ids)])
        return _DayModel(factors, rated)


@dataclass(frozen=True)
class _DayModel:
    """The model of predicted ratings on one day. popular: rows of `factors.video_ids`."""

    factors: Factors
    popular: Ints


@dataclass(frozen=True)
class _Events:
    """Events grouped by profile, ordered by time within each."""

    profiles: Ints  # distinct, sorted
    offsets: Ints
    videos: Ints
    moments: Ints
    values: NDArray[Any]

    @classmethod
    def grouped(cls, events: pa.Table, moment: str, values: NDArray[Any]) -> _Events:
        profile, moments = events["profile_id"].to_numpy(), micros_of(events[moment])
        order = np.lexsort((moments, profile))
        profiles, counts = np.unique(profile, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(profiles, offsets, events["video_id"].to_numpy()[order], moments[order], values[order])

    def of(self, profile_id: int) -> slice:
        """Return the rows of a profile; an empty slice if it has no events."""
        at = int(np.searchsorted(self.profiles, profile_id))
        if at == len(self.profiles) or self.profiles[at] != profile_id:
            return slice(0, 0)
        return slice(int(self.offsets[at]), int(self.offsets[at + 1]))

"""People whose tastes the world knows: what their homepages could show, and what of a ranking they start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.demo.factorisation import factorise
from delorean.demo.world import DAY, HOUR, Floats, Ints, World, micros_of
from snapshotter.records import to_micros

PLACES: Final = 3  # of a ranking that people look at
_RESERVE: Final = 3.5  # how much a video must be wanted to be started in every second case
_COMES: Final = 0.5  # chance that a member opens the homepage on an evening
_EVENING: Final = (17.1, 22.5)  # hours
_SHOWN: Final = 20  # candidates of a homepage
_SPREAD: Final = 2.0  # by how much a star more makes a video wanted


class Tastes(Protocol):
    """What people want. Rows of profiles and of videos are those of their sorted ids; moments are microseconds."""

    def show(self, who: Ints, moments: Ints) -> Ints:
        """Choose each homepage's candidates: (people, candidates)."""

    def wish(self, who: Ints, shown: Ints, moments: Ints) -> Floats:
        """Say how much each person wants each candidate, chance aside: (people, candidates)."""


@dataclass(frozen=True)
class Evening:
    """Homepages of one evening, in the order of their times. shown: ids of each one's candidates."""

    profiles: Ints
    moments: Ints
    shown: Ints
    wish: Floats

    def __len__(self) -> int:
        """Return the number of homepages."""
        return len(self.profiles)


@dataclass(frozen=True)
class PastVisits:
    """Homepages that were seen before, and whether something of each was started."""

    profiles: Ints
    moments: Ints
    started: NDArray[np.bool_]


@dataclass(frozen=True)
class Audience:
    """All people of a world."""

    world: World
    tastes: Tastes

    def past(self, rng: np.random.Generator) -> PastVisits:
        """Let people look at the first places of the world's homepages, which are in random order."""
        homepages = self.world.impressions.filter(pc.greater_equal(pc.list_value_length(pc.field("video_ids")), PLACES))
        profiles, moments = homepages["profile_id"].to_numpy(), micros_of(homepages["time"])
        first = np.array([shown[:PLACES] for shown in homepages["video_ids"].to_pylist()], dtype=np.int64)
        who, videos = (
            np.sort(self.world.profiles["profile_id"].to_numpy()),
            np.sort(self.world.videos["video_id"].to_numpy()),
        )
        wish = self.tastes.wish(np.searchsorted(who, profiles), np.searchsorted(videos, first), moments)
        return PastVisits(profiles, moments, choose(wish, rng) >= 0)

    def evening(self, day: int, rng: np.random.Generator) -> Evening:
        """Let some people open their homepages on an evening, `day` days after the world's first."""
        profiles = np.sort(self.world.profiles["profile_id"].to_numpy())
        videos = np.sort(self.world.videos["video_id"].to_numpy())
        who = rng.permutation(np.flatnonzero(rng.random(len(profiles)) < _COMES))
        hours = np.sort(rng.uniform(*_EVENING, len(who)))
        moments = to_micros(self.world.starts_at) + day * DAY + (hours * HOUR).astype(np.int64)
        shown = self.tastes.show(who, moments)
        return Evening(profiles[who], moments, videos[shown], self.tastes.wish(who, shown, moments))


def chance_of_start(wish: Floats) -> NDArray[np.float64]:
    """Compute the probability that each person starts one of the videos in view: (people, places) → (people,).

    They choose between the videos and leaving, as in a multinomial logit: the best after chance is taken (Luce 1959).
    """
    wanted = np.exp(wish.astype(np.float64) - _RESERVE).sum(axis=1)
    share: NDArray[np.float64] = wanted / (1 + wanted)
    return share


def choose(wish: Floats, rng: np.random.Generator) -> Ints:
    """Draw what each person starts: its place, or −1 for nothing; as probable as `chance_of_start` says."""
    leave = np.full((len(wish), 1), _RESERVE)
    drawn = np.concatenate([leave, wish], axis=1) + rng.gumbel(size=(len(wish), wish.shape[1] + 1))
    places: Ints = np.argmax(drawn, axis=1) - 1
    return places


class RatedTastes:
    """Tastes of people who only rated, from a factorisation of all their ratings; homepages show popular videos.

    rng: draws the homepages
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.rng = rng
        self.profiles = np.sort(world.profiles["profile_id"].to_numpy())
        self.videos = np.sort(world.videos["video_id"].to_numpy())
        self.factors = factorise(world.ratings, int(micros_of(world.ratings["rated_at"]).max()) + 1)
        played = np.searchsorted(self.videos, world.plays["video_id"].to_numpy())
        self.popularity = np.bincount(played, minlength=len(self.videos)) + 1.0

    def show(self, who: Ints, moments: Ints) -> Ints:  # noqa: ARG002  # as `Tastes` has it
        """Draw distinct videos by popularity."""
        wait = self.rng.standard_exponential((len(who), len(self.videos))) / self.popularity
        shown: Ints = np.argpartition(wait, _SHOWN, axis=1)[:, :_SHOWN]
        return self.rng.permuted(shown, axis=1)

    def wish(self, who: Ints, shown: Ints, moments: Ints) -> Floats:  # noqa: ARG002  # as above
        """Expected stars above the mean, and a reserve that makes the mean video wanted by some."""
        factors = self.factors
        rows = np.searchsorted(factors.profile_ids, self.profiles[who])
        columns = np.searchsorted(factors.video_ids, self.videos[shown])
        stars = np.einsum("pf,pcf->pc", factors.profile_factors[rows], factors.video_factors[columns])
        stars += factors.profile_bias[rows][:, None] + factors.video_bias[columns]
        wish: Floats = (_SPREAD * stars + 1).astype(np.float32)
        return wish

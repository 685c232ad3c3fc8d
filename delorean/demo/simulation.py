"""Generates a company's events from a seed: a catalogue, and profiles that choose from the homepages they see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np

from delorean.demo.catalogue import generate_catalogue, generate_people
from delorean.demo.life import SHOWN, Life
from delorean.demo.notifications import with_notifications
from delorean.demo.searches import with_searches
from delorean.demo.world import HISTORY_DAYS, World
from schemas.errors import ConfigError
from snapshotter.records import to_micros

SEED: Final = 1985
STARTS_AT: Final = datetime(2025, 10, 20, tzinfo=UTC)
_NOTES: Final = (
    "The world is generated from a seed: tastes over genres and a hidden taste that only ratings show, a catalogue "
    "with new releases, popularity that drifts because it is what people watched lately.",
    f"Each homepage shows {SHOWN['popular']} candidates drawn by popularity, {SHOWN['personal']} by the profile's "
    f"own taste, list and unfinished videos, {SHOWN['random']} at random, in random order.",
    "People choose by taste, quality, recency, their list, the genres they watched lately and what they left "
    "unfinished, with much chance. Nothing in the world knows the future.",
    "Many homepages are preceded by a search for a genre or a word of a title. Half of those who have "
    "watched something open its page, which shows similar videos, and may start one of them.",
)


def generate_world(
    seed: int, days: int = 7, profiles: int = 600, videos: int = 1500, starts_at: datetime = STARTS_AT
) -> World:
    """Generate a world; the same arguments give the same world.

    days: number of days after the 45 days of history
    starts_at: the midnight, UTC, between the two

    Raises ConfigError for a world that is too small.
    """
    return simulate(seed, days, profiles, videos, starts_at)[0]


def simulate(
    seed: int, days: int = 7, profiles: int = 600, videos: int = 1500, starts_at: datetime = STARTS_AT
) -> tuple[World, Life]:
    """Generate a world as `generate_world` does; return it with the life of its people, which goes on from its end."""
    if days < 1 or profiles < 10 or videos < 100:
        raise ConfigError.because(
            f"a world of {days} days, {profiles} profiles, {videos} videos is too small", "at least 1, 10 and 100"
        )
    rng = np.random.default_rng(seed)
    start = to_micros(starts_at)
    catalogue = generate_catalogue(rng, videos, start, days)
    people = generate_people(rng, profiles, catalogue)
    life = Life(rng, catalogue, people, start)
    for day in range(-HISTORY_DAYS, days):
        life.live_a_day(day)
    world = World(
        name="generated",
        starts_at=starts_at,
        days=days,
        notes=_NOTES,
        profiles=people.table,
        videos=catalogue.table,
        **life.tables(),
    )
    return with_notifications(with_searches(world, seed), seed), life

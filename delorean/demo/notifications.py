"""Simulates which video each member is notified of, before the homepages of the day."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from delorean.demo.world import World, micros_of, table

CHOICE: Final = 8  # videos that a notification may be about
_NOTIFIED: Final = 0.25  # share of homepages that are preceded by a notification
_MINUTE: Final = 60_000_000


def with_notifications(world: World, seed: int) -> World:
    """Add notifications to a world: each may be about some of the candidates of the homepage that follows."""
    rng = np.random.default_rng([seed, len(world.impressions), CHOICE])
    impressions = world.impressions.filter(rng.random(len(world.impressions)) < _NOTIFIED)
    videos = [rng.permutation(shown)[:CHOICE] for shown in impressions["video_ids"].to_pylist()]
    columns: dict[str, Any] = {
        "profile_id": impressions["profile_id"].to_numpy(),
        "country": impressions["country"].to_pylist(),
        "time": micros_of(impressions["time"]) - rng.integers(20, 60, len(videos)) * _MINUTE,
        "video_ids": videos,
    }
    return replace(world, notifications=table("notifications", columns))

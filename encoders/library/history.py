"""Features from what the profile has watched. Only events up to the context's time count."""

from __future__ import annotations

import math
from typing import Any

from encoders import feature_encoder
from encoders.library.keys import VIEWING_HISTORY

DAY = 86_400_000_000  # microseconds


@feature_encoder(data=[VIEWING_HISTORY], features=["minutes_watched"])
def minutes_watched(context: Any, items: Any, data: Any, out: Any, *, window_days: int = 30) -> None:
    """Minutes that the profile watched of each candidate within the window."""
    history = data.viewing_history
    since = context.time - window_days * DAY
    for i in range(len(items.video_id)):
        total = 0.0
        for j in range(len(history.video_id)):
            if history.video_id[j] == items.video_id[i] and since <= history.watched_at[j] <= context.time:
                total += history.minutes[j]
        out.minutes_watched[i] = total


@feature_encoder(data=[VIEWING_HISTORY], features=["times_watched", "days_since_watched"])
def rewatching(context: Any, items: Any, data: Any, out: Any) -> None:
    """How often the profile watched each candidate, and days since it last did (NaN: never)."""
    history = data.viewing_history
    for i in range(len(items.video_id)):
        times = 0
        latest = 0
        for j in range(len(history.video_id)):
            if history.video_id[j] == items.video_id[i] and history.watched_at[j] <= context.time:
                if times == 0 or history.watched_at[j] > latest:
                    latest = history.watched_at[j]
                times += 1
        out.times_watched[i] = times
        if times > 0:
            out.days_since_watched[i] = (context.time - latest) / DAY


@feature_encoder(data=[VIEWING_HISTORY], features=["plays_7d", "plays_30d"])
def recent_plays(context: Any, items: Any, data: Any, out: Any) -> None:
    """How much the profile watches at all: plays within 7 and within 30 days, the same for each candidate."""
    history = data.viewing_history
    week = 0
    month = 0
    for j in range(len(history.watched_at)):
        age = context.time - history.watched_at[j]
        if 0 <= age <= 7 * DAY:
            week += 1
        if 0 <= age <= 30 * DAY:
            month += 1
    for i in range(len(items.video_id)):
        out.plays_7d[i] = week
        out.plays_30d[i] = month


@feature_encoder(data=[VIEWING_HISTORY], features=["recency_weighted_plays"])
def recency_weighted_plays(context: Any, items: Any, data: Any, out: Any, *, half_life_days: float = 14.0) -> None:
    """Plays of each candidate, each counting half as much for every half-life that has passed since."""
    history = data.viewing_history
    for i in range(len(items.video_id)):
        weight = 0.0
        for j in range(len(history.video_id)):
            age = context.time - history.watched_at[j]
            if history.video_id[j] == items.video_id[i] and age >= 0:
                weight += math.exp(-math.log(2.0) * (age / DAY) / half_life_days)
        out.recency_weighted_plays[i] = weight

"""Encoders of the tests' own company: in a module, so that packages can name them and processes find them."""

from __future__ import annotations

from typing import Any

from encoders import feature_encoder, lookup
from encoders.library.keys import MY_LIST, VIDEOS, VIEWING_HISTORY


@feature_encoder(data=[VIEWING_HISTORY], features=["minutes", "days_since"])
def watched(context: Any, items: Any, data: Any, out: Any, *, window_days: float = 30.0) -> None:
    """Minutes watched of each video within a window, and days since it was last watched."""
    history = data.viewing_history
    if not history.present:
        return
    for i in range(len(items.video_id)):
        total = 0.0
        for j in range(len(history.video_id)):
            days = (context.time - history.watched_at[j]) / 86_400_000_000.0
            if history.video_id[j] == items.video_id[i] and days <= window_days:
                total += history.minutes[j]
                out.days_since[i] = days
        out.minutes[i] = total


@feature_encoder(data=[MY_LIST], features=["listed"])
def listed(context: Any, items: Any, data: Any, out: Any) -> None:
    """Whether each video is on the profile's list."""
    for i in range(len(items.video_id)):
        found = 0.0
        for j in range(len(data.my_list.video_id)):
            if data.my_list.video_id[j] == items.video_id[i]:
                found = 1.0
        if data.my_list.present:
            out.listed[i] = found


@feature_encoder(data=[VIDEOS], features=["popularity"])
def popularity(context: Any, items: Any, data: Any, out: Any) -> None:
    """How popular each video is."""
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.popularity[i] = data.videos.popularity[row]


@feature_encoder(features=["from_us"])
def from_us(context: Any, items: Any, data: Any, out: Any) -> None:
    """Whether the context is in the United States."""
    for i in range(len(out.from_us)):
        out.from_us[i] = 1.0 if context.country == "US" else 0.0


@feature_encoder(features=["height"])
def height(context: Any, items: Any, data: Any, out: Any) -> None:
    """How high each row is usually shown."""
    for i in range(len(items.row_id)):
        out.height[i] = 1.0 / (1.0 + items.row_id[i])

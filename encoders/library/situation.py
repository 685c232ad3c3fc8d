"""Features from the situation in which the profile chooses: its device, and how full its evening is."""

from __future__ import annotations

from typing import Any

from encoders import feature_encoder, lookup
from encoders.library.keys import VIDEOS, VIEWING_HISTORY


@feature_encoder(data=[VIDEOS], features=["short_enough_for_device"])
def short_enough_for_device(
    context: Any, items: Any, data: Any, out: Any, *, small_device: str = "phone", short_minutes: float = 45.0
) -> None:
    """On a small device, 1 for a candidate that is short and 0 for one that is not; 1 on any other."""
    videos = data.videos
    for i in range(len(items.video_id)):
        row = lookup(videos, items.video_id[i])
        if row >= 0:
            short = videos.runtime_minutes[row] <= short_minutes
            out.short_enough_for_device[i] = 1.0 if context.device != small_device or short else 0.0


@feature_encoder(data=[VIDEOS, VIEWING_HISTORY], features=["runtime_over_usual"])
def runtime_over_usual(context: Any, items: Any, data: Any, out: Any) -> None:
    """Each candidate's running time over the mean minutes of the profile's plays; NaN without any."""
    videos, history = data.videos, data.viewing_history
    total = 0.0
    plays = 0
    for j in range(len(history.minutes)):
        if history.watched_at[j] <= context.time:
            total += history.minutes[j]
            plays += 1
    for i in range(len(items.video_id)):
        row = lookup(videos, items.video_id[i])
        if row >= 0 and total > 0.0:
            out.runtime_over_usual[i] = videos.runtime_minutes[row] * plays / total

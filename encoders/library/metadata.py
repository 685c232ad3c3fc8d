"""Features from the videos' metadata, alone and joined with what the profile watched and wants to watch."""

from __future__ import annotations

from typing import Any

import numpy as np

from encoders import feature_encoder, lookup
from encoders.library.keys import MY_LIST, VIDEOS, VIEWING_HISTORY

YEAR = 31_556_952_000_000  # microseconds in a mean Gregorian year


def share_a_genre(genres: Any, one: int, other: int) -> bool:
    """Tell whether two rows of the metadata have a genre in common."""
    for a in range(genres.offsets[one], genres.offsets[one + 1]):
        for b in range(genres.offsets[other], genres.offsets[other + 1]):
            if genres.values[a] == genres.values[b]:
                return True
    return False


@feature_encoder(data=[VIDEOS], features=["popularity", "runtime_minutes", "years_since_release"])
def video_facts(context: Any, items: Any, data: Any, out: Any) -> None:
    """What is known of each candidate by itself; NaN where nothing is."""
    videos = data.videos
    year = 1970.0 + context.time / YEAR
    for i in range(len(items.video_id)):
        row = lookup(videos, items.video_id[i])
        if row >= 0:
            out.popularity[i] = videos.popularity[row]
            out.runtime_minutes[i] = videos.runtime_minutes[row]
            out.years_since_release[i] = year - videos.release_year[row]


@feature_encoder(data=[VIEWING_HISTORY, VIDEOS], features=["genre_affinity"])
def genre_affinity(context: Any, items: Any, data: Any, out: Any) -> None:
    """Share of the minutes watched that went to videos with a genre of the candidate's; 0 without any history."""
    history, videos = data.viewing_history, data.videos
    watched = np.empty(len(history.video_id), dtype=np.int64)
    total = 0.0
    for j in range(len(watched)):
        watched[j] = lookup(videos, history.video_id[j]) if history.watched_at[j] <= context.time else -1
        if watched[j] >= 0:
            total += history.minutes[j]
    for i in range(len(items.video_id)):
        candidate = lookup(videos, items.video_id[i])
        alike = 0.0
        for j in range(len(watched)):
            if candidate >= 0 and watched[j] >= 0 and share_a_genre(videos.genres, candidate, watched[j]):
                alike += history.minutes[j]
        out.genre_affinity[i] = alike / total if total > 0.0 else 0.0


@feature_encoder(data=[MY_LIST, VIDEOS], features=["same_genre_in_my_list"])
def same_genre_in_my_list(context: Any, items: Any, data: Any, out: Any) -> None:
    """How many other videos on the list have a genre of the candidate's."""
    wanted, videos = data.my_list, data.videos
    for i in range(len(items.video_id)):
        candidate = lookup(videos, items.video_id[i])
        alike = 0
        for j in range(len(wanted.video_id)):
            listed = lookup(videos, wanted.video_id[j])
            other = candidate >= 0 and listed >= 0 and listed != candidate
            if other and wanted.added_at[j] <= context.time and share_a_genre(videos.genres, candidate, listed):
                alike += 1
        out.same_genre_in_my_list[i] = alike

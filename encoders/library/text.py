"""Features from text, in plain Python: they are not compiled."""

from __future__ import annotations

import re
from typing import Any

from encoders import feature_encoder, lookup
from encoders.library.keys import VIDEOS, VIEWING_HISTORY

DAY = 86_400_000_000  # microseconds
WORD = re.compile(r"[^\W\d_]{3,}")


def words_of(title: str | None) -> set[str]:
    """Give the words of a title, in lower case, the shortest left out."""
    return set(WORD.findall((title or "").lower()))


@feature_encoder(data=[VIDEOS, VIEWING_HISTORY], features=["title_overlap"], compiled=False)
def title_overlap(context: Any, items: Any, data: Any, out: Any, *, window_days: int = 30) -> None:
    """How far each candidate's title shares words with titles watched lately: common words / all words (Jaccard)."""
    videos, history = data.videos, data.viewing_history
    watched: set[str] = set()
    for video_id, watched_at in zip(history.video_id, history.watched_at, strict=True):
        row = lookup(videos, video_id)
        if row >= 0 and 0 <= context.time - watched_at <= window_days * DAY:
            watched |= words_of(videos.title[row])
    for i, video_id in enumerate(items.video_id):
        row = lookup(videos, video_id)
        title = words_of(videos.title[row]) if row >= 0 else set()
        together = len(title | watched)
        out.title_overlap[i] = len(title & watched) / together if together else 0.0

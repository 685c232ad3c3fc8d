"""Features from the video whose page the context is about: what it has in common with each candidate."""

from __future__ import annotations

from typing import Any

from encoders import feature_encoder, lookup
from encoders.library.keys import SIMILAR_VIDEOS, VIDEOS


@feature_encoder(data=[SIMILAR_VIDEOS], features=["co_watched_score", "co_watched_rank"])
def co_watched(context: Any, items: Any, data: Any, out: Any) -> None:  # noqa: ARG001  # every encoder's signature
    """Each candidate's score among the videos watched by the seed's viewers, and its rank (NaN: it is not there)."""
    similar = data.similar_videos
    for i in range(len(items.video_id)):
        for j in range(len(similar.video_id)):
            if similar.video_id[j] == items.video_id[i]:
                out.co_watched_score[i] = similar.score[j]
                out.co_watched_rank[i] = j + 1
                break


@feature_encoder(data=[VIDEOS], features=["seed_genres", "seed_years"])
def like_seed(context: Any, items: Any, data: Any, out: Any) -> None:
    """Genres that each candidate shares with the seed, of all that the two have (Jaccard), and years between them."""
    videos = data.videos
    seed = lookup(videos, context.seed_id)
    for i in range(len(items.video_id)):
        row = lookup(videos, items.video_id[i])
        if seed >= 0 and row >= 0:
            shared = 0
            for a in range(videos.genres.offsets[row], videos.genres.offsets[row + 1]):
                for b in range(videos.genres.offsets[seed], videos.genres.offsets[seed + 1]):
                    if videos.genres.values[a] == videos.genres.values[b]:
                        shared += 1
            both = videos.genres.offsets[row + 1] - videos.genres.offsets[row]
            both += videos.genres.offsets[seed + 1] - videos.genres.offsets[seed] - shared
            out.seed_genres[i] = shared / both if both > 0 else 0.0
            out.seed_years[i] = abs(videos.release_year[row] - videos.release_year[seed])

"""Encoders ready to use, one module for each kind of state they read."""

from encoders.encoder import FeatureEncoder
from encoders.library.history import minutes_watched, recency_weighted_plays, recent_plays, rewatching
from encoders.library.metadata import genre_affinity, same_genre_in_my_list, video_facts
from encoders.library.my_list import listed
from encoders.library.ratings import predicted_rating, predicted_rating_rank
from encoders.library.search import search_result
from encoders.library.similar import co_watched, like_seed
from encoders.library.situation import runtime_over_usual, short_enough_for_device
from encoders.library.text import title_overlap

ALL: tuple[FeatureEncoder, ...] = (
    minutes_watched,
    rewatching,
    recent_plays,
    recency_weighted_plays,
    listed,
    predicted_rating,
    predicted_rating_rank,
    search_result,
    video_facts,
    genre_affinity,
    same_genre_in_my_list,
    short_enough_for_device,
    runtime_over_usual,
    title_overlap,
    co_watched,
    like_seed,
)

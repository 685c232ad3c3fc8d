"""Features from the ratings that a model predicts for the profile."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from encoders import feature_encoder
from encoders.library.keys import PREDICTED_RATINGS


def rating_of(predicted: Any, video_id: int) -> float:
    """Find a video's predicted rating; NaN if there is none."""
    for j in range(len(predicted.video_id)):
        if predicted.video_id[j] == video_id:
            rating: float = predicted.rating[j]
            return rating
    return math.nan


@feature_encoder(data=[PREDICTED_RATINGS], features=["predicted_rating", "predicted_rating_above_mean"])
def predicted_rating(context: Any, items: Any, data: Any, out: Any) -> None:  # noqa: ARG001  # every encoder's signature
    """The rating predicted for each candidate, and how far it lies above the mean of all the profile's predictions."""
    predicted = data.predicted_ratings
    total = 0.0
    count = 0
    for j in range(len(predicted.rating)):
        if not math.isnan(predicted.rating[j]):
            total += predicted.rating[j]
            count += 1
    for i in range(len(items.video_id)):
        rating = rating_of(predicted, items.video_id[i])
        out.predicted_rating[i] = rating
        if count > 0:
            out.predicted_rating_above_mean[i] = rating - total / count


@feature_encoder(data=[PREDICTED_RATINGS], features=["predicted_rating_rank"])
def predicted_rating_rank(context: Any, items: Any, data: Any, out: Any) -> None:  # noqa: ARG001  # as above
    """Each candidate's rank by predicted rating among the candidates, 1 for the highest; equals share a rank."""
    predicted = data.predicted_ratings
    ratings = np.empty(len(items.video_id))
    for i in range(len(ratings)):
        ratings[i] = rating_of(predicted, items.video_id[i])
    for i in range(len(ratings)):
        if not math.isnan(ratings[i]):
            rank = 1
            for j in range(len(ratings)):
                if ratings[j] > ratings[i]:
                    rank += 1
            out.predicted_rating_rank[i] = rank

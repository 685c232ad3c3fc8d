"""Features from the results of the search that a context is about."""

from __future__ import annotations

from typing import Any

from encoders import feature_encoder
from encoders.library.keys import SEARCH_RESULTS


@feature_encoder(data=[SEARCH_RESULTS], features=["search_score", "search_rank"])
def search_result(context: Any, items: Any, data: Any, out: Any) -> None:  # noqa: ARG001  # every encoder's signature
    """Each candidate's score among the results of the search, and its place from 1 on (NaN: it is not among them)."""
    results = data.search_results
    for i in range(len(items.video_id)):
        for j in range(len(results.video_id)):
            if results.video_id[j] == items.video_id[i]:
                out.search_score[i] = results.score[j]
                out.search_rank[i] = j + 1
                break

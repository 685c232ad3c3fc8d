"""Simulates what people search for before the homepages that they see: mostly what they have in mind to watch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from delorean.demo.state import CompanyState
from delorean.demo.world import DAY, SoonStarted, World, micros_of, table

SHOWN: Final = 10  # videos of a search's result
_SEARCHES: Final = 0.5  # share of homepages that are preceded by a search
_IN_MIND: Final = 0.7  # chance that the search is for what is then watched first
_FOR_A_GENRE: Final = 0.7  # the others search for a word of a title
_FLAT: Final = 10  # the first rank is shown twice as often as the one this much lower
_MINUTE: Final = 60_000_000


def with_searches(world: World, seed: int) -> World:
    """Add searches to a world: each is for a genre or a title's word of one of the homepage's candidates.

    Mostly for the one that is then watched first. The page shows that candidate among other results of the day, drawn
    from high ranks more often than from low ones; what the search does not find is not searched for.
    """
    rng = np.random.default_rng([seed, len(world.impressions)])  # draws nothing from the generator of other events
    state = CompanyState(world)
    videos = {video["video_id"]: video for video in world.videos.to_pylist()}
    columns: dict[str, list[Any]] = {name: [] for name in ("query", "profile_id", "country", "time", "video_ids")}
    impressions = world.impressions.filter(rng.random(len(world.impressions)) < _SEARCHES)
    moments = micros_of(impressions["time"])
    started = SoonStarted(world.plays)
    for impression, moment in zip(impressions.drop_columns("time").to_pylist(), moments.tolist(), strict=True):
        shown = impression["video_ids"]
        soon = started.of(impression["profile_id"], moment, shown)
        sought = videos[int(soon[0]) if len(soon) and rng.random() < _IN_MIND else int(rng.choice(shown))]
        words = sought["genres"] if sought["genres"] and rng.random() < _FOR_A_GENRE else sought["title"].split()
        query, country = str(rng.choice(words)).casefold(), impression["country"]
        results = [match["video_id"] for match in state.search_results(query, country, moment - moment % DAY)]
        if sought["video_id"] not in results:
            continue
        wait = rng.standard_exponential(len(results)) * (np.arange(len(results)) + _FLAT)
        others = [video for video in np.array(results)[np.argsort(wait)].tolist() if video != sought["video_id"]]
        columns["query"].append(query)
        columns["profile_id"].append(impression["profile_id"])
        columns["country"].append(country)
        columns["time"].append(moment - int(rng.integers(2, 10)) * _MINUTE)
        columns["video_ids"].append(rng.permutation([sought["video_id"], *others[: SHOWN - 1]]))
    return replace(world, searches=table("searches", dict(columns)))

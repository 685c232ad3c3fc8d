"""What services know is a pure function of the events up to the clock."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.demo.factorisation import factorise
from delorean.demo.searches import SHOWN
from delorean.demo.simulation import generate_world
from delorean.demo.state import ALIKE, LONGEST_HISTORY, MATCHES, CompanyState
from delorean.demo.world import DAY, World, micros_of
from snapshotter.records import to_micros

WORLD = generate_world(seed=5, days=3, profiles=60, videos=200)
STATE = CompanyState(WORLD)
PROFILES = WORLD.profiles["profile_id"].to_pylist()
START = to_micros(WORLD.starts_at)
MOMENTS = st.integers(START - 30 * DAY, START + 3 * DAY)


def _before(world: World, now: int) -> World:
    """Give the world as if nothing had happened after a moment, not even removals from lists."""

    def until(table: pa.Table, moment: str) -> pa.Table:
        return table.filter(pa.array(micros_of(table[moment]) <= now))

    entries = until(world.list_entries, "added_at")
    removed = entries["removed_at"].to_pylist()
    known = [None if moment is None or to_micros(moment) > now else moment for moment in removed]
    entries = entries.set_column(3, entries.schema.field(3), pa.array(known, entries.schema.field(3).type))
    tables = {
        "plays": until(world.plays, "started_at"),
        "ratings": until(world.ratings, "rated_at"),
        "impressions": until(world.impressions, "time"),
    }
    return World(**{**vars(world), **tables, "list_entries": entries})


@given(moment=MOMENTS, profile=st.sampled_from(PROFILES))
def test_no_answer_depends_on_what_comes_later(moment: int, profile: int) -> None:
    then = CompanyState(_before(WORLD, moment))
    assert then.viewing_history(profile, moment) == STATE.viewing_history(profile, moment)
    assert then.my_list(profile, moment) == STATE.my_list(profile, moment)
    assert then.predicted_ratings(profile, moment) == STATE.predicted_ratings(profile, moment)
    assert np.array_equal(then.popularity(moment), STATE.popularity(moment))
    assert then.search_results("drama", "US", moment) == STATE.search_results("drama", "US", moment)
    seed = WORLD.plays["video_id"][0].as_py()
    assert then.similar_videos(seed, moment) == STATE.similar_videos(seed, moment)


@given(moment=MOMENTS, profile=st.sampled_from(PROFILES))
def test_a_history_is_the_latest_plays_that_have_ended(moment: int, profile: int) -> None:
    mine = (WORLD.plays["profile_id"].to_numpy() == profile) & (micros_of(WORLD.plays["watched_at"]) <= moment)
    ended = np.sort(micros_of(WORLD.plays["watched_at"])[mine])[-LONGEST_HISTORY:]
    assert [play["watched_at"] for play in STATE.viewing_history(profile, moment)] == ended.tolist()


def test_a_list_loses_what_is_removed() -> None:
    entries = WORLD.list_entries.filter(WORLD.list_entries["removed_at"].is_valid())
    entry = entries.slice(0, 1).to_pylist()[0]
    listed = [
        entry["video_id"] in {row["video_id"] for row in STATE.my_list(entry["profile_id"], to_micros(moment))}
        for moment in (
            entry["added_at"] - timedelta(microseconds=1),
            entry["added_at"],
            entry["removed_at"] - timedelta(microseconds=1),
            entry["removed_at"],
        )
    ]
    assert listed == [False, True, True, False]


def test_an_unknown_profile_has_seen_and_listed_nothing_and_no_predictions() -> None:
    assert STATE.viewing_history(-1, START) == []
    assert STATE.my_list(-1, START) == []
    assert STATE.predicted_ratings(-1, START) is None


def test_predictions_change_by_day_only() -> None:
    profile = PROFILES[0]
    noon = START + DAY // 2
    assert STATE.predicted_ratings(profile, START) == STATE.predicted_ratings(profile, noon)
    assert STATE.predicted_ratings(profile, noon) != STATE.predicted_ratings(profile, noon + DAY)


def test_a_fit_is_repeatable_and_ignores_later_ratings() -> None:
    early = WORLD.ratings.filter(pa.array(micros_of(WORLD.ratings["rated_at"]) < START))
    one, other = factorise(WORLD.ratings, START), factorise(early, START)
    assert np.array_equal(one.expected(PROFILES[0]), other.expected(PROFILES[0]))


def test_factors_find_a_taste_that_averages_hide() -> None:
    """Two camps love opposite halves of the videos; of each person some ratings are held back."""
    people, films = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    stars = np.where((people % 2) == (films % 2), 4.5, 1.5).ravel()
    shown = np.random.default_rng(1).random(stars.size) < 0.6
    moments = pa.array(np.zeros(int(shown.sum()), dtype=np.int64), pa.timestamp("us", "UTC"))
    ratings = pa.table(
        {
            "profile_id": people.ravel()[shown],
            "video_id": films.ravel()[shown],
            "rating": stars[shown],
            "rated_at": moments,
        }
    )
    factors = factorise(ratings, 1)
    expected = np.concatenate([factors.expected(person) for person in range(40)])
    assert np.abs(expected - stars)[~shown].mean() < 0.5


def test_a_search_finds_the_videos_that_have_the_word_the_most_played_first() -> None:
    moment = to_micros(WORLD.snapshot_moment(1))
    plays: dict[int, float] = defaultdict(float)
    countries = dict(zip(PROFILES, WORLD.profiles["country"].to_pylist(), strict=True))
    for play in WORLD.plays.to_pylist():
        age = moment - to_micros(play["started_at"])
        if 0 < age < 28 * DAY:
            plays[play["video_id"]] += 0.5 ** (age / (5 * DAY)) * (2 if countries[play["profile_id"]] == "US" else 1)
    matches = {
        video["video_id"]
        for video in WORLD.videos.to_pylist()
        if "drama" in [word.casefold() for word in (*video["title"].split(), *video["genres"])]
        and (video["available_from"] is None or to_micros(video["available_from"]) <= moment)
    }
    results = STATE.search_results("Drama", "US", moment)
    assert {result["video_id"] for result in results} <= matches
    assert [result["score"] for result in results] == sorted((result["score"] for result in results), reverse=True)
    assert len(results) == min(len(matches), MATCHES)
    for result in results:
        assert result["score"] == pytest.approx(plays[result["video_id"]], abs=2e-3)


def test_a_search_for_an_unknown_word_finds_nothing() -> None:
    assert STATE.search_results("no such word", "US", START) == []


def test_similar_videos_are_those_that_viewers_of_the_seed_watched_too() -> None:
    midnight = START + DAY
    viewers: dict[int, set[int]] = defaultdict(set)
    for play in WORLD.plays.to_pylist():
        if midnight - 28 * DAY < to_micros(play["watched_at"]) < midnight:
            viewers[play["video_id"]].add(play["profile_id"])
    seed = max(viewers, key=lambda video: len(viewers[video]))
    both = {video: len(who & viewers[seed]) / len(who) ** 0.5 for video, who in viewers.items() if video != seed}
    best = sorted((score for score in both.values() if score > 0), reverse=True)[:ALIKE]
    similar = STATE.similar_videos(seed, midnight + DAY // 2)
    assert [each["score"] for each in similar] == pytest.approx(best, abs=2e-3)
    for each in similar:
        assert each["score"] == pytest.approx(both[each["video_id"]], abs=2e-3)


@pytest.mark.parametrize("seed", [-1, 0, 2**62])
def test_nothing_is_like_an_unknown_video(seed: int) -> None:
    assert STATE.similar_videos(seed, START) == []


def test_searches_show_what_was_sought_and_come_before_the_homepage() -> None:
    homepages = {(row["profile_id"], row["country"]) for row in WORLD.impressions.to_pylist()}
    searches = WORLD.searches.to_pylist()
    assert len(searches) > 10
    for search in searches:
        assert (search["profile_id"], search["country"]) in homepages
        assert 1 <= len(search["video_ids"]) == len(set(search["video_ids"])) <= SHOWN


@pytest.mark.parametrize("day", [0, 2])
def test_a_catalogue_has_the_type_of_the_element(day: int) -> None:
    from encoders.library.keys import VIDEOS

    catalogue = STATE.catalogue(WORLD.snapshot_moment(day))
    assert pa.struct(catalogue.schema) == VIDEOS.type
    assert catalogue["video_id"].to_pylist() == sorted(catalogue["video_id"].to_pylist())

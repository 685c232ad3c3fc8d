"""What services know is a pure function of the events up to the clock."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.demo.factorisation import factorise
from delorean.demo.simulation import generate_world
from delorean.demo.state import LONGEST_HISTORY, CompanyState
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


@pytest.mark.parametrize("day", [0, 2])
def test_a_catalogue_has_the_type_of_the_element(day: int) -> None:
    from encoders.library.keys import VIDEOS

    catalogue = STATE.catalogue(WORLD.snapshot_moment(day))
    assert pa.struct(catalogue.schema) == VIDEOS.type
    assert catalogue["video_id"].to_pylist() == sorted(catalogue["video_id"].to_pylist())

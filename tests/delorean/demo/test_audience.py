"""People start what they want, as often as the stated probability says."""

from __future__ import annotations

import numpy as np
import pytest
from same_world import same_world

from delorean.demo.audience import PLACES, Audience, RatedTastes, chance_of_start, choose
from delorean.demo.simulation import generate_world, simulate
from delorean.demo.world import DAY, HOUR
from snapshotter.records import to_micros

SIZE = {"seed": 5, "days": 2, "profiles": 60, "videos": 200}


def test_people_start_as_often_as_the_probability_says() -> None:
    rng = np.random.default_rng(1)
    wish = np.repeat(rng.normal(2, 1.5, (4, PLACES)), 40_000, axis=0).astype(np.float32)
    started = (choose(wish, rng) >= 0).reshape(4, -1).mean(axis=1)
    assert started == pytest.approx(chance_of_start(wish).reshape(4, -1)[:, 0], abs=0.01)


def test_what_is_wanted_more_is_started_more_often() -> None:
    rng = np.random.default_rng(2)
    places = choose(np.tile(np.array([1.0, 3.0, 2.0], np.float32), (20_000, 1)), rng)
    counts = np.bincount(places[places >= 0], minlength=3)
    assert counts[1] > counts[2] > counts[0] > 0


@pytest.mark.parametrize("kind", ["generated", "rated"])
def test_an_evening_shows_distinct_videos_in_the_order_of_time_and_preferred_ones_are_worth_more(kind: str) -> None:
    world, life = simulate(**SIZE)
    rng = np.random.default_rng(3)
    audience = Audience(world, life if kind == "generated" else RatedTastes(world, rng))
    evening = audience.evening(world.days, rng)
    begins = to_micros(world.starts_at) + world.days * DAY
    assert 10 < len(evening) < len(world.profiles)
    assert (np.diff(evening.moments) >= 0).all()
    assert begins + 17 * HOUR < evening.moments.min() <= evening.moments.max() < begins + 23 * HOUR
    assert all(len({*shown}) == len(shown) == 20 for shown in evening.shown.tolist())
    assert {*evening.shown.ravel().tolist()} <= {*world.videos["video_id"].to_pylist()}
    best = np.sort(evening.wish, axis=1)[:, -PLACES:]
    assert chance_of_start(best).mean() > chance_of_start(evening.wish[:, :PLACES]).mean() + 0.1


def test_life_goes_on_from_the_world_that_its_seed_gives() -> None:
    assert same_world(simulate(**SIZE)[0], generate_world(**SIZE))

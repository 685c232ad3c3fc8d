"""The generated world: the same for a seed, and with something to learn in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from same_world import same_world

from delorean.demo.life import SHOWN, SIMILAR_SHOWN
from delorean.demo.notifications import CHOICE
from delorean.demo.simulation import generate_world
from delorean.demo.state import CompanyState
from delorean.demo.world import DAY, HISTORY_DAYS, HOUR, OUTCOME_HOURS, World, micros_of, read_world
from schemas.errors import ConfigError, CorruptFileError, MissingFileError
from snapshotter.records import to_micros


@pytest.fixture(scope="module")
def world() -> World:
    return generate_world(seed=3, days=4, profiles=150, videos=500)


def test_a_seed_gives_one_world_and_another_seed_another(world: World) -> None:
    assert same_world(world, generate_world(seed=3, days=4, profiles=150, videos=500))
    assert not same_world(world, generate_world(seed=4, days=4, profiles=150, videos=500))


def test_a_world_comes_back_from_its_files(world: World, tmp_path: Path) -> None:
    world.write(tmp_path)
    assert same_world(world, read_world(tmp_path))


def test_broken_or_missing_files_are_named(world: World, tmp_path: Path) -> None:
    world.write(tmp_path)
    (tmp_path / "plays.parquet").write_bytes(b"not Parquet")
    with pytest.raises(CorruptFileError, match=r"plays\.parquet"):
        read_world(tmp_path)
    (tmp_path / "plays.parquet").unlink()
    with pytest.raises(MissingFileError, match=r"plays\.parquet"):
        read_world(tmp_path)


def test_a_world_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="too small"):
        generate_world(seed=1, profiles=3)


def test_life_spans_the_history_and_the_days(world: World) -> None:
    start = to_micros(world.starts_at)
    started = micros_of(world.plays["started_at"])
    assert started.min() < start - (HISTORY_DAYS - 2) * DAY
    assert start + (world.days - 1) * DAY < started.max() < start + (world.days + 1) * DAY
    assert micros_of(world.impressions["time"]).min() >= start
    assert pc.all(pc.less_equal(world.plays["started_at"], world.plays["watched_at"])).as_py()


def test_homepages_show_each_candidate_once_and_none_before_its_release(world: World) -> None:
    released = dict(
        zip(world.videos["video_id"].to_pylist(), micros_of(world.videos["available_from"]).tolist(), strict=True)
    )
    for moment, shown in zip(
        micros_of(world.impressions["time"]).tolist(), world.impressions["video_ids"].to_pylist(), strict=True
    ):
        assert len(set(shown)) == len(shown) == sum(SHOWN.values())
        assert all(released[video] <= moment for video in shown)


def test_a_page_shows_other_videos_and_those_like_its_own_are_started_more_often(world: World) -> None:
    state, starts = CompanyState(world), _starts(world)
    genres = dict(zip(world.videos["video_id"].to_pylist(), world.videos["genres"].to_pylist(), strict=True))
    reached = []
    for page in world.pages.to_pylist():
        shown, seed, now = page["video_ids"], page["seed_id"], to_micros(page["time"])
        assert len({*shown, seed}) == SIMILAR_SHOWN + 1
        assert {*shown} <= {*state.catalogue(page["time"])["video_id"].to_pylist()}
        played = np.array([_played(starts, page["profile_id"], video, now) for video in shown])
        if played.any() and not played.all():
            alike = [len({*genres[video]} & {*genres[seed]}) / len({*genres[video], *genres[seed]}) for video in shown]
            reached.append(_auc(np.array(alike), played))
    assert len(reached) > 100
    assert np.mean(reached) > 0.53


def test_the_page_opened_is_of_what_its_reader_watched_just_before(world: World) -> None:
    ended = {
        (play["profile_id"], play["video_id"], play["watched_at"].timestamp() // 300)
        for play in world.plays.to_pylist()
    }
    for page in world.pages.to_pylist():
        last = page["time"].timestamp() // 300
        assert {(page["profile_id"], page["seed_id"], last - ago) for ago in (0, 1)} & ended


def test_a_notification_is_about_one_of_the_candidates_of_the_homepage_that_follows(world: World) -> None:
    homepages = {}
    for row in world.impressions.to_pylist():
        homepages.setdefault(row["profile_id"], []).append((row["time"], {*row["video_ids"]}))
    assert len(world.notifications) > 50
    for row in world.notifications.to_pylist():
        assert len({*row["video_ids"]}) == CHOICE
        after = [shown for time, shown in homepages[row["profile_id"]] if time > row["time"]]
        assert any({*row["video_ids"]} <= shown for shown in after)


def test_new_videos_appear_during_the_days(world: World) -> None:
    state = CompanyState(world)
    assert state.catalogue(world.snapshot_moment(0)).num_rows < state.catalogue(world.snapshot_moment(3)).num_rows


def test_taste_predicts_choices_better_than_popularity_and_popularity_better_than_chance(world: World) -> None:
    """Scores homepages by what was known when each was shown; a score is the rank of what was then played."""
    state = CompanyState(world)
    ids = world.videos["video_id"].to_numpy()
    genres = dict(zip(ids.tolist(), world.videos["genres"].to_pylist(), strict=True))
    starts = _starts(world)
    reached: dict[str, list[float]] = {"popularity": [], "taste": []}
    for row in world.impressions.to_pylist():
        now = to_micros(row["time"])
        played = np.array([_played(starts, row["profile_id"], video, now) for video in row["video_ids"]])
        if not played.any() or played.all():
            continue
        popularity = state.popularity(now - now % DAY)[np.searchsorted(ids, row["video_ids"])]
        watched: dict[str, int] = {}
        for play in state.viewing_history(row["profile_id"], now):
            for genre in genres[play["video_id"]]:
                watched[genre] = watched.get(genre, 0) + 1
        listed = {entry["video_id"] for entry in state.my_list(row["profile_id"], now)}
        taste = [
            np.mean([watched.get(genre, 0) for genre in genres[video]]) + 10 * (video in listed)
            for video in row["video_ids"]
        ]
        reached["popularity"].append(_auc(popularity, played))
        reached["taste"].append(_auc(np.array(taste), played))
    assert np.mean(reached["popularity"]) > 0.53
    assert np.mean(reached["taste"]) > np.mean(reached["popularity"]) + 0.05


def _starts(world: World) -> dict[tuple[int, int], list[int]]:
    starts: dict[tuple[int, int], list[int]] = {}
    plays = world.plays
    for profile, video, started in zip(
        plays["profile_id"].to_pylist(),
        plays["video_id"].to_pylist(),
        micros_of(plays["started_at"]).tolist(),
        strict=True,
    ):
        starts.setdefault((profile, video), []).append(started)
    return starts


def _played(starts: dict[tuple[int, int], list[int]], profile: int, video: int, now: int) -> bool:
    return any(now < started <= now + OUTCOME_HOURS * HOUR for started in starts.get((profile, video), []))


def _auc(scores: np.ndarray, played: np.ndarray) -> float:
    above = scores[played][:, None] - scores[~played][None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))

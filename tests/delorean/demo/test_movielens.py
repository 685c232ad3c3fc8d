"""MovieLens, both layouts, from small files that the tests write themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from same_world import same_world

from delorean.demo.movielens import movielens_world
from delorean.demo.movielens_files import read_movielens
from delorean.demo.state import CompanyState
from delorean.demo.world import DAY, HISTORY_DAYS, World, micros_of
from schemas.errors import ConfigError
from snapshotter.records import to_micros

GENRES = ["Comedy", "Drama", "Thriller"]
USERS, FILMS, EACH = 30, 120, 40


def _ratings() -> list[tuple[int, int, float, int]]:
    """Each user rates in two bursts years apart, in an order of their own, listed by film as published."""
    rng = np.random.default_rng(8)
    rows = []
    for user in range(1, USERS + 1):
        films = rng.permutation(np.arange(1, FILMS + 1))[:EACH]
        for nth, film in enumerate(films.tolist()):
            burst = 900_000_000 if nth < EACH // 2 else 1_400_000_000
            rows.append((user, film, float(rng.integers(1, 11)) / 2, burst + user * 1000 + nth * 7))
    return sorted(rows)


RATINGS = _ratings()


def _title(film: int) -> str:
    return f"Film, Nr {film}: Amélie" if film == 7 else f"Film {film} (19{film % 90 + 10})"


def write_csv(folder: Path) -> None:
    lines = [f"{user},{film},{stars},{seconds}" for user, film, stars, seconds in RATINGS]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    films = [f'{film},"{_title(film)}",{GENRES[film % 3]}|{GENRES[(film + 1) % 3]}' for film in range(1, FILMS + 1)]
    films[0] = f'1,"{_title(1)}",(no genres listed)'
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]) + "\n", encoding="utf-8")


def write_dat(folder: Path) -> None:
    lines = [f"{user}::{film}::{stars:g}::{seconds}" for user, film, stars, seconds in RATINGS]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    films = [f"{film}::{_title(film)}::{GENRES[film % 3]}|{GENRES[(film + 1) % 3]}" for film in range(1, FILMS + 1)]
    films[0] = f"1::{_title(1)}::(no genres listed)"
    (folder / "movies.dat").write_text("\n".join(films) + "\n", encoding="latin-1")


Writer = Callable[[Path], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("movielens")
    write_csv(folder)
    return movielens_world(folder, seed=1, days=5)


def test_both_layouts_give_the_same_world(world: World, tmp_path: Path) -> None:
    write_dat(tmp_path)
    assert same_world(world, movielens_world(tmp_path, seed=1, days=5))


def test_films_come_with_year_genres_and_accents(world: World) -> None:
    films = {film["video_id"]: film for film in world.videos.to_pylist()}
    assert films[1]["genres"] == []
    assert films[3]["genres"] == ["Comedy", "Drama"]
    assert films[3] | {"genres": 0} == {
        "video_id": 3,
        "title": "Film 3",
        "genres": 0,
        "release_year": 1913,
        "runtime_minutes": None,
        "available_from": None,
    }
    assert films[7]["title"] == "Film, Nr 7: Amélie"
    assert films[7]["release_year"] == 1998, "a title without a year gets that of its first rating"


def test_everybody_keeps_their_order_and_most_of_it_lies_before_the_first_day(world: World) -> None:
    start = to_micros(world.starts_at)
    plays = world.plays
    started = micros_of(plays["started_at"])
    assert started.min() >= start - HISTORY_DAYS * DAY
    assert started.max() < start + world.days * DAY
    for user in range(1, USERS + 1):
        mine = plays["profile_id"].to_numpy() == user
        order = np.argsort(started[mine], kind="stable")
        own = [film for _, film, _, _ in sorted((r for r in RATINGS if r[0] == user), key=lambda row: row[3])]
        assert plays["video_id"].to_numpy()[mine][order].tolist() == own
        assert (started[mine] < start).sum() == 0.7 * EACH
        assert len(np.unique(started[mine])) == EACH


def test_a_homepage_shows_what_is_played_then_beside_unseen_films(world: World) -> None:
    starts = {
        (profile, film): moment
        for profile, film, moment in zip(
            world.plays["profile_id"].to_pylist(),
            world.plays["video_id"].to_pylist(),
            micros_of(world.plays["started_at"]).tolist(),
            strict=True,
        )
    }
    assert world.impressions.num_rows > USERS
    for row in world.impressions.to_pylist():
        now = to_micros(row["time"])
        played = [starts.get((row["profile_id"], film), now + 99 * DAY) for film in row["video_ids"]]
        assert min(played) > now, "nothing on it was seen before"
        assert any(moment < now + DAY // 6 for moment in played)
        assert len(set(row["video_ids"])) == len(row["video_ids"]) == 20


def test_a_page_of_the_first_film_shows_the_second_beside_unseen_ones(world: World) -> None:
    plays: dict[int, list[tuple[int, int]]] = {}
    for play in world.plays.to_pylist():
        plays.setdefault(play["profile_id"], []).append((to_micros(play["started_at"]), play["video_id"]))
    assert world.pages.num_rows > 5
    for page in world.pages.to_pylist():
        now, own = to_micros(page["time"]), sorted(plays[page["profile_id"]])
        before, after = ([film for moment, film in own if (moment > now) is later] for later in (False, True))
        assert before[-1] == page["seed_id"]
        assert after[0] in page["video_ids"]
        assert not {*before} & {*page["video_ids"]}


def test_lists_hold_only_what_is_unplayed_then(world: World) -> None:
    starts = {
        (row["profile_id"], row["video_id"]): row["started_at"]
        for row in world.plays.select(["profile_id", "video_id", "started_at"]).to_pylist()
    }
    entries = world.list_entries.to_pylist()
    assert len(entries) > USERS
    for entry in entries:
        played = starts.get((entry["profile_id"], entry["video_id"]))
        assert played is None or played > entry["added_at"]
        assert entry["removed_at"] == played


def test_popularity_counts_only_what_had_happened(world: World) -> None:
    first = int(micros_of(world.plays["started_at"]).min())
    state = CompanyState(world)
    assert state.popularity(first).sum() == 0
    assert state.popularity(first + 1).sum() == pytest.approx(1)


def test_more_users_than_wanted_are_sampled_by_seed(tmp_path: Path) -> None:
    write_dat(tmp_path)
    one, same, other = (read_movielens(tmp_path, 12, seed) for seed in (1, 1, 2))
    assert len(np.unique(one.users)) == 12
    assert one.users_published == USERS
    assert np.array_equal(one.users, same.users)
    assert not np.array_equal(np.unique(one.users), np.unique(other.users))


@pytest.mark.parametrize(
    ("writer", "name", "line", "text", "expected"),
    [
        (write_csv, "ratings.csv", 5, "1,2,nine,900001", r"ratings\.csv, line 5: rating is not a number"),
        (write_csv, "ratings.csv", 5, "1,2", r"ratings\.csv, line 5: expected 4 fields"),
        (write_csv, "ratings.csv", 9, "1,2,7.5,900001", r"ratings\.csv, line 9: rating is outside"),
        (write_csv, "ratings.csv", 9, "1,99999,4,900001", r"ratings\.csv, line 9: movieId 99999 is not in"),
        (write_csv, "ratings.csv", 9, "1,2,4,0", r"ratings\.csv, line 9: timestamp"),
        (write_csv, "ratings.csv", 1, "user,film,stars,time", r"ratings\.csv, line 1: expected the header"),
        (write_csv, "movies.csv", 4, "x,Film,Drama", r"movies\.csv, line 4: movieId is not a number"),
        (write_csv, "movies.csv", 4, "3,Film", r"movies\.csv, line 4: expected 3 fields"),
        (write_csv, "movies.csv", 4, "1,Film,Drama", r"movies\.csv, line 4: movieId 1 is listed twice"),
        (write_dat, "ratings.dat", 3, "1::2::4", r"ratings\.dat, line 3: expected 4 fields"),
        (write_dat, "ratings.dat", 3, "1::2::four::900001", r"ratings\.dat, line 3: rating is not a number"),
        (write_dat, "ratings.dat", 3, "1:2:4:900001", r"ratings\.dat, line 3: expected 4 fields"),
        (write_dat, "ratings.dat", 3, "1,,2,,4,,900001", r"ratings\.dat, line 3: expected 4 fields"),
        (write_dat, "movies.dat", 2, "2::Film", r"movies\.dat, line 2: expected 3 fields"),
    ],
)
def test_broken_input_is_named_by_file_and_line(
    writer: Writer, name: str, line: int, text: str, expected: str, tmp_path: Path
) -> None:
    writer(tmp_path)
    path = tmp_path / name
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = text.encode()
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ConfigError, match=expected):
        movielens_world(tmp_path, seed=1)


def test_fields_run_together_with_single_colons_are_not_skipped(tmp_path: Path) -> None:
    """Arrow reads `::` as an empty column: what stands in it must not pass unseen."""
    write_dat(tmp_path)
    path = tmp_path / "ratings.dat"
    lines = path.read_text().split("\n")
    lines[5] = "1:x:2:y:4:z:900001"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"ratings\.dat, line 6"):
        movielens_world(tmp_path, seed=1)


def test_an_empty_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither ratings\.csv"):
        movielens_world(tmp_path, seed=1)
    write_csv(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
    with pytest.raises(ConfigError, match="no ratings"):
        movielens_world(tmp_path, seed=1)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,900000000\n")
    with pytest.raises(ConfigError, match="1 users"):
        movielens_world(tmp_path, seed=1)
    (tmp_path / "ratings.csv").write_text("")
    with pytest.raises(ConfigError, match=r"ratings\.csv"):
        movielens_world(tmp_path, seed=1)

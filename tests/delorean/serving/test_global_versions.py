"""Versions of global elements while serving: by the model's rules, whatever is published or breaks meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import company
import pyarrow as pa
import pytest

from delorean.serving import GlobalVersions
from delorean.state.rules import AsOf
from encoders.library.keys import VIDEOS
from prana_proxy import supervised
from schemas.data_keys import global_element
from schemas.errors import ConfigError, StorageError
from snapshotter.global_elements import publish_global
from snapshotter.records import to_micros

HOUR = timedelta(hours=1)
OTHER = global_element("videos", "struct<video_id: int64, popularity: double>")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = company.NOW

    def __call__(self) -> int:
        return to_micros(self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def opened(published: Any, clock: Clock, refresh: timedelta = HOUR, **rule: Any) -> Iterator[GlobalVersions]:
    rules = {"videos": AsOf(**rule)}
    with GlobalVersions([VIDEOS], published.index, published.storage, clock, refresh, rules=rules) as versions:
        yield versions


def served(versions: GlobalVersions, clock: Clock) -> str | None:
    found = versions.newest(clock.now)["videos"]
    return found and found.version.version_id


def other_type(published: Any, version: str, valid_from: Any) -> None:
    table = pa.table({"video_id": [1], "popularity": [1.0]})
    assert publish_global(table, OTHER, valid_from, published.storage, published.index, version)


def until(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_version_older_than_max_age_is_absent_as_it_was_in_training(published: Any, clock: Clock) -> None:
    with opened(published, clock, max_age=25 * HOUR) as versions:
        assert served(versions, clock) == "all"
        clock.now += HOUR
        assert served(versions, clock) == "all"
        clock.now += timedelta(microseconds=1)
        assert served(versions, clock) is None
        assert versions.problem is None


def test_a_lag_holds_a_version_back_as_it_did_in_training(published: Any, clock: Clock) -> None:
    published.videos("next", company.NOW)
    with opened(published, clock, lag=HOUR) as versions:
        assert served(versions, clock) == "all"
        clock.now += HOUR
        assert served(versions, clock) == "next"
    with opened(published, clock, lag=HOUR, allow_exact=False) as versions:
        assert served(versions, clock) == "all"


def test_a_clock_that_is_set_back_sees_the_version_of_then(published: Any, clock: Clock) -> None:
    with opened(published, clock) as versions:
        assert served(versions, clock) == "all"
        clock.now -= 25 * HOUR
        assert served(versions, clock) == "few"


def test_versions_of_another_type_matter_only_while_they_are_valid(published: Any, clock: Clock) -> None:
    other_type(published, "ancient", company.NOW - timedelta(days=9))
    other_type(published, "soon", company.NOW + HOUR)
    published.videos("mended", company.NOW + 2 * HOUR)
    with opened(published, clock) as versions:
        assert (served(versions, clock), versions.problem) == ("all", None)
        clock.now += HOUR
        assert served(versions, clock) is None  # no model was trained with it, and the one before is not valid
        assert "version 'soon' of 'videos' is struct<" in (versions.problem or "")
        assert versions.unusable == 1
        clock.now += HOUR
        assert (served(versions, clock), versions.problem) == ("mended", None)


def test_a_version_of_a_type_that_can_be_read_serves_with_the_models_type(published: Any, clock: Clock) -> None:
    smaller = global_element("videos", "struct<video_id: int32, release_year: int16, seen: bool>")
    table = pa.table(
        {
            "video_id": pa.array([1], pa.int32()),
            "release_year": pa.array([1985], pa.int16()),
            "seen": [True],
        }
    )
    assert publish_global(table, smaller, company.NOW, published.storage, published.index, "smaller")
    with opened(published, clock) as versions:
        loaded = versions.newest(clock.now)["videos"]
        assert (versions.problem, loaded and loaded.version.version_id) == (None, "smaller")
        assert loaded is not None
        assert loaded.values.type == pa.list_(VIDEOS.type)
        missing = {"title": None, "runtime_minutes": None, "popularity": None, "genres": []}
        assert loaded.values.to_pylist() == [[{"video_id": 1, "release_year": 1985, **missing}]]


def test_serving_does_not_begin_with_a_version_of_another_type(published: Any, clock: Clock) -> None:
    other_type(published, "other", company.NOW)
    refused = pytest.raises(ConfigError, match="version 'other' of 'videos' is struct<.*the model was trained with")
    with refused, opened(published, clock):
        pass


def test_a_version_that_cannot_be_read_leaves_the_one_before_in_use(published: Any, clock: Clock) -> None:
    published.videos("broken", company.NOW + HOUR)
    version = published.index.global_version("videos", "broken")
    published.storage.delete([file.path for file in version.files])
    with opened(published, clock, max_age=26 * HOUR) as versions:
        assert (served(versions, clock), versions.problem) == ("all", None)
        clock.now += HOUR
        assert served(versions, clock) == "all"
        assert "version 'broken' of 'videos' cannot be read" in (versions.problem or "")
        clock.now += 2 * HOUR
        assert served(versions, clock) is None  # by then it is older than max_age


class Failing:
    """An index that fails as a driver does that nobody translated, until it is mended."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.error: BaseException | None = None

    def global_versions(self, *arguments: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self._index.global_versions(*arguments)


@pytest.mark.parametrize("error", [ValueError("a driver's own"), MemoryError(), SystemExit(3), StorageError("ours")])
def test_whatever_a_refresh_raises_is_counted_reported_and_over_when_it_is_over(
    published: Any, clock: Clock, error: BaseException
) -> None:
    index = Failing(published.index)
    rules = {"videos": AsOf()}
    with GlobalVersions([VIDEOS], index, published.storage, clock, timedelta(milliseconds=5), rules=rules) as versions:
        until(lambda: versions.refreshes > 1)
        index.error = error
        until(lambda: versions.failures > 2)
        [problem] = supervised.problems()
        assert problem.startswith("looking for new versions of global elements: ")
        assert ("ours" if isinstance(error, StorageError) else type(error).__name__) in problem
        assert served(versions, clock) == "all"
        published.videos("next", company.NOW)
        index.error = None
        until(lambda: served(versions, clock) == "next")
        until(lambda: supervised.problems() == [])
        assert versions.problem is None


def test_a_refresh_that_hangs_is_a_problem_and_does_not_delay_the_end(
    published: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delorean.serving.global_versions._STUCK_SECONDS", 0.02)
    monkeypatch.setattr("delorean.serving.global_versions._CLOSING_SECONDS", 0.1)
    release = threading.Event()
    with opened(published, clock, timedelta(milliseconds=1)) as versions:
        monkeypatch.setattr(versions, "refresh", release.wait)
        until(lambda: "global elements has not ended for" in (versions.problem or ""))
    release.set()

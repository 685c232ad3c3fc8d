from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from prana_proxy.clock import FileClock, open_clock, system_clock
from schemas.errors import ConfigError


def test_without_a_uri_it_is_the_system_s() -> None:
    assert open_clock(None) is system_clock


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600_000_000),
        ("2026-01-01T02:00:00.000001+02:00\n", 1_767_225_600_000_001),
        ("1969-12-31T23:59:59.999999Z", -1),
    ],
)
def test_a_file_s_instant_is_read_to_the_microsecond(tmp_path: Path, text: str, micros: int) -> None:
    path = tmp_path / "company's clock"
    path.write_text(text)
    assert open_clock(path.as_uri())() == micros


def test_setting_it_is_seen_at_once_in_any_zone(tmp_path: Path) -> None:
    clock = FileClock(tmp_path / "clock")
    clock.set(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock() == 1_767_225_600_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]


def test_readers_never_see_half_an_instant(tmp_path: Path) -> None:
    clock = FileClock(tmp_path / "clock")
    first = datetime(2026, 1, 1, tzinfo=UTC)
    clock.set(first)
    read: set[int] = set()
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            read.add(clock())

    reader = threading.Thread(target=read_on)
    reader.start()
    for i in range(300):
        clock.set(first + timedelta(microseconds=i))
    done.set()
    reader.join()
    assert read <= {1_767_225_600_000_000 + i for i in range(300)}


@pytest.mark.parametrize("text", ["", "now", "2026-01-01T00:00:00", "1767225600", "2026-13-01T00:00:00Z"])
def test_a_file_without_an_instant_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clock"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"clock .*/clock contains no timestamp → write an RFC 3339 time with a zone"):
        open_clock(path.as_uri())


@pytest.mark.parametrize("uri", ["clock", "http://host/clock", "file://host/clock", "file:clock"])
def test_only_a_file_s_uri_will_do(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected file:///path"):
        open_clock(uri)


def test_a_time_without_a_zone_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no time zone"):
        FileClock(tmp_path / "clock").set(datetime(2026, 1, 1))

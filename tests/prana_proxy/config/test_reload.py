from __future__ import annotations

import logging
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from proxy_process import services_toml, until

from prana_proxy import supervised
from prana_proxy.config import reload as live_config
from prana_proxy.config.reload import follow
from prana_proxy.config.services_file import load_gateway_config, load_proxy_config
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.config import GatewayConfig
from schemas.errors import ConfigError


class Followed:
    """A gateway that follows a file. reported: for each change, whether it was applied."""

    def __init__(self, path: Path, opened: ExitStack, **options: Any) -> None:
        self.reported: list[bool] = []
        self.gateway = opened.enter_context(Gateway(load_gateway_config(path)))
        opened.enter_context(follow(path, self.gateway, on_change=self.reported.append, **options))
        self.becomes_reported(1)

    def becomes_reported(self, times: int) -> None:
        until(lambda: len(self.reported) >= times)

    @property
    def names(self) -> list[str]:
        return list(self.gateway.services)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return services_toml(tmp_path / "services.toml", {"one": {"url": "http://127.0.0.1:9/{profile_id}"}})


TWO = {name: {"url": "http://127.0.0.1:9/{profile_id}"} for name in ("one", "two")}


def replace(path: Path) -> None:
    services_toml(path, TWO)


def write_in_place(path: Path) -> None:
    new = services_toml(path.with_name("other.toml"), TWO).read_text()
    with path.open("r+") as file:
        file.truncate(0)
        file.flush()
        for line in new.splitlines(keepends=True):
            file.write(line)
            file.flush()


def delete_and_write(path: Path) -> None:
    path.unlink()
    services_toml(path, TWO)


@pytest.mark.parametrize("change", [replace, write_in_place, delete_and_write])
def test_a_change_applies_however_it_is_written(
    path: Path, opened: ExitStack, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_config, "_SETTLE_SECONDS", 1.0)  # a machine with other work may write slowly
    followed = Followed(path, opened)
    change(path)
    followed.becomes_reported(2)
    assert followed.names == ["one", "two"]
    assert followed.reported == [True, True]  # what the file contained in between was never applied


def test_links_may_be_swapped_as_in_a_cluster(tmp_path: Path, opened: ExitStack) -> None:
    # services.toml → current/services.toml, current → version-1; then current → version-2 in one rename.
    for version, services in (("version-1", {"one": TWO["one"]}), ("version-2", TWO)):
        (tmp_path / "data" / version).mkdir(parents=True)
        services_toml(tmp_path / "data" / version / "services.toml", services)
    (tmp_path / "data" / "current").symlink_to("version-1")
    path = tmp_path / "services.toml"
    path.symlink_to("data/current/services.toml")
    followed = Followed(path, opened)
    (tmp_path / "data" / "next").symlink_to("version-2")
    os.replace(tmp_path / "data" / "next", tmp_path / "data" / "current")
    until(lambda: followed.names == ["one", "two"])
    services_toml(tmp_path / "data" / "version-2" / "services.toml", {"two": TWO["two"]})
    until(lambda: followed.names == ["two"])


def test_a_wrong_change_is_refused_with_its_reason_and_the_old_one_stays(
    path: Path, opened: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    followed = Followed(path, opened)
    good = path.read_text()
    path.write_text(good.replace("timeout_seconds = 30.0", "timeout_second = 30.0"))
    followed.becomes_reported(2)
    assert followed.reported[1] is False
    assert followed.names == ["one"]
    [refused] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert refused.startswith("config_refused reason=")
    assert f"{path}, line 5: services.one.timeout_second: unknown field" in refused
    path.unlink()
    followed.becomes_reported(3)
    assert "cannot be read: No such file" in caplog.records[-1].getMessage()
    path.write_text(good)
    followed.becomes_reported(4)
    assert followed.reported == [True, False, False, True]


def test_what_needs_a_restart_is_told_and_the_rest_applies(
    path: Path, opened: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    followed = Followed(path, opened, started=load_proxy_config(path))
    clock = path.with_name("clock")
    clock.write_text("2026-01-01T00:00:00Z")
    services_toml(path, TWO, f'clock = "file://{clock}"\n[server]\nworkers = 3\n')
    until(lambda: followed.names == ["one", "two"])
    followed.becomes_reported(2)
    reported = [record.getMessage() for record in caplog.records if record.name == "prana_proxy.config.reload"]
    assert reported == [
        "config_applied services=2",
        "config_needs_restart part=[server]",
        "config_needs_restart part=clock",
    ]


def test_a_change_that_is_not_allowed_is_refused(path: Path, opened: ExitStack) -> None:
    def allowed(config: Any) -> None:
        if len(config.services) > 1:
            raise ConfigError.because("one service is enough")

    followed = Followed(path, opened, allowed=allowed)
    services_toml(path, TWO)
    followed.becomes_reported(2)
    assert followed.reported == [True, False]
    assert followed.names == ["one"]


def test_no_call_is_dropped_while_it_changes(
    tmp_path: Path, opened: ExitStack, service: Any, profiles: Any, long: Any
) -> None:
    fields = {"url": service.url + "/brief/{profile_id}", "max_concurrent": 4}
    path = services_toml(tmp_path / "services.toml", {"one": fields})
    followed, statuses, changing = Followed(path, opened), set(), threading.Event()

    def ask() -> None:
        while not changing.is_set():
            statuses.update(followed.gateway.fetch("one", profiles(*range(8)), long)["status"].to_pylist())

    callers = [threading.Thread(target=ask) for _ in range(3)]
    for caller in callers:
        caller.start()
    for change in range(3):
        services_toml(path, {"one": {**fields, "max_concurrent": 5 + change}, f"other_{change}": TWO["two"]})
        followed.becomes_reported(2 + change)
        assert f"other_{change}" in followed.names
    changing.set()
    for caller in callers:
        caller.join()
    assert statuses == {"ok"}


@pytest.fixture
def few_files(opened: ExitStack) -> Callable[[], None]:
    """Leave this process a single file handle, so that a file can be read but no folder watched, as without inotify."""

    def leave_one() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        taken: list[int] = []
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        os.close(taken.pop())
        opened.callback(lambda: [os.close(one) for one in taken])

    return leave_one


def test_a_change_applies_when_the_system_cannot_watch_files_and_health_says_so(
    path: Path, opened: ExitStack, few_files: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = opened.enter_context(Gateway(load_gateway_config(path)))
    failed_before = supervised.failures()
    few_files()
    opened.enter_context(follow(path, gateway))
    until(lambda: any(problem.startswith("prana-config-watch: ") for problem in supervised.problems()))
    assert supervised.failures() > failed_before
    until(lambda: "background_failed work=prana-config-watch" in caplog.text)
    assert f"{path.parent} cannot be watched, so services.toml is read every second: " in caplog.text
    path.write_text(two_text(path))
    until(lambda: set(gateway.services) == {"one", "two"})
    opened.close()
    assert supervised.problems() == []


def two_text(path: Path) -> str:
    text = path.read_text()
    return text + text.replace("services.one", "services.two")


def test_a_defect_while_a_change_applies_is_counted_and_the_change_tried_again(path: Path, opened: ExitStack) -> None:
    defects = [RuntimeError("a defect"), KeyError("another"), SystemExit(3)]
    failed_before = supervised.failures()

    def allowed(config: GatewayConfig) -> None:
        if len(config.services) > 1 and defects:
            raise defects.pop(0)

    followed = Followed(path, opened, allowed=allowed)
    path.write_text(two_text(path))
    until(lambda: any(problem.startswith("prana-config: ") for problem in supervised.problems()))
    until(lambda: followed.names == ["one", "two"])
    until(lambda: supervised.problems() == [])
    assert supervised.failures() == failed_before + 3


def test_following_ends_with_its_context(path: Path) -> None:
    with Gateway(load_gateway_config(path)) as gateway, follow(path, gateway):
        assert any(thread.name == "prana-config" for thread in threading.enumerate())
    assert not any(thread.name == "prana-config" for thread in threading.enumerate())


def test_a_folder_that_is_replaced_as_a_whole_is_followed(tmp_path: Path, opened: ExitStack) -> None:
    (tmp_path / "etc").mkdir()
    path = services_toml(tmp_path / "etc" / "services.toml", {"one": TWO["one"]})
    followed = Followed(path, opened)
    (tmp_path / "etc").rename(tmp_path / "old")
    (tmp_path / "new").mkdir()
    services_toml(tmp_path / "new" / "services.toml", TWO)
    (tmp_path / "new").rename(tmp_path / "etc")
    until(lambda: followed.names == ["one", "two"])

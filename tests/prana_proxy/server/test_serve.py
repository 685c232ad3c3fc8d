from __future__ import annotations

import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from proxy_process import ProxyProcess, proxy_process, services_toml, until
from thrift_bytes import fetch_of, hung_up

from prana_proxy.client import PranaClient
from schemas.errors import ServiceError


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serving_says_when_it_is_ready_and_stops_on_a_signal(tmp_path: Path, service: Any, ending: int) -> None:
    path = services_toml(tmp_path / "services.toml", {"one": {"url": service.url + "/ok/{profile_id}"}})
    with proxy_process(path) as proxy, PranaClient(proxy.addresses) as client:
        assert list(client.services()) == ["one"]
        proxy.process.send_signal(ending)  # while a connection is open
        assert proxy.process.wait(30) == 0
        assert proxy.process.stdout is not None
        assert proxy.process.stdout.read() == ""
        assert [len(proxy.events(name)) for name in ("ready", "stopping", "stopped")] == [1, 1, 1]


def test_a_second_signal_ends_it_at_once(tmp_path: Path, service: Any) -> None:
    path = services_toml(tmp_path / "services.toml", {"hang": {"url": service.url + "/hang/{profile_id}"}})
    with proxy_process(path, stop_seconds=600.0) as proxy, connected(proxy) as connection:
        connection.sendall(fetch_of("hang", 1))
        until(lambda: service.in_flight)
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: proxy.events("stopping"))
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(30) == 128 + signal.SIGTERM


class Callers:
    """Clients that request page after page, each in a thread, until they are stopped."""

    def __init__(self, addresses: list[str], count: int, contexts: Any) -> None:
        self.statuses: Counter[str] = Counter()
        self.errors: list[str] = []
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(addresses, contexts)) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def some_more(self, pages: int = 40) -> None:
        """Wait until they have been answered some more."""
        aim = self.statuses.total() + pages
        until(lambda: self.statuses.total() >= aim, 60)

    def _ask(self, addresses: list[str], contexts: Any) -> None:
        with PranaClient(addresses) as client:
            service = client.services()["brief"]
            while not self._stopping.is_set():
                try:
                    answers = client.fetch(service, contexts, timedelta(seconds=30))
                except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
                    self.errors.append(str(error))
                    return
                with self._lock:
                    self.statuses.update(answers["status"].to_pylist())


def test_limits_hold_over_processes_and_one_that_is_killed_comes_back(
    tmp_path: Path, service: Any, profiles: Callable[..., Any]
) -> None:
    limited = {"url": service.url + "/brief/{profile_id}", "max_concurrent": 3, "retries": 0}
    path = services_toml(tmp_path / "services.toml", {"brief": limited})
    with (
        proxy_process(path, processes=2, http_port=0) as proxy,
        Callers(proxy.addresses, 6, profiles(1, 2, 3, 4)) as callers,
    ):
        callers.some_more()
        assert service.most_in_flight == 3
        assert all(answering(worker) for worker in proxy.workers)
        proxy.workers[0].kill()
        until(lambda: proxy.events("process_died"))
        callers.some_more()
        service.most_in_flight = 0
        until(lambda: proxy.metric("prana_processes_ready") == 2)
        callers.some_more(100)
        assert service.most_in_flight == 3  # the places of the one that died are free
        assert proxy.metric("prana_process_starts_total") == 3
        assert proxy.reported("ready") == (200, "ready\n")
    assert callers.errors == []
    assert set(callers.statuses) == {"ok"}


def answering(worker: psutil.Process) -> bool:
    """Whether clients are connected to a process."""
    return any(connection.status == psutil.CONN_ESTABLISHED for connection in worker.net_connections())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGRTMIN + 5], ids=["with a name", "without a name"])
def test_a_process_is_started_again_whatever_signal_ended_it(tmp_path: Path, service: Any, number: int) -> None:
    path = services_toml(tmp_path / "services.toml", {"one": {"url": service.url + "/ok/{profile_id}"}})
    with proxy_process(path, processes=2, http_port=0) as proxy:
        proxy.workers[0].send_signal(number)
        until(lambda: proxy.events("process_died"))
        until(lambda: proxy.metric("prana_process_starts_total") == 3)


def test_each_process_may_have_its_own_port(tmp_path: Path, service: Any, profiles: Callable[..., Any]) -> None:
    path = services_toml(tmp_path / "services.toml", {"one": {"url": service.url + "/ok/{profile_id}"}})
    with proxy_process(path, processes=2, ports="each") as proxy:
        assert len(set(proxy.addresses)) == 2
        for address in proxy.addresses:
            with PranaClient([address]) as client:
                answers = client.fetch(client.services()["one"], profiles(1), timedelta(seconds=30))
                assert answers["status"].to_pylist() == ["ok"]
        workers = proxy.workers
        workers[1].kill()
        until(lambda: len(set(proxy.workers) - {workers[1]}) == 2)  # another one, at the same port
        with PranaClient(proxy.addresses[1:]) as client:
            until(lambda: answers_at(client))
        workers = proxy.workers
        proxy.process.kill()
        psutil.wait_procs(workers, timeout=20)
        assert not any(worker.is_running() for worker in workers)


def answers_at(client: PranaClient) -> bool:
    try:
        return bool(client.services())
    except ServiceError:  # not yet
        return False


def test_several_processes_finish_what_is_in_flight_when_told_to_stop(
    tmp_path: Path, service: Any, profiles: Callable[..., Any]
) -> None:
    path = services_toml(tmp_path / "services.toml", {"waits": {"url": service.url + "/after_five_ok/{profile_id}"}})
    with proxy_process(path, processes=2) as proxy, connected(proxy) as connection, connected(proxy) as idle:
        connection.sendall(fetch_of("waits", 1))
        until(lambda: service.in_flight)
        proxy.process.send_signal(signal.SIGTERM)
        assert hung_up(idle)
        service.asked["ok"] = 5
        assert len(connection.recv(4)) == 4
        assert proxy.process.wait(30) == 0


def connected(proxy: ProxyProcess) -> socket.socket:
    host, port = proxy.addresses[0].split(":")
    return socket.create_connection((host, int(port)), 20)

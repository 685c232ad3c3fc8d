"""A gateway that lives: reconfigured under load, beside a service that hangs, with callers that leave."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pytest
from proxy_process import until

from prana_proxy.gateway import Gateway
from prana_proxy.gateway.shared_counters import ProcessField
from prana_proxy.gateway.upstream import Upstream
from schemas.errors import ServiceError

CHANGES = 200
PER_SECOND = 100


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


class Load:
    """Callers that ask a gateway again and again, each key once. statuses: those of their answers, by service."""

    def __init__(self, gateway: Gateway, **contexts: int) -> None:
        self.statuses: dict[str, Counter[str]] = {name: Counter() for name in contexts}
        self._gateway, self._ids, self._over = gateway, itertools.count(), threading.Event()
        self._threads = ThreadPoolExecutor(len(contexts))
        self._asking = [self._threads.submit(self._ask, name, number) for name, number in contexts.items()]

    def _ask(self, name: str, number: int) -> None:
        while not self._over.wait(0.01):
            ids = pa.table({"profile_id": [next(self._ids) for _ in range(number)]})
            answers = self._gateway.fetch(name, ids, timedelta(seconds=60))
            self.statuses[name].update(answers["status"].to_pylist())

    def end(self) -> None:
        self._over.set()
        for asking in self._asking:
            asking.result()
        self._threads.shutdown()


@contextmanager
def load(gateway: Gateway, **contexts: int) -> Iterator[Load]:
    made = Load(gateway, **contexts)
    try:
        yield made
    finally:
        made.end()


def tasks_of(gateway: Gateway) -> int:
    return len(asyncio.all_tasks(gateway._thread.loop))


def upstreams() -> int:
    gc.collect()
    # `isinstance` would ask a weak proxy of another test for its class, and a dead one raises.
    return sum(type(one) is Upstream for one in gc.get_objects())


def test_two_hundred_changes_under_load_fail_no_call_and_leave_nothing_behind(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    ports = [urlsplit(url).port for url in (service.url, service.other_url)]

    def config(change: int) -> Any:
        url = (service.url, service.other_url)[change % 2]
        tables = {
            "moving": {"url": f"{url}/ok/{{profile_id}}", "max_concurrent": 5 + change % 3},
            "batched": {"batch_url": "/batch/ok", "batch_size": 5 + change % 4},
            "limited": {"url": "/brief/{profile_id}", "calls_per_second": PER_SECOND, "burst": 5 + change % 2},
            "same": {"url": "/ok/{profile_id}"},
            "falling": {"url": "/500/{profile_id}", "fallback": {"service": "moving", "value": [-1]}},
        }
        if change % 2:
            tables["coming_and_going"] = {"url": "/ok/{profile_id}"}
        return config_of(**tables)

    def change_and_look(gateway: Gateway, change: int) -> None:
        gateway.reconfigure(config(change))
        key = -1 - change
        assert gateway.fetch("moving", profiles(key), long)["status"].to_pylist() == ["ok"]
        assert [call.port for call in service.log if call.keys == (str(key),)] == [ports[change % 2]]
        if change % 2:
            assert gateway.fetch("coming_and_going", profiles(1), long)["status"].to_pylist() == ["ok"]
        else:
            with pytest.raises(ServiceError, match="unknown service 'coming_and_going'"):
                gateway.fetch("coming_and_going", profiles(1), long)

    before = upstreams()
    with Gateway(config(0)) as gateway:
        with load(gateway, moving=4, batched=9, limited=6, same=2, falling=2) as asked:
            for change in range(20):
                change_and_look(gateway, change)
            process = psutil.Process()
            memory = process.memory_info().rss
            for change in range(20, CHANGES):
                change_and_look(gateway, change)
            grown = process.memory_info().rss - memory
            assert tasks_of(gateway) < CHANGES / 2  # what is in flight, not what was
        until(lambda: not gateway._gateway._tasks)
        assert upstreams() - before == 6
        until(lambda: tasks_of(gateway) == 0)
        connections = [one for one in process.net_connections("tcp") if one.raddr and one.raddr.port in ports]
        assert len(connections) < 100
        assert grown < 50 << 20
        for name in ("moving", "batched", "limited", "same"):
            assert set(asked.statuses[name]) == {"ok"}, name
            assert (
                gateway.counters.page(name).own[ProcessField.IN_FLIGHT]
                == gateway.counters.page(name).own[ProcessField.QUEUED]
                == 0.0
            )
        assert set(asked.statuses["falling"]) == {"fallback"}
    times = [call.at for call in service.log if call.behaviour == "brief"]
    assert max(sum(at - 1.0 < other <= at for other in times) for at in times) <= PER_SECOND + 5  # as the log is read


def test_a_call_in_flight_ends_by_the_configuration_it_began_with(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    with Gateway(config_of(one={"url": "/brief/{profile_id}"})) as gateway:
        fetch = gateway.start({"one": profiles(*range(30))}, long)
        until(lambda: service.asked["brief"])
        gateway.reconfigure(config_of(one={"url": "/404/{profile_id}", "type": "list<string>"}))
        assert gateway.fetch("one", profiles(1), long)["status"].to_pylist() == ["error"]
        gateway.reconfigure(config_of(other={"url": "/ok/{profile_id}"}))
        assert set(fetch.result()["one"]["status"].to_pylist()) == {"ok"}


def test_a_breaker_remembers_over_a_change_and_can_be_forced_by_one(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    def config(**breaker: Any) -> Any:
        return config_of(one={"url": "/500/{profile_id}", "breaker": {"sleep_seconds": 60, **breaker}})

    with Gateway(config()) as gateway:
        gateway.fetch("one", profiles(*range(25)), long)
        before = service.asked["500"]
        gateway.reconfigure(config(min_calls=30))
        assert gateway.fetch("one", profiles(1), long)["status"].to_pylist() == ["short_circuited"]
        assert service.asked["500"] == before
        gateway.reconfigure(config(forced="closed"))
        assert gateway.fetch("one", profiles(1), long)["status"].to_pylist() == ["error"]


def test_a_service_forced_open_is_spared_what_waits_already(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    one = {"url": "/brief/{profile_id}", "max_concurrent": 1}
    with Gateway(config_of(one=one)) as gateway:
        fetch = gateway.start({"one": profiles(*range(500))}, long)
        until(lambda: service.asked["brief"] > 2)
        gateway.reconfigure(config_of(one={**one, "breaker": {"forced": "open"}}))
        statuses = Counter(fetch.result()["one"]["status"].to_pylist())
    assert statuses["ok"] == service.asked["brief"] < 500
    assert statuses["short_circuited"] == 500 - statuses["ok"]


def test_a_stand_in_that_has_moved_is_asked_where_it_is(
    config_of: Any, service: Any, profiles: Any, long: timedelta, free_port: int
) -> None:
    one = {"url": "/500/{profile_id}", "fallback": {"service": "other"}}
    with Gateway(config_of(one=one, other={"url": f"http://127.0.0.1:{free_port}/{{profile_id}}"})) as gateway:
        assert gateway.fetch("one", profiles(1), long)["status"].to_pylist() == ["error"]
        gateway.reconfigure(config_of(one=one, other={"url": "/ok/{profile_id}"}))
        assert gateway.fetch("one", profiles(1), long)["status"].to_pylist() == ["fallback"]


def test_a_registry_that_is_slow_keeps_no_change_waiting(
    config_of: Any, service: Any, profiles: Any, long: timedelta, silent_server: str
) -> None:
    slow = {"url": "/ok/{profile_id}", "discovery": f"eureka://{silent_server}/eureka?app=SLOW"}
    with Gateway(config_of(one={"url": "/ok/{profile_id}"})) as gateway:
        gateway.reconfigure(config_of(slow=slow, one={"url": "/brief/{profile_id}"}))
        assert gateway.fetch("one", profiles(1), long)["status"].to_pylist() == ["ok"]
        assert service.asked == {"brief": 1}
        (row,) = gateway.fetch("slow", profiles(1), long).to_pylist()
        assert (row["status"], row["reason"]) == ("error", "no instance: they have not been looked up yet")


@pytest.mark.parametrize("there", [True, False])
def test_the_instances_of_a_service_that_is_removed_are_looked_up_no_more(
    config_of: Any, silent_server: str, free_port: int, there: bool
) -> None:
    registry = silent_server if there else f"127.0.0.1:{free_port}"
    slow = {"url": "/ok/{profile_id}", "discovery": f"eureka://{registry}/eureka?app=SLOW"}
    one = {"url": "/ok/{profile_id}"}
    with Gateway(config_of(one=one)) as gateway:
        gateway.reconfigure(config_of(one=one, slow=slow))
        assert tasks_of(gateway) == 1
        gateway.reconfigure(config_of(one=one, slow={**slow, "max_concurrent": 3}))
        until(lambda: not gateway._gateway._tasks)
        assert tasks_of(gateway) == 1
        gateway.reconfigure(config_of(one=one))
        until(lambda: tasks_of(gateway) == 0)


def test_a_fetch_that_is_given_up_lets_the_service_stop(config_of: Any, service: Any, profiles: Any) -> None:
    hour = timedelta(hours=1)
    with Gateway(config_of(hangs={"url": "/hang/{profile_id}", "timeout_seconds": 3600})) as gateway:
        fetch, other = (gateway.start({"hangs": profiles(*ids)}, hour) for ids in ((1, 2, 3), (3,)))
        until(lambda: service.in_flight == 3)
        fetch.cancel()
        until(lambda: service.in_flight == 1)  # the other fetch waits for it still
        other.cancel()
        until(lambda: service.in_flight == 0)
        assert gateway.counters.page("hangs").own[ProcessField.IN_FLIGHT] == 0.0
    assert sorted(service.keys["hang"]) == ["1", "2", "3"]


def test_a_clock_that_is_gone_is_told_to_who_asked_and_nothing_stays_behind(
    config_of: Any, profiles: Any, long: timedelta, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("2026-01-01T00:00:00Z")
    with Gateway(config_of(clock=f"file://{clock}", one={"url": "/ok/{profile_id}"})) as gateway:
        clock.rename(tmp_path / "away")
        with pytest.raises(Exception, match=r"clock .* cannot be read"):
            gateway.fetch("one", profiles(*range(50)), long)
        (tmp_path / "away").rename(clock)
        assert set(gateway.fetch("one", profiles(*range(50)), long)["status"].to_pylist()) == {"ok"}
        until(lambda: tasks_of(gateway) == 0)
        own = gateway.counters.page("one").own
        assert own[ProcessField.QUEUED] == own[ProcessField.IN_FLIGHT] == 0.0


def test_a_service_that_hangs_costs_the_others_little(config_of: Any, service: Any, profiles: Any) -> None:
    config = config_of(
        hangs={"url": "/hang/{profile_id}", "timeout_seconds": 1.0, "breaker": {"forced": "closed"}},
        other={"url": "/ok/{profile_id}"},
    )
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with Gateway(config) as gateway:

        def ask_other() -> float:
            began = time.perf_counter()
            gateway.fetch("other", profiles(*range(100)), timedelta(seconds=60))
            return time.perf_counter() - began

        ask_other()
        for i in range(96):  # one with and one without in turns: the least of many is what no other work disturbed
            hanging = gateway.start({"hangs": profiles(*range(10_000))}, timedelta(seconds=60)) if i % 2 else None
            if hanging:
                until(lambda: service.in_flight == 10)
            seconds[bool(hanging)].append(ask_other())
            if hanging:
                hanging.cancel()
                until(lambda: service.in_flight == 0)
    assert min(seconds[True]) <= min(seconds[False]) / 0.7

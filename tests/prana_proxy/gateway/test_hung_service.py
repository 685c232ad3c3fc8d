"""A service that hangs, or is slower than its callers are patient, over real sockets, alone and behind a proxy."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from proxy_process import ProxyProcess, proxy_process, services_toml, until

from prana_proxy.client import PranaClient
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.shared_counters import ProcessField, ServiceField
from schemas.errors import ServiceError

KINDS = {"one": "url", "batched": "batch_url"}
Ask = Callable[[float], list[str]]


def open_breaker(gateway: Gateway, name: str) -> bool:
    return gateway.counters.page(name).shared[ServiceField.BREAKER_STATE] != 0.0


@contextmanager
def callers(ask: Ask, number: int, budget: float) -> Iterator[Counter[str]]:
    """Ask on and on, each caller in a thread; gives how often which status came."""
    statuses, over = Counter[str](), threading.Event()

    def call_on() -> None:
        while not over.is_set():
            statuses.update(ask(budget))

    with ThreadPoolExecutor(number) as threads:
        asked = [threads.submit(call_on) for _ in range(number)]
        try:
            yield statuses
        finally:
            over.set()
        for one in asked:
            one.result()


def asking(gateway: Gateway, profiles: Any, *names: str) -> Ask:
    """Ask services for a profile that nobody has asked for; gives the first one's status."""
    numbers = count()

    def ask(budget: float) -> list[str]:
        contexts = profiles(next(numbers))
        answers = gateway.fetch_all(dict.fromkeys(names, contexts), timedelta(seconds=budget))
        return [status.as_py() for status in answers[names[0]]["status"]]

    return ask


@pytest.mark.parametrize("kind", KINDS)
def test_a_hung_service_opens_its_breaker_although_no_caller_waits_for_its_timeout(
    config_of: Any, profiles: Any, kind: str
) -> None:
    url = "/batch/hang" if kind == "batched" else "/hang/{profile_id}"
    hung, well = {KINDS[kind]: url, "timeout_seconds": 0.6}, {"url": "/ok/{profile_id}"}
    with Gateway(config_of(hung=hung, well=well)) as gateway:
        with callers(asking(gateway, profiles, "hung", "well"), 32, 0.15) as statuses:
            until(lambda: open_breaker(gateway, "hung"), 30)
            until(lambda: statuses["short_circuited"] > 100)
        until(lambda: not gateway.counters.page("hung").total(ProcessField.OUT))
        assert gateway.counters.page("hung").total(ProcessField.IN_FLIGHT) == 0.0


def test_a_hung_service_opens_its_breaker_for_one_caller_after_the_other(config_of: Any, profiles: Any) -> None:
    table = {"url": "/hang/{profile_id}", "timeout_seconds": 0.6, "breaker": {"window_seconds": 2.0}}
    with Gateway(config_of(hung=table)) as gateway:
        ask = asking(gateway, profiles, "hung")
        until(lambda: ask(0.15) == ["short_circuited"], 30)  # no window ever has twenty calls


def test_callers_with_little_patience_leave_a_slow_service_to_a_patient_one(config_of: Any, profiles: Any) -> None:
    with Gateway(config_of(slow={"url": "/late/{profile_id}", "timeout_seconds": 1.1})) as gateway:  # takes 0.6 s
        ask = asking(gateway, profiles, "slow")
        with callers(ask, 20, 0.56) as statuses:
            until(lambda: statuses["timeout"] >= 40)
            assert [ask(20.0) for _ in range(4)] == [["ok"]] * 4
        assert not open_breaker(gateway, "slow")
        assert statuses["short_circuited"] == 0


def test_callers_with_little_patience_probe_a_hung_service_no_more_often_than_it_sleeps(
    config_of: Any, service: Any, profiles: Any
) -> None:
    table = {"url": "/hang/{profile_id}", "timeout_seconds": 0.3, "breaker": {"sleep_seconds": 0.5}}
    with Gateway(config_of(hung=table)) as gateway:
        with callers(asking(gateway, profiles, "hung"), 8, 0.05):
            until(lambda: open_breaker(gateway, "hung"), 30)
            until(lambda: not service.in_flight)
            before, began = len(service.log), time.monotonic()
            until(lambda: time.monotonic() > began + 3.0)
        probes = [call.at for call in service.log[before:]]
        assert 2 <= len(probes) <= 7
        assert all(later - sooner > 0.4 for sooner, later in pairwise(probes))


def test_a_service_that_is_well_again_is_asked_again_by_callers_with_little_patience(
    config_of: Any, profiles: Any
) -> None:
    table = {"url": "/once/{profile_id}", "breaker": {"min_calls": 1, "sleep_seconds": 0.2}}
    failing = {"url": "/500/{profile_id}", "breaker": {"min_calls": 1, "sleep_seconds": 0.2}}
    with Gateway(config_of(one=failing)) as gateway:
        ask = asking(gateway, profiles, "one")
        until(lambda: ask(0.05) == ["short_circuited"])
        gateway.reconfigure(config_of(one={**table, "url": "/ok/{profile_id}"}))
        until(lambda: ask(0.05) == ["ok"])


def test_the_gauge_of_calls_in_flight_counts_what_is_out_and_those_that_wait_are_counted_apart(
    config_of: Any, service: Any, profiles: Any
) -> None:
    table = {"url": "/hang/{profile_id}", "calls_per_second": 1, "max_concurrent": 10}
    with Gateway(config_of(limited=table)) as gateway:
        fetch = gateway.start({"limited": profiles(*range(15))}, timedelta(seconds=60))
        until(lambda: service.in_flight == 1)
        page = gateway.counters.page("limited")
        until(lambda: page.total(ProcessField.WAITING) == 9)
        assert (page.total(ProcessField.OUT), page.total(ProcessField.QUEUED)) == (1, 5)
        fetch.cancel()
        until(lambda: not page.total(ProcessField.OUT))
        assert (
            page.total(ProcessField.WAITING)
            == page.total(ProcessField.QUEUED)
            == page.total(ProcessField.IN_FLIGHT)
            == 0
        )


def test_services_may_be_renamed_without_end(config_of: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(stays={"url": "/ok/{profile_id}"})) as gateway:
        for turn in range(600):
            services = {"stays": {"url": "/ok/{profile_id}"}, f"name_{turn}": {"url": "/ok/{profile_id}"}}
            gateway.reconfigure(config_of(**services))
        assert gateway.fetch("name_599", profiles(1), long)["status"].to_pylist() == ["ok"]
        until(lambda: set(gateway.counters.services()) == {"stays", "name_599"})


def test_as_many_services_as_there_may_be_are_all_renamed_at_once(
    config_of: Any, profiles: Any, long: timedelta
) -> None:
    def named(prefix: str) -> Any:
        return config_of(**{f"{prefix}_{i}": {"url": "/ok/{profile_id}"} for i in range(256)})

    with Gateway(named("first")) as gateway:
        for prefix in ("second", "third", "fourth"):
            gateway.reconfigure(named(prefix))
        assert gateway.fetch("fourth_255", profiles(1), long)["status"].to_pylist() == ["ok"]


def test_calls_that_outlive_their_service_s_name_keep_its_page(config_of: Any, service: Any, profiles: Any) -> None:
    with Gateway(config_of(hangs={"url": "/hang/{profile_id}", "timeout_seconds": 1.0})) as gateway:
        gateway.fetch("hangs", profiles(1), timedelta(seconds=0.1))
        gateway.reconfigure(config_of(other={"url": "/ok/{profile_id}"}))
        assert service.in_flight == 1
        assert gateway.counters.services() == ["hangs", "other"]
        until(lambda: gateway.counters.services() == ["other"])
        assert service.in_flight == 0


@contextmanager
def through(proxy: ProxyProcess, profiles: Any) -> Iterator[Ask]:
    """Ask through a proxy, each thread over a connection of its own."""
    numbers, own, clients = count(), threading.local(), ExitStack()

    def ask(budget: float) -> list[str]:
        if not hasattr(own, "client"):
            own.client = clients.enter_context(PranaClient(proxy.addresses))
            own.service = own.client.services()["hung"]
        contexts = profiles(*(next(numbers) for _ in range(2)))
        try:
            answers = own.client.fetch(own.service, contexts, timedelta(seconds=budget))
        except ServiceError:  # the machine was too busy for so little patience, or a process was killed
            return ["unavailable"]
        statuses: list[str] = answers["status"].to_pylist()
        return statuses

    with clients:
        yield ask


def test_processes_of_a_proxy_open_one_breaker_for_a_hung_service_and_a_killed_one_frees_its_probe(
    tmp_path: Path, service: Any, profiles: Any
) -> None:
    table = {"url": service.url + "/hang/{profile_id}", "timeout_seconds": 0.5, "breaker": {"sleep_seconds": 1.0}}
    path = services_toml(tmp_path / "services.toml", {"hung": table})
    state = 'prana_breaker_state{service="hung",state="closed"}'
    with proxy_process(path, processes=2, http_port=0) as proxy:
        with through(proxy, profiles) as ask, callers(ask, 6, 0.15) as statuses:
            until(lambda: proxy.metric(state) == 0, 60)
            until(lambda: statuses["short_circuited"] > 20)
        services_toml(path, {"hung": {**table, "timeout_seconds": 600.0}})
        until(lambda: len(proxy.events("config_applied")) == 2)
        until(lambda: not service.in_flight)
        with through(proxy, profiles) as ask:
            until(lambda: ask(0.15) and service.in_flight == 1)  # the probe, in one of the processes
        probes = service.asked["hang"]
        for died, worker in enumerate(proxy.workers, 1):
            worker.kill()
            until(lambda died=died: len(proxy.events("process_died")) == died)  # type: ignore[misc]
        until(lambda: not service.in_flight)
        until(lambda: proxy.metric("prana_processes_ready") == 2)
        with through(proxy, profiles) as ask:
            until(lambda: ask(0.15) and service.asked["hang"] > probes, 40)
        for name in ("prana_in_flight", "prana_calls_waiting"):
            assert proxy.metric(f'{name}{{service="hung"}}') <= 1

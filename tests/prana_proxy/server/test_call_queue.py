from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from prana_proxy.client import PranaClient
from prana_proxy.gateway.shared_counters import ProcessField, ServiceField
from prana_proxy.server.backpressure import Backpressure
from prana_proxy.server.call_queue import CallQueue


def queue_of(workers: int, size: int, calls: int) -> CallQueue:
    queue = CallQueue(workers, size, lambda answering, waiting: None)
    queue._calls = set(range(calls))  # type: ignore[arg-type]  # only counted
    return queue


@given(st.integers(1, 100), st.integers(0, 200), st.data())
def test_the_longer_the_queue_the_longer_callers_are_asked_to_wait(workers: int, size: int, data: Any) -> None:
    calls = data.draw(st.integers(0, workers + size))
    shorter, longer = queue_of(workers, size, calls), queue_of(workers, size, calls + 1)
    assert 50 <= shorter.retry_after_ms() <= longer.retry_after_ms() <= 5_000
    assert 0 <= shorter.pause_ms() <= longer.pause_ms() <= 5_000
    if calls <= workers + size // 2 and calls <= workers:
        assert shorter.pause_ms() == 0
    if size and calls == workers + size:
        assert shorter.pause_ms() > 0


def test_a_backlog_that_grows_asks_callers_to_slow_down(serving: Any, profiles: Any, long: Any) -> None:
    proxy = serving("brief")
    gateway, backpressure = proxy.gateway, Backpressure(proxy.gateway, logs_breakers=False)
    page = gateway.counters.page("brief")
    backpressure.measure(1.0)
    page.own[ProcessField.QUEUED] = 1_000.0
    assert backpressure.pause_ms("brief") == 0  # nothing is known of its pace yet
    page.own[ProcessField.CALLS] += 100.0
    backpressure.measure(1.0)
    backpressure.measure(1.0)
    slow = backpressure.pause_ms("brief")
    page.own[ProcessField.QUEUED] = 10.0
    assert backpressure.pause_ms("brief") == 0  # so much keeps it busy for less than a second
    assert slow == 2_000
    with PranaClient([proxy.address]) as client:
        assert client.fetch(client.services()["brief"], profiles(1), long)["status"].to_pylist() == ["ok"]
    page.own[ProcessField.QUEUED] = 0.0


def test_the_log_tells_when_a_breaker_opens_and_closes(serving: Any, caplog: Any) -> None:
    caplog.set_level("INFO", "prana_proxy")
    proxy = serving("ok")
    shared = proxy.gateway.counters.page("ok").shared
    backpressure = Backpressure(proxy.gateway, logs_breakers=True)
    for state in (0, 1, 2, 1, 2, 0, 0):
        shared[ServiceField.BREAKER_STATE] = state
        backpressure.measure(1.0)
    reported = [record.getMessage() for record in caplog.records if record.name == "prana_proxy.server.backpressure"]
    assert reported == ["breaker_opened service=ok", "breaker_closed service=ok"]

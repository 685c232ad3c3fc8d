from __future__ import annotations

import asyncio
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from proxy_process import until
from thrift_bytes import framed, hung_up

from prana_proxy.client import PranaClient
from prana_proxy.gateway.shared_counters import ProcessField, ServiceField, SharedCounters
from prana_proxy.server.monitoring import http_port, prometheus_text
from prana_proxy.server.worker_status import WorkerField, WorkerStatus
from prana_proxy.supervised import SupervisedThread
from schemas.errors import SetupError
from schemas.services import Status


def samples(counters: SharedCounters, worker_status: WorkerStatus) -> dict[str, float]:
    """All samples by name and labels: `prana_calls_total{service="ok"}`."""
    found = {}
    for family in text_string_to_metric_families(prometheus_text(counters, worker_status).decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_calls_and_contexts_are_counted(serving: Any, service: Any, profiles: Any, long: Any) -> None:
    proxy = serving("ok", "by_key")
    with PranaClient([proxy.address]) as client:
        client.fetch(client.services()["ok"], profiles(1, 2, 3, None), long)
    found = samples(proxy.gateway.counters, proxy.worker_status)
    contexts = {status: found[f'prana_contexts_total{{service="ok",status="{status}"}}'] for status in Status}
    assert contexts == {status: {"ok": 3, "invalid": 1}.get(status, 0) for status in Status}
    assert found['prana_calls_total{service="ok"}'] == service.asked["ok"] == 3
    assert (
        found['prana_call_seconds_count{service="ok"}']
        == found['prana_call_seconds_bucket{le="+Inf",service="ok"}']
        == 3
    )
    assert 0 < found['prana_call_seconds_sum{service="ok"}'] < 60
    assert found['prana_breaker_state{service="ok",state="closed"}'] == 1
    assert found["prana_server_calls_total"] == 2
    assert found["prana_config_ok"] == found["prana_processes_ready"] == 1


def test_the_latency_classes_only_rise(serving: Any, profiles: Any, long: Any) -> None:
    proxy = serving("brief")
    with PranaClient([proxy.address]) as client:
        client.fetch(client.services()["brief"], profiles(*range(20)), long)
    found = samples(proxy.gateway.counters, proxy.worker_status)
    classes = [value for name, value in found.items() if name.startswith("prana_call_seconds_bucket")]
    assert classes == sorted(classes)
    assert found['prana_call_seconds_bucket{le="0.01",service="brief"}'] == 0  # the service takes 0.02 s
    assert classes[-1] == 20


def test_what_is_refused_is_counted_by_reason(serving: Any, connect: Any) -> None:
    proxy = serving("ok")
    bad = connect(proxy)
    bad.sendall(framed(b"no thrift"))
    assert hung_up(bad)
    assert samples(proxy.gateway.counters, proxy.worker_status)['prana_server_refused_total{reason="malformed"}'] == 1


def test_numbers_of_all_processes_are_added(request: pytest.FixtureRequest) -> None:
    boards = [WorkerStatus(3)]
    shared = [SharedCounters(3)]
    request.addfinalizer(lambda: [one.close() for one in (*boards, *shared)])
    for number, part in enumerate(boards[0].processes):
        part[WorkerField.CONNECTIONS], part[WorkerField.CONFIG_OK] = number + 1, number != 1
    shared[0].page("slow").shared[ServiceField.BREAKER_STATE] = 2.0
    found = samples(shared[0], boards[0])
    assert found["prana_connections"] == 6
    assert found["prana_config_ok"] == 0  # one of them could not
    assert found['prana_breaker_state{service="slow",state="half_open"}'] == 1
    boards[0].forget(2)
    assert samples(shared[0], boards[0])["prana_connections"] == 3


def test_a_board_is_seen_by_those_who_share_it(request: pytest.FixtureRequest) -> None:
    first = WorkerStatus(2)
    second = WorkerStatus(2, 1, os.dup(first.handle or 0))
    request.addfinalizer(lambda: [one.close() for one in (first, second)])
    second.own[WorkerField.READY], second.own[WorkerField.CONNECTIONS] = 1.0, 7.0
    assert first.total(WorkerField.CONNECTIONS) == 7
    first.own[WorkerField.READY], first.own[WorkerField.CONNECTIONS] = 1.0, 5.0
    assert (first.excess, second.excess) == (0, 2)


@pytest.fixture
def monitor() -> Iterator[Any]:
    """What the HTTP port says, by page."""
    with asyncio.Runner() as runner:
        stack, counters, worker_status = AsyncExitStack(), SharedCounters(), WorkerStatus()
        address = runner.run(stack.enter_async_context(http_port("127.0.0.1", 0, counters, worker_status)))

        def ask(page: str) -> tuple[int, str, str]:
            def get() -> tuple[int, str, str]:
                try:
                    with urllib.request.urlopen(f"http://{address}{page}", timeout=20) as answer:
                        return answer.status, answer.headers["Content-Type"], answer.read().decode()
                except urllib.error.HTTPError as error:
                    with error:
                        return error.code, "", error.read().decode()

            return runner.run(asyncio.wait_for(asyncio.to_thread(get), 20))

        ask.counters, ask.worker_status, ask.address = counters, worker_status, address
        yield ask
        runner.run(stack.aclose())
        worker_status.close()
        counters.close()


def test_it_is_alive_before_it_is_ready(monitor: Any) -> None:
    assert monitor("/health")[::2] == (200, "alive\n")
    assert monitor("/ready")[::2] == (503, "not ready\n")
    monitor.worker_status.own[WorkerField.READY] = 1.0
    assert monitor("/ready")[::2] == (200, "ready\n")
    status, kind, text = monitor("/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "prana_build_info" in text
    assert monitor("/")[0] == 404


def test_background_work_that_fails_is_named_by_health_and_counted(monitor: Any) -> None:
    def fail(_: SupervisedThread) -> None:
        raise ValueError

    assert "prana_background_failing 0.0" in monitor("/metrics")[2]
    with SupervisedThread("some-work", fail) as work:
        until(lambda: work.failures > 0)
        assert monitor("/health")[::2] == (200, "alive\nfailing: some-work\n")
    assert monitor("/health")[::2] == (200, "alive\n")


def test_a_process_reports_its_background_work_to_its_board(request: pytest.FixtureRequest) -> None:
    worker_status, counters = WorkerStatus(2), SharedCounters(2)
    request.addfinalizer(lambda: [worker_status.close(), counters.close()])
    for failures, failing in ((2, 1), (5, 2), (5, 0)):
        worker_status.report_background(failures, failing)
    (
        worker_status.processes[1][WorkerField.BACKGROUND_FAILURES],
        worker_status.processes[1][WorkerField.BACKGROUND_FAILING],
    ) = 7.0, 1.0
    found = samples(counters, worker_status)
    assert (found["prana_background_failures_total"], found["prana_background_failing"]) == (12, 1)
    worker_status.forget(1)
    found = samples(counters, worker_status)
    assert (found["prana_background_failures_total"], found["prana_background_failing"]) == (12, 0)


def test_a_service_that_is_gone_leaves_the_metrics(request: pytest.FixtureRequest) -> None:
    worker_status, counters = WorkerStatus(), SharedCounters()
    request.addfinalizer(lambda: [worker_status.close(), counters.close()])
    counters.page("gone").own[ProcessField.CALLS] = 3.0
    counters.page("here").own[ProcessField.OUT], counters.page("here").own[ProcessField.WAITING] = 1.0, 9.0
    assert samples(counters, worker_status)['prana_calls_total{service="gone"}'] == 3
    counters.release("gone")
    found = samples(counters, worker_status)
    assert not any('"gone"' in name for name in found)
    assert found['prana_in_flight{service="here"}'] == 1
    assert found['prana_calls_waiting{service="here"}'] == 9


def test_its_port_may_be_taken(monitor: Any) -> None:
    async def open_again() -> None:
        async with http_port("127.0.0.1", int(monitor.address.split(":")[1]), monitor.counters, monitor.worker_status):
            pass

    with pytest.raises(SetupError, match="cannot listen on 127.0.0.1"):
        asyncio.run(open_again())

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshotter.capture.progress_reports import EndpointAddress, ProgressEndpoint, ProgressReporter

HERE = ("127.0.0.1", "127.0.0.1")
MOST = 1_000


@pytest.fixture
def endpoint() -> Iterator[ProgressEndpoint]:
    """An endpoint of two services with four tasks."""
    with ProgressEndpoint(HERE, 2, 4) as endpoint:
        yield endpoint


def received(endpoint: ProgressEndpoint, service: int = 0) -> tuple[int, int]:
    wait_for_datagrams(endpoint)
    endpoint.receive()
    return endpoint.progress(service, MOST)


def wait_for_datagrams(endpoint: ProgressEndpoint) -> None:
    """On loopback a datagram has arrived when `send` returns; be sure all the same."""
    if endpoint._socket is not None:
        select.select([endpoint._socket], [], [], 0.05)


def report(endpoint: ProgressEndpoint, task: int, done: int, planned: int, service: int = 0) -> None:
    with ProgressReporter(endpoint.address, task, {service: lambda _: None}) as reporter:
        reporter.of(service)(done, planned)


def test_without_reports_only_the_most_is_known(endpoint: ProgressEndpoint) -> None:
    assert received(endpoint) == (0, MOST)


def test_the_total_is_scaled_up_until_every_task_has_begun_and_exact_then(endpoint: ProgressEndpoint) -> None:
    report(endpoint, 0, 0, 10)
    assert received(endpoint) == (0, 40)
    report(endpoint, 1, 20, 20)
    assert received(endpoint) == (20, 60)
    report(endpoint, 2, 0, 0)
    report(endpoint, 3, 0, 7)
    assert received(endpoint) == (20, 37)
    assert received(endpoint, service=1) == (0, MOST)


def test_a_task_that_is_repeated_does_not_go_back(endpoint: ProgressEndpoint) -> None:
    report(endpoint, 0, 10, 10)
    report(endpoint, 0, 0, 10)
    assert received(endpoint) == (10, 40)


def test_each_context_is_counted_once_whether_or_not_reports_arrive(endpoint: ProgressEndpoint) -> None:
    counted: list[int] = []
    for address in (None, endpoint.address, EndpointAddress("127.0.0.1", 1, "x")):
        counted.clear()
        with ProgressReporter(address, 0, {0: counted.append}) as reporter:
            for done in (5, 5, 7, 20):
                reporter.of(0)(done, 20)
        assert sum(counted) == 20


def test_services_of_a_task_are_counted_and_reported_apart(endpoint: ProgressEndpoint) -> None:
    counted: list[tuple[int, int]] = []
    counters = {service: lambda done, service=service: counted.append((service, done)) for service in (0, 1)}
    with ProgressReporter(endpoint.address, 2, counters) as reporter:
        reporter.of(0)(3, 3)
        reporter.of(1)(5, 5)
    assert counted == [(0, 3), (1, 5)]
    assert (received(endpoint, 0), received(endpoint, 1)) == ((3, 12), (5, 20))


def test_reports_are_sent_seldom_except_the_first_and_the_last(endpoint: ProgressEndpoint) -> None:
    with ProgressReporter(endpoint.address, 0, {1: lambda _: None}) as reporter:
        for done in range(101):
            reporter.of(1)(done, 100)
    datagrams = []
    assert endpoint._socket is not None
    while select.select([endpoint._socket], [], [], 0.05)[0]:
        datagrams.append(json.loads(endpoint._socket.recv(512)))
    assert len(datagrams) < 50
    assert (datagrams[0]["done"], datagrams[-1]["done"]) == (0, 100)


GOOD = {"service": 0, "task": 0, "done": 3, "planned": 10}
BAD: list[Any] = [
    {"token": "of another run"},
    {"token": "é"},
    {"token": 5},
    {"service": 2},
    {"service": -1},
    {"task": 4},
    {"task": -1},
    {"done": -1},
    {"done": 11},
    {"done": "3"},
    {"planned": 2**40},
    {"planned": 10**30, "done": 10**29},
    {"more": 1},
    {"token": "x" * 600},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_datagrams_that_are_not_of_this_run_or_make_no_sense_are_dropped(
    endpoint: ProgressEndpoint, change: dict[str, Any]
) -> None:
    assert endpoint.address is not None
    send(endpoint, json.dumps({"token": endpoint.address.token, **GOOD, **change}).encode())
    assert received(endpoint) == (0, MOST)
    send(endpoint, json.dumps({"token": endpoint.address.token, **GOOD}).encode())
    assert received(endpoint) == (3, 40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=700))
def test_noise_changes_nothing(endpoint: ProgressEndpoint, noise: bytes) -> None:
    send(endpoint, noise)
    endpoint.receive()
    assert endpoint.progress(0, MOST) == (0, MOST)


@pytest.mark.parametrize("host", [None, ("192.0.2.1", "192.0.2.1")])
def test_without_a_socket_nothing_is_received_and_nothing_fails(host: tuple[str, str] | None) -> None:
    with ProgressEndpoint(host, 1, 1) as endpoint:
        assert endpoint.address is None
        report(endpoint, 0, 1, 1)
        assert received(endpoint) == (0, MOST)


def test_runs_do_not_accept_each_others_tokens(endpoint: ProgressEndpoint) -> None:
    with ProgressEndpoint(HERE, 2, 4) as other:
        assert endpoint.address is not None
        assert other.address is not None
        foreign = replace(endpoint.address, token=other.address.token)
        with ProgressReporter(foreign, 0, {0: lambda _: None}) as reporter:
            reporter.of(0)(1, 1)
    assert received(endpoint) == (0, MOST)


def send(endpoint: ProgressEndpoint, data: bytes) -> None:
    assert endpoint.address is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, (endpoint.address.host, endpoint.address.port))

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thrift_bytes import framed, read_frame

from prana_proxy.client import PranaClient
from prana_proxy.client.balancing import ProxyBalancer
from prana_proxy.config.credentials import ProxyCredentials
from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.protocol.ipc import read_contexts, to_ipc
from prana_proxy.server import start_proxy
from prana_proxy.server.messages import Message
from prana_proxy.server.worker_status import WorkerField
from schemas.data_keys import context_variable, service_element
from schemas.errors import ProxyUnavailableError
from schemas.generated.ttypes import FetchResponse, Overloaded
from schemas.services import Service
from schemas.tables import answers_schema

FOR_EVER = 1e9
SERVICE = Service("one", service_element("one", "list<int64>"), (context_variable("profile_id", "int64"),))


@contextmanager
def scripted(answer: Callable[[Message], bytes]) -> Iterator[str]:
    """A proxy that answers as a function says; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as opened:

        def serve() -> None:
            while True:
                try:
                    connection = opened.enter_context(listener.accept()[0])
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while True:
                    connection.sendall(framed(answer(Message.read(read_frame(connection)))))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def answers(message: Message, pause_ms: int | None = None, most: int = 1_000_000) -> bytes:
    """Answer a fetch: each context with a list of itself."""
    ids = read_contexts(message.arguments().request.contexts)["profile_id"].to_pylist()[:most]
    rows = [{"status": "ok", "captured_at": 0, "value": [i]} for i in ids]
    batch = pa.RecordBatch.from_pylist(rows, schema=answers_schema(SERVICE))
    return message.answer(FetchResponse(to_ipc(batch), pause_ms))


def full(message: Message, retry_after_ms: int = 30) -> bytes:
    return message.refusal(Overloaded("full", retry_after_ms))


def asking(*addresses: str, contexts: int = 1, budget: float = 30.0) -> Counter[str]:
    """Ask for some contexts and count their statuses."""
    with PranaClient(addresses) as client:
        found = client.fetch(SERVICE, pa.table({"profile_id": list(range(contexts))}), timedelta(seconds=budget))
    return Counter(found["status"].to_pylist())


def test_proxies_are_asked_in_turns_page_by_page(config_of: Any, profiles: Any, long: Any) -> None:
    config = config_of(one={"url": "/ok/{profile_id}"})
    with start_proxy(config) as first, start_proxy(config) as second:
        with PranaClient([first.address, second.address]) as client:
            for i in range(6):
                assert client.fetch(SERVICE, profiles(i), long)["status"].to_pylist() == ["ok"]
        assert first.worker_status.own[WorkerField.CALLS] == second.worker_status.own[WorkerField.CALLS] == 3


def test_a_full_proxy_leaves_its_turn_to_one_that_is_free() -> None:
    asked: Counter[str] = Counter()

    def refuse(message: Message) -> bytes:
        asked["full"] += 1
        return full(message, 60_000)  # nobody could wait for it

    with scripted(refuse) as busy, scripted(answers) as free, PranaClient([busy, free]) as client:
        for _ in range(6):
            found = client.fetch(SERVICE, pa.table({"profile_id": [1]}), timedelta(seconds=30))
            assert found["status"].to_pylist() == ["ok"]
    assert asked["full"] == 1  # it gets no requests for as long as it asked


def test_when_all_are_full_it_waits_and_asks_again() -> None:
    times: list[float] = []

    def at_first_full(message: Message) -> bytes:
        times.append(time.monotonic())
        return full(message, 200) if len(times) < 3 else answers(message)

    with scripted(at_first_full) as address:
        assert asking(address) == {"ok": 1}
    assert len(times) == 3
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(times))


def test_it_does_not_wait_for_a_full_proxy_beyond_its_budget() -> None:
    with scripted(lambda message: full(message, 60_000)) as address:
        assert asking(address, contexts=3, budget=5.0) == {"rejected": 3}


def test_it_slows_down_when_the_proxy_asks_for_it() -> None:
    times: list[float] = []

    def tired(message: Message) -> bytes:
        times.append(time.monotonic())
        return answers(message, pause_ms=150, most=10)

    with scripted(tired) as address:
        assert asking(address, contexts=40) == {"ok": 40}
    assert len(times) == 4
    assert all(later - earlier >= 0.15 for earlier, later in pairwise(times))


def test_a_pause_never_takes_the_time_that_is_left() -> None:
    with scripted(lambda message: answers(message, pause_ms=600_000, most=10)) as address:
        assert asking(address, contexts=20, budget=2.0) == {"ok": 20}


def test_one_proxy_s_pause_does_not_hold_up_another() -> None:
    asked: Counter[str] = Counter()

    def counted(name: str, pause_ms: int) -> Callable[[Message], bytes]:
        def answer(message: Message) -> bytes:
            asked[name] += 1
            return answers(message, pause_ms, most=10)

        return answer

    with scripted(counted("tired", 600_000)) as tired, scripted(counted("rested", 0)) as rested:
        assert asking(tired, rested, contexts=60) == {"ok": 60}
    assert asked["tired"] <= 1
    assert asked.total() == 6


def test_a_hang_up_instead_of_an_answer_is_asked_of_another() -> None:
    def cut(message: Message) -> bytes:
        raise ConnectionResetError

    with scripted(cut) as broken, scripted(answers) as good:
        for _ in range(2):
            assert asking(broken, good) == {"ok": 1}


def test_a_proxy_that_never_answers_costs_no_more_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prana_proxy.client.connection._GRACE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ProxyUnavailableError, match="no answer in time|timed out"):
            asking(address, budget=0.3)


class Scenario:
    """Proxies at real ports that fail on demand, and a clock of their own."""

    def __init__(self, count: int, opened: ExitStack) -> None:
        listeners = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        self.now, self.failing, self.tried = 0.0, set[int](), list[int]()
        ports = [listener.getsockname()[1] for listener in listeners]
        self.numbers = {f"proxy 127.0.0.1:{port}": number for number, port in enumerate(ports)}
        self.proxies = ProxyBalancer([("127.0.0.1", port) for port in ports], ProxyCredentials(), lambda: self.now)
        opened.callback(self.proxies.close)

    def ask(self) -> int | None:
        """Make a call; gives the proxy that answered, None when none did. Notes those that were tried."""
        self.tried = []

        def call(_: Any) -> int:
            number = self.numbers[self.proxies.name]
            if not self.tried or self.tried[-1] != number:  # a kept connection is tried again at once
                self.tried.append(number)
            if number in self.failing:
                raise ConnectionResetError
            return number

        try:
            return self.proxies.call(call, FOR_EVER)
        except ProxyUnavailableError:
            return None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 40), st.sets(st.integers(0, 3))), min_size=1, max_size=12),
)
def test_a_proxy_that_fails_rests_while_others_serve(count: int, steps: list[tuple[float, set[int]]]) -> None:
    with ExitStack() as opened:
        scenario = Scenario(count, opened)
        failures, free_at = [0] * count, [0.0] * count
        for seconds, failing in steps:
            scenario.now += seconds
            scenario.failing = failing
            free = {number for number in range(count) if free_at[number] <= scenario.now}
            answered = scenario.ask()
            good = set(range(count)) - failing
            assert (answered is None) == (not good)
            assert len(set(scenario.tried)) == len(scenario.tried)
            if free & good:  # then who rests is left alone
                assert set(scenario.tried) <= free
            if not good:  # nobody is given up untried
                assert set(scenario.tried) == set(range(count))
            for number in scenario.tried:
                if number in failing:
                    free_at[number] = scenario.now + min(2.0 ** failures[number], 30.0)
                    failures[number] += 1
                else:
                    failures[number], free_at[number] = 0, scenario.now


def test_proxies_take_equal_shares_of_calls() -> None:
    with ExitStack() as opened:
        scenario = Scenario(3, opened)
        assert Counter(scenario.ask() for _ in range(30)) == {0: 10, 1: 10, 2: 10}


def test_a_connection_closed_for_its_silence_is_opened_again(config_of: Any, long: Any, profiles: Any) -> None:
    config = config_of(one={"url": "/ok/{profile_id}"})
    with (
        start_proxy(config, ServerConfig(port=0, idle_seconds=0.2)) as proxy,
        PranaClient([proxy.address]) as client,
    ):
        for _ in range(2):  # the second time over a connection that was closed for its silence
            assert client.fetch(SERVICE, profiles(1), long)["status"].to_pylist() == ["ok"]
            while proxy.worker_status.own[WorkerField.CONNECTIONS]:
                time.sleep(0.01)

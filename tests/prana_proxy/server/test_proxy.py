from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from thrift_bytes import answer_from, call, call_of, framed

from prana_proxy.client import PranaClient
from prana_proxy.clock import FileClock
from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.protocol.ipc import from_ipc, to_ipc
from prana_proxy.server import ProxyThread, start_proxy
from prana_proxy.server.fetch_handler import fitting
from prana_proxy.server.worker_status import WorkerField
from schemas.data_keys import context_variable, service_element
from schemas.errors import ServiceError, SetupError
from schemas.generated.ttypes import FetchRequest
from schemas.services import Service, Status
from schemas.tables import answers_schema


@pytest.fixture
def proxy(config_of: Any) -> Iterator[ProxyThread]:
    with start_proxy(config_of(one={"url": "/ok/{profile_id}"})) as running:
        yield running


DEPTH = 1_000_000
DEEP = {  # in a field that nobody knows, so that it is skipped
    "structs": b"\x0c\x00\x63" * DEPTH,
    "lists": b"\x0f\x00\x63" + b"\x0f\x00\x00\x00\x01" * DEPTH,
    "sets": b"\x0e\x00\x63" + b"\x0e\x00\x00\x00\x01" * DEPTH,
    "keys of maps": b"\x0d\x00\x63" + b"\x0d\x0d\x00\x00\x00\x01" * DEPTH,
    "values of maps": b"\x0d\x00\x63" + b"\x02\x0d\x00\x00\x00\x01\x01" * DEPTH,
}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        (16_384_001).to_bytes(4),
        framed(b""),
        framed(b"\x82\x21\x01\x08services"),  # the compact protocol
        framed(call(b"fetch", b""))[:-3],
        framed(call(b"fetch", b"\x00")),
        framed(call(b"no_such_call", b"\x00")),
        framed(call(b"fetch", b"\x0c\x00\x01\x0b\x00\x01\x7f\xff\xff\xff")),  # a string of 2 GiB
        framed(call(b"fetch", b"\x0c\x00\x01\x0f\x00\x01\x0b\x7f\xff\xff\xff")),  # a list of 2 G strings
        *(framed(call(b"fetch", deep)) for deep in DEEP.values()),
        *(framed(call(b"fetch", b"\x0c\x00\x01" + deep)) for deep in DEEP.values()),
        framed(call(b"services", DEEP["structs"])),
        framed(call(b"no_such_call", DEEP["structs"])),
    ],
)
def test_a_malformed_call_ends_its_own_connection_only(
    proxy: ProxyThread, profiles: Any, long: timedelta, sent: bytes
) -> None:
    with PranaClient([proxy.address]) as client:
        service = client.services()["one"]
        with connected(proxy) as connection, suppress(ConnectionError):  # it may hang up before all is sent or read
            connection.sendall(sent)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
        assert client.fetch(service, profiles(1), long)["status"].to_pylist() == ["ok"]


def test_random_bytes_harm_nobody(proxy: ProxyThread, profiles: Any, long: timedelta) -> None:
    random_bytes = random.Random(20)
    with PranaClient([proxy.address]) as client:
        service = client.services()["one"]
        for i in range(300):
            payload = random_bytes.randbytes(random_bytes.randrange(200))
            with connected(proxy) as connection, suppress(ConnectionError):
                connection.sendall([payload, framed(payload), framed(call(b"fetch", b"\x0c\x00\x01" + payload))][i % 3])
        assert client.fetch(service, profiles(1), long)["status"].to_pylist() == ["ok"]


@pytest.mark.parametrize(
    ("request_fields", "reported"),
    [
        (("one", b"no arrow", 1000), "contexts are not an Arrow IPC stream"),
        (("one", b"", 1000), "contexts are not an Arrow IPC stream"),
        (("one", to_ipc(pa.record_batch({"video_id": [1]})), 1000), "'profile_id'"),
        (("ones", to_ipc(pa.record_batch({"profile_id": [1]})), 1000), "unknown service 'ones' → did you mean 'one'"),
        (("one", to_ipc(pa.record_batch({"profile_id": [1]})), 0), "budget_ms > 0"),
        (("one", to_ipc(pa.record_batch({"profile_id": [1]})), -5), "budget_ms > 0"),
        ((None, b"", 1000), "a fetch needs service_name"),
        (("one", None, 1000), "a fetch needs service_name"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(proxy: ProxyThread, request_fields: Any, reported: str) -> None:
    with connected(proxy) as connection:
        connection.sendall(call_of("fetch", request=FetchRequest(*request_fields)))
        _, result = answer_from(connection)
        assert reported in result.bad_request.message


@pytest.mark.parametrize(("breaker", "pause_ms"), [({"forced": "open"}, 50), ({}, None)])
def test_who_asks_a_service_in_vain_is_told_to_wait(config_of: Any, breaker: Any, pause_ms: int | None) -> None:
    contexts = to_ipc(pa.record_batch({"profile_id": range(200)}))
    with (
        start_proxy(config_of(one={"batch_url": "/batch/ok", "breaker": breaker})) as proxy,
        connected(proxy) as asking,
    ):
        asking.sendall(call_of("fetch", request=FetchRequest("one", contexts, 20_000)))
        _, result = answer_from(asking)
    assert result.success.pause_ms == pause_ms


def test_a_failure_of_the_proxy_s_own_reaches_the_caller(
    config_of: Any, profiles: Any, long: timedelta, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FileClock(tmp_path / "clock")
    clock.set(datetime(2026, 1, 1, tzinfo=UTC))
    config = config_of(clock=f"file://{clock.path}", one={"url": "/ok/{profile_id}"})
    with start_proxy(config) as proxy, PranaClient([proxy.address]) as client, caplog.at_level(logging.CRITICAL):
        service = client.services()["one"]
        clock.path.unlink()
        with pytest.raises(ServiceError, match=r"failed: clock .* cannot be read"):
            client.fetch(service, profiles(1), long)


def test_many_clients_at_once_get_their_own_answers(proxy: ProxyThread, profiles: Any, long: timedelta) -> None:
    def ask(i: int) -> Any:
        with PranaClient([proxy.address]) as client:
            return client.fetch(client.services()["one"], profiles(i, i + 1), long)["value"].to_pylist()

    with ThreadPoolExecutor(12) as clients:
        assert list(clients.map(ask, range(40))) == [[[i, 7], [i + 1, 7]] for i in range(40)]


def test_silent_connections_do_not_keep_others_out(proxy: ProxyThread, profiles: Any, long: timedelta) -> None:
    silent = [socket.create_connection(_address(proxy)) for _ in range(40)]  # more than fetches are let in at a time
    with PranaClient([proxy.address]) as client:
        assert client.fetch(client.services()["one"], profiles(1), long)["status"].to_pylist() == ["ok"]
    for connection in silent:
        connection.close()


def test_stopping_lets_calls_in_flight_end(config_of: Any, service: Any, profiles: Any, long: timedelta) -> None:
    before = set(threading.enumerate())
    proxy = start_proxy(config_of(waits={"url": "/after_five_ok/{profile_id}"}))
    with PranaClient([proxy.address]) as client, ThreadPoolExecutor(1) as other:
        waits = client.services()["waits"]
        asked = other.submit(client.fetch, waits, profiles(1), long)
        while not service.asked["after_five_ok"]:
            pass
        stopping = threading.Thread(target=proxy.stop)
        stopping.start()
        while proxy.worker_status.own[WorkerField.READY]:
            pass
        stopping.join(0.2)
        assert stopping.is_alive()  # it waits for the call
        service.asked["ok"] = 5
        assert asked.result()["status"].to_pylist() == ["ok"]
        stopping.join()
    assert set(threading.enumerate()) <= before


def test_a_taken_port_is_one_clear_line(proxy: ProxyThread, config_of: Any) -> None:
    host, port = _address(proxy)
    with pytest.raises(SetupError) as raised:
        start_proxy(config_of(one={"url": "/ok/{profile_id}"}), ServerConfig(host, port))
    expected = f"the Prana proxy cannot listen on {host}:{port}: Address already in use → choose another --port"
    assert str(raised.value).startswith(expected)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("host", "port"), [("no-such-host.invalid", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_cannot_be_is_one_clear_line(config_of: Any, host: str, port: int) -> None:
    with pytest.raises(SetupError, match=f"cannot listen on {host}:{port}"):
        start_proxy(config_of(one={"url": "/ok/{profile_id}"}), ServerConfig(host, port))


def answers_of(*sizes: int) -> pa.RecordBatch:
    service = Service("s", service_element("s", "list<int64>"), (context_variable("c", "int64"),))
    rows = [{"status": "ok", "captured_at": i, "value": [i] * size} for i, size in enumerate(sizes)]
    return pa.RecordBatch.from_pylist(rows, schema=answers_schema(service))


def test_as_many_answers_as_fit_are_sent() -> None:
    answers = answers_of(*[100] * 50)
    assert from_ipc(fitting(answers)).num_rows == 50
    for most in (3_000, 10_000, 30_000):
        data = fitting(answers, most)
        rows = from_ipc(data).num_rows
        assert len(data) <= most
        assert 1 <= rows < 50
        assert from_ipc(data).to_batches()[0] == answers.slice(0, rows)


def test_an_answer_that_fits_no_frame_is_invalid_not_endless() -> None:
    row = from_ipc(fitting(answers_of(1000, 1), 4_000)).to_pylist()[0]
    assert row["status"] == Status.INVALID
    assert row["value"] is row["captured_at"] is None
    assert "more than a frame" in row["reason"]


def _address(proxy: ProxyThread) -> tuple[str, int]:
    host, port = proxy.address.split(":")
    return host, int(port)


@contextmanager
def connected(proxy: ProxyThread) -> Iterator[socket.socket]:
    with socket.create_connection(_address(proxy)) as connection:
        connection.settimeout(20)
        yield connection

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from proxy_process import until
from thrift_bytes import answer_from, call, call_of, fetch_of, framed, hung_up

from prana_proxy import supervised
from prana_proxy.server import ProxyThread, frames
from prana_proxy.server.worker_status import WorkerField, WorkerStatus
from schemas.generated.ttypes import Overloaded

Serving = Callable[..., ProxyThread]
Connect = Callable[[ProxyThread], socket.socket]


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def send_ahead_and_close(connection: socket.socket) -> None:
    connection.sendall(framed(b"\x00" * 500_000))
    connection.close()


def test_a_defect_while_accepting_is_counted_and_clients_are_accepted_after_it(
    serving: Serving, connect: Connect
) -> None:
    class Defective(WorkerStatus):
        @property
        def excess(self) -> float:
            raise ZeroDivisionError

    proxy, before = serving("ok"), supervised.failures()
    proxy.worker_status.__class__ = Defective
    client = connect(proxy)
    until(lambda: supervised.failures() > before)
    assert "prana-accept" in supervised.failing()
    proxy.worker_status.__class__ = WorkerStatus
    client.sendall(call_of("services"))
    assert answer_from(client)[1].success[0].name == "ok"
    until(lambda: "prana-accept" not in supervised.failing())


@pytest.mark.parametrize("leave", [close, reset, half_close, send_ahead_and_close])
def test_a_call_whose_caller_has_gone_is_cancelled_at_the_service(
    serving: Serving, connect: Connect, service: Any, leave: Callable[[socket.socket], None]
) -> None:
    connection = connect(serving("hang"))
    connection.sendall(fetch_of("hang", 1, 2))
    until(lambda: service.in_flight == 2)
    leave(connection)
    until(lambda: service.in_flight == 0)  # its timeout is 30 s


def test_a_call_that_waits_is_dropped_when_its_caller_goes(serving: Serving, connect: Connect, service: Any) -> None:
    proxy = serving("hang", "ok", workers=1)
    first, second, third = connect(proxy), connect(proxy), connect(proxy)
    first.sendall(fetch_of("hang", 1))
    until(lambda: service.in_flight)
    second.sendall(fetch_of("ok", 2))
    until(lambda: proxy.worker_status.own[WorkerField.WAITING] == 1)
    second.close()
    until(lambda: proxy.worker_status.own[WorkerField.WAITING] == 0)
    third.sendall(fetch_of("ok", 3))
    first.close()
    assert answer_from(third)[1].success
    assert service.keys["ok"] == ["3"]


def test_a_full_line_refuses_at_once_and_says_when_to_come_again(
    serving: Serving, connect: Connect, service: Any
) -> None:
    proxy = serving("hang", workers=1, queue=2)
    waiting = [connect(proxy) for _ in range(3)]
    for connection in waiting:
        connection.sendall(fetch_of("hang", 1))
    until(lambda: proxy.worker_status.own[WorkerField.WAITING] == 2)
    other = connect(proxy)
    other.sendall(fetch_of("hang", 1))
    refused = answer_from(other)[1].overloaded
    assert isinstance(refused, Overloaded)
    assert 50 <= refused.retry_after_ms <= 5_000
    assert refused.message == "1 calls are being answered and 2 wait"
    assert proxy.worker_status.own[WorkerField.OVERLOADED] == 1
    other.sendall(call_of("services"))  # which waits for nobody
    assert answer_from(other)[1].success[0].name == "hang"


def test_time_in_line_counts_against_the_budget(serving: Serving, connect: Connect, service: Any) -> None:
    proxy = serving("hang", "ok", workers=1)
    first, second = connect(proxy), connect(proxy)
    first.sendall(fetch_of("hang", 1, budget_ms=600))
    until(lambda: service.in_flight)
    second.sendall(fetch_of("ok", 2, budget_ms=100))
    assert b"rejected" in answer_from(second)[1].success.answers
    assert not service.asked["ok"]
    assert b"timeout" in answer_from(first)[1].success.answers


def test_calls_sent_in_one_go_are_answered_one_by_one_in_their_order(
    serving: Serving, connect: Connect, service: Any
) -> None:
    connection = connect(serving("brief"))
    connection.sendall(b"".join(fetch_of("brief", i, number=i) for i in range(20)) + call_of("services", 20))
    assert [answer_from(connection)[0] for _ in range(21)] == list(range(21))
    assert service.most_in_flight == 1


def test_a_call_may_come_in_any_pieces(serving: Serving, connect: Connect) -> None:
    connection = connect(serving("ok"))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in fetch_of("ok", 1):
        connection.sendall(bytes([byte]))
    assert answer_from(connection)[1].success


def test_who_sends_much_ahead_of_its_answers_is_cut(serving: Serving, connect: Connect, service: Any) -> None:
    connection = connect(serving("hang"))
    connection.sendall(fetch_of("hang", 1))
    until(lambda: service.in_flight)
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        connection.sendall(b"\x00" * 100_000_000)
    until(lambda: service.in_flight == 0)


def test_more_connections_than_allowed_are_refused_and_the_others_serve_on(serving: Serving, connect: Connect) -> None:
    proxy = serving("ok", max_connections=2)
    first, second = connect(proxy), connect(proxy)
    until(lambda: proxy.worker_status.own[WorkerField.CONNECTIONS] == 2)
    assert hung_up(connect(proxy))
    assert proxy.worker_status.own[WorkerField.TOO_MANY] == 1
    for connection in (first, second):
        connection.sendall(fetch_of("ok", 1))
        assert answer_from(connection)[1].success
    first.close()
    until(lambda: proxy.worker_status.own[WorkerField.CONNECTIONS] == 1)
    third = connect(proxy)
    third.sendall(call_of("services"))
    assert answer_from(third)[1].success


def test_a_silent_connection_is_closed_after_a_while(serving: Serving, connect: Connect) -> None:
    proxy = serving("ok", idle_seconds=0.3)
    connection = connect(proxy)
    connection.sendall(call_of("services"))
    assert answer_from(connection)[1].success
    assert hung_up(connection)


@pytest.mark.parametrize("begun", [b"\x00", framed(b"\x00" * 100)[:50], framed(b"\x00" * 2_000_000)[:1_000_000]])
def test_a_frame_that_stalls_ends_its_own_connection(
    serving: Serving, connect: Connect, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(frames, "_FRAME_SECONDS", 0.3)
    proxy = serving("ok")
    stalling, other = connect(proxy), connect(proxy)
    stalling.sendall(begun)
    assert hung_up(stalling)
    other.sendall(fetch_of("ok", 1))
    assert answer_from(other)[1].success


def test_large_frames_that_stall_hold_up_large_frames_only(serving: Serving, connect: Connect) -> None:
    proxy = serving("ok")
    for _ in range(frames._LARGE_AT_ONCE):
        connect(proxy).sendall(framed(b"\x00" * 2_000_000)[:1000])
    until(lambda: proxy.worker_status.own[WorkerField.CONNECTIONS] == frames._LARGE_AT_ONCE)
    other = connect(proxy)
    other.sendall(fetch_of("ok", 1))
    assert answer_from(other)[1].success


def test_an_unknown_call_is_told_so_however_much_comes_with_it(serving: Serving, connect: Connect) -> None:
    connection = connect(serving("ok"))
    connection.sendall(framed(call(b"no_such_call", b"\x02\x00\x01\x01" * 1_000_000)))
    assert "no such method" in answer_from(connection)[1].message
    connection.sendall(call_of("services"))
    assert answer_from(connection)[1].success


def test_stopping_gives_up_what_takes_too_long(serving: Serving, connect: Connect, service: Any) -> None:
    proxy = serving("hang", stop_seconds=0.2)
    connection = connect(proxy)
    connection.sendall(fetch_of("hang", 1))
    until(lambda: service.in_flight)
    proxy.stop()
    assert hung_up(connection)
    until(lambda: service.in_flight == 0)


def test_the_log_never_holds_keys_or_what_was_sent(
    serving: Serving, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "prana_proxy")
    proxy = serving("ok", "wrong_type", "half", "hang_up")
    for name in ("ok", "wrong_type", "half", "hang_up", "unknown"):
        connection = connect(proxy)
        connection.sendall(fetch_of(name, 77123456789))
        answer_from(connection)
        connection.sendall(framed(call(b"fetch", b"77123456789")))
        assert hung_up(connection)
    until(lambda: "malformed_call" in caplog.text)
    assert "77123456789" not in "".join(record.getMessage() for record in caplog.records if "prana" in record.name)

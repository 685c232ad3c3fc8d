from __future__ import annotations

import contextlib
import socket
import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speaker import Speaker
from yarl import URL

from prana_proxy.gateway import Gateway
from prana_proxy.gateway.services.http import HttpProtocol, path_template


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..") and text.isprintable()))
def test_a_value_stays_one_segment_of_the_path(value: str) -> None:
    path = path_template("/history/{profile}/all")({"profile": value})
    assert path is not None
    url = URL(f"http://host{path}", encoded=True)
    before, quoted, after = url.raw_path.rsplit("/", 2)
    assert (before, after, url.host, url.query_string, url.fragment) == ("/history", "all", "host", "", "")
    assert unquote(quoted) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (True, "true"),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00%3A00%3A00%2B00%3A00"),
        ("a b&c=d#e?f/g", "a%20b%26c%3Dd%23e%3Ff%2Fg"),
    ],
)
def test_values_are_written_plainly_and_percent_encoded(value: Any, text: str) -> None:
    assert path_template("/x?in={v}")({"v": value}) == f"/x?in={text}"


def test_a_value_that_would_change_the_path_is_not_asked(config_of: Any, service: Any, long: timedelta) -> None:
    with Gateway(config_of(one={"url": "/ok/{name}", "key": {"name": "string"}})) as gateway:
        rows = gateway.fetch("one", pa.table({"name": ["..", ".", "", "1"]}), long).to_pylist()
    assert [row["status"] for row in rows] == ["invalid"] * 3 + ["ok"]
    assert rows[0]["reason"] == "a key that is empty, '.' or '..' cannot stand in a URL's path"
    assert service.keys == {"ok": ["1"]}


def test_connections_are_used_again(config_of: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(one={"url": "/ok/{profile_id}", "max_concurrent": 2})) as gateway:
        gateway.fetch("one", profiles(*range(50)), long)
        connector = gateway._gateway._protocols[HttpProtocol]._connections.kept  # type: ignore[attr-defined]  # what is pooled
        assert 1 <= sum(len(pooled) for pooled in connector._conns.values()) <= 2


def test_a_host_that_does_not_exist_is_unreachable_and_the_reason_keeps_the_key_to_itself(
    config_of: Any, profiles: Any, long: timedelta
) -> None:
    with Gateway(config_of(lost={"url": "http://no-such-host.invalid/secret/{profile_id}"})) as gateway:
        row = gateway.fetch("lost", profiles(1), long).to_pylist()[0]
    assert row["status"] == "error"
    assert row["reason"] == "unreachable: no-such-host.invalid:80: no such host"


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n[1, 7]"


def test_what_is_sent_is_plain_and_the_same_connection_serves_again(
    config_of: Any, profiles: Any, long: timedelta
) -> None:
    with Speaker(GOOD, GOOD) as speaker, Gateway(config_of(one={"url": speaker.url})) as gateway:
        for profile in (1, 2):
            assert gateway.fetch("one", profiles(profile), long)["value"].to_pylist() == [[1, 7]]
    host = urlsplit(speaker.url).netloc
    assert speaker.received == [
        "".join(
            f"GET /a?profile={profile} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n"
            "Accept-Encoding: identity\r\nUser-Agent: prana-proxy\r\n\r\n"
            for profile in (1, 2)
        ).encode()
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + GOOD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n[1\r\n4\r\n, 7]\r\n0\r\nTrailer: z\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\ncontent-LENGTH: 6\r\n\r\n[1, 7]",
    ],
)
def test_answers_may_be_written_in_several_ways(config_of: Any, profiles: Any, long: timedelta, answer: bytes) -> None:
    with Speaker(answer, answer) as speaker, Gateway(config_of(one={"url": speaker.url})) as gateway:
        for profile in (1, 2):
            assert gateway.fetch("one", profiles(profile), long)["value"].to_pylist() == [[1, 7]]
    assert len(speaker.received) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\n[1, 7]",
        b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\n[1, 7]",
        GOOD + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n[0, 0]",  # that nobody asked for
    ],
)
def test_a_connection_whose_next_answer_could_be_another_s_is_not_used_again(
    config_of: Any, profiles: Any, long: timedelta, answer: bytes
) -> None:
    with Speaker(answer, GOOD) as speaker, Gateway(config_of(one={"url": speaker.url})) as gateway:
        for profile in (1, 2):
            assert gateway.fetch("one", profiles(profile), long)["value"].to_pylist() == [[1, 7]]
    assert len(speaker.received) == 2


def test_an_answer_that_comes_before_all_is_asked_ends_the_connection(config_of: Any, long: timedelta) -> None:
    too_large = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    one = {"key": {"name": "string"}, "batch_size": 4}
    with (
        Speaker(too_large, GOOD) as speaker,
        Gateway(config_of(one={**one, "batch_url": _bare(speaker.url)})) as gateway,
    ):
        large = pa.table({"name": [f"{i}" + "x" * 3_000_000 for i in range(4)]})
        assert gateway.fetch("one", large, long)["reason"].to_pylist() == ["HTTP 413"] * 4
        gateway.fetch("one", pa.table({"name": ["a"]}), long)
    assert len(speaker.received) == 2
    assert speaker.received[1].endswith(b'{"contexts":[{"name":"a"}]}')


def test_a_large_question_arrives_whole(config_of: Any, long: timedelta) -> None:
    answer = b'{"answers": [{"value": [1, 7]}]}'
    message = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
    name = "x" * 10_000_000
    with Speaker(message, waits_for=b'"}]}') as speaker:
        one = {"batch_url": _bare(speaker.url), "key": {"name": "string"}}
        with Gateway(config_of(one=one)) as gateway:
            assert gateway.fetch("one", pa.table({"name": [name]}), long)["status"].to_pylist() == ["ok"]
    [received] = speaker.received
    head, _, body = received.partition(b"\r\n\r\n")
    assert body.decode() == f'{{"contexts":[{{"name":"{name}"}}]}}'
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")


def _bare(url: str) -> str:
    return url.partition("?")[0]


@pytest.mark.parametrize(
    "message", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\x00" * 100_000]
)
def test_what_is_not_http_is_invalid(config_of: Any, profiles: Any, long: timedelta, message: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def say() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):  # the gateway hangs up as soon as it has seen enough
                connection.recv(10_000)
                connection.sendall(message)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)

        speaker = threading.Thread(target=say)
        speaker.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/{{profile_id}}"
        with Gateway(config_of(one={"url": url})) as gateway:
            row = gateway.fetch("one", profiles(1), long).to_pylist()[0]
        speaker.join()
    assert (row["status"], row["reason"]) == ("invalid", "the answer is not HTTP")

"""Answers as strangers' servers send them: compressed, in other charsets, with large heads, without a body."""

from __future__ import annotations

import codecs
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speaker import Speaker

from prana_proxy.gateway import Gateway
from prana_proxy.gateway.answers import Reply
from prana_proxy.gateway.services.http.encodings import as_utf8, decompressed
from schemas.services import Status

JSON = b"[1, 7]"


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def brotli(data: bytes) -> bytes:
    return bytes(pa.Codec("brotli").compress(data, asbytes=True))


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def answer(*head: str, body: bytes = JSON, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *head, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.fixture
def ask(config_of: Any, profiles: Any, long: timedelta) -> Callable[..., dict[str, Any]]:
    """Ask a server that says the same twice, over one connection if it stays usable; give the second row."""

    def asked(message: bytes, type: str = "list<int64>", **fields: Any) -> dict[str, Any]:  # noqa: A002
        with (
            Speaker(message, message) as speaker,
            Gateway(config_of(one={"url": speaker.url, "type": type, **fields})) as gateway,
        ):
            rows = [gateway.fetch("one", profiles(1), long).to_pylist()[0] for _ in range(2)]
        assert rows[0]["value"] == rows[1]["value"]
        return {**rows[1], "connections": len(speaker.received)}

    return asked


@pytest.mark.parametrize(
    ("header", "encode"),
    [
        ("Content-Encoding: gzip", gzip.compress),
        ("Content-Encoding: GZIP", gzip.compress),
        ("content-encoding:x-gzip", gzip.compress),
        ("Content-Encoding:  gzip ", lambda data: gzip.compress(data[:2]) + gzip.compress(data[2:])),
        ("Content-Encoding: deflate", zlib.compress),
        ("Content-Encoding: deflate", raw_deflate),
        ("Content-Encoding: br", brotli),
        ("Content-Encoding: zstd", zstd),
        ("Content-Encoding: identity", bytes),
        ("Content-Encoding: Identity", bytes),
        ("Content-Encoding:", bytes),
        ("Content-Encoding: gzip, identity", gzip.compress),
        ("Content-Encoding: identity,,gzip", gzip.compress),
        ("Content-Encoding: deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
        ("Content-Encoding: deflate\r\nContent-Encoding: gzip", lambda data: gzip.compress(zlib.compress(data))),
    ],
)
def test_a_compressed_answer_is_read_although_none_was_asked_for(ask: Any, header: str, encode: Any) -> None:
    row = ask(answer(header, body=encode(JSON)))
    assert (row["value"], row["connections"]) == ([1, 7], 1)


@pytest.mark.parametrize(
    ("header", "body", "reason"),
    [
        ("gzip", JSON, "the answer is not gzip, as its header says"),
        ("gzip", gzip.compress(JSON, mtime=0)[:-4], "the answer is not gzip, as its header says"),
        ("deflate", zlib.compress(JSON)[:-6], "the answer is not deflate, as its header says"),
        ("br", b"\xff" * 9, "the answer is not br, as its header says"),
        ("zstd", zstd(JSON)[:-2], "the answer is not zstd, as its header says"),
        ("compress", JSON, "the answer is compressed as 'compress', expected gzip, br, zstd, deflate, identity"),
        ("gzip", gzip.compress(b"", mtime=0), "the answer is empty"),
        ("gzip", b"", "the answer is empty"),
        ("gzip", gzip.compress(b"[" + b"1," * 50_000 + b"1]"), "the answer is larger than 10000 bytes"),
    ],
)
def test_what_cannot_be_decompressed_is_invalid_and_says_why(ask: Any, header: str, body: bytes, reason: str) -> None:
    row = ask(answer(f"Content-Encoding: {header}", body=body), max_answer_bytes=10_000)
    assert (row["status"], row["reason"]) == ("invalid", reason)


@pytest.mark.parametrize(
    ("codings", "encode"),
    [
        (["gzip"], gzip.compress),
        (["deflate"], zlib.compress),
        (["deflate"], raw_deflate),
        (["br"], brotli),
        (["zstd"], zstd),
        (["gzip", "gzip"], lambda data: gzip.compress(gzip.compress(data))),
    ],
)
def test_a_bomb_takes_no_more_memory_than_an_answer_may_have(codings: list[str], encode: Any) -> None:
    bomb = encode(bytes(200 << 20))
    tracemalloc.start()
    try:
        reply = decompressed(bomb, codings, 1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(reply, Reply)
    assert reply.reason == "the answer is larger than 1048576 bytes"
    assert peak < 8 << 20


@given(st.binary(), st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd"]), min_size=1, max_size=2))
def test_any_bytes_are_decompressed_or_invalid(body: bytes, codings: list[str]) -> None:
    reply = decompressed(body, codings, 1000)
    assert isinstance(reply, bytes) or reply.status is Status.INVALID


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/json", "utf-8"),
        ("application/json", "utf-8-sig"),
        ("application/json; charset=UTF-8", "utf-8"),
        ('application/json; charset="utf-8"', "utf-8-sig"),
        ("application/json;charset=utf8", "utf-8"),
        ("text/plain; charset=ISO-8859-1", "latin-1"),
        ("text/json; charset=windows-1252", "cp1252"),
        ("application/json; charset=utf-16", "utf-16"),
        ("application/json; charset=utf-16le", "utf-16-le"),
        ("application/json", "utf-16"),
        ("application/json", "utf-16-be"),
        ("application/json", "utf-32"),
        ("application/json; charset=nonsense", "utf-8"),
        ("application/json; charset=zlib", "utf-8"),
        ("application/json; charset=idna", "utf-8"),
        ("application/json; charset", "utf-8"),
        ("", "utf-8"),
        ("text/html", "utf-8"),
    ],
)
def test_an_answer_is_read_in_the_charset_of_its_header(ask: Any, content_type: str, encoding: str) -> None:
    body = json.dumps(["Müller", "naïve"], ensure_ascii=False).encode(encoding)
    row = ask(answer(f"Content-Type: {content_type}", body=body), type="list<string>")
    assert (row["value"], row["connections"]) == (["Müller", "naïve"], 1)


def test_an_answer_that_is_not_in_its_charset_is_invalid(ask: Any) -> None:
    row = ask(answer("Content-Type: application/json; charset=utf-16", body=b"[1]"))
    assert (row["status"], row["reason"]) == ("invalid", "the answer is not utf-16, as its header says")


@given(st.binary(), st.sampled_from(["", "x; charset=utf-16", "x; charset=utf-7", "x; charset=unicode_escape"]))
def test_any_bytes_are_utf8_or_invalid(body: bytes, content_type: str) -> None:
    reply = as_utf8(body, content_type)
    assert isinstance(reply, bytes) or reply.status is Status.INVALID
    if isinstance(reply, bytes):
        assert not reply.startswith(codecs.BOM_UTF8) or body.startswith(2 * codecs.BOM_UTF8)


@pytest.mark.parametrize(
    "head", [["X-Debug: " + "x" * 60_000], [f"X-{i}: {'y' * 200}" for i in range(150)], ["Set-Cookie: " + "z" * 9_000]]
)
def test_large_heads_are_read(ask: Any, head: list[str]) -> None:
    row = ask(answer(*head))
    assert (row["value"], row["connections"]) == ([1, 7], 1)


def test_a_head_without_end_is_not_http(ask: Any) -> None:
    row = ask(answer("X-Debug: " + "x" * 70_000))
    assert (row["status"], row["reason"]) == ("invalid", "the answer is not HTTP")


def test_trailers_after_chunks_are_passed_over(ask: Any) -> None:
    trailers = "".join(f"X-{i}: {'z' * 3_000}\r\n" for i in range(10)).encode()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-0\r\n\r\n"
    row = ask(head + b"6\r\n[1, 7]\r\n0\r\n" + trailers + b"\r\n")
    assert (row["value"], row["connections"]) == ([1, 7], 1)


@pytest.mark.parametrize(
    ("message", "status", "reason"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "invalid", "the answer is empty"),
        (answer(body=b""), "invalid", "the answer is empty"),
        (answer("Location: /ok", status="301 Moved", body=b"moved"), "error", "HTTP 301: redirects are not followed"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "error", "HTTP 304: redirects are not followed"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "invalid",
            "the answer is empty",
        ),
    ],
)
def test_what_brings_no_answer_is_none(ask: Any, message: bytes, status: str, reason: str) -> None:
    row = ask(message)
    assert row["status"] == status
    assert reason in row["reason"]


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "203 Non-Authoritative Information", "200", "200 "])
def test_any_2xx_with_a_body_is_an_answer(ask: Any, status: str) -> None:
    assert ask(answer(status=status))["value"] == [1, 7]

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import thrift_service
import trustme

from prana_proxy.clock import system_clock
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.services import protocol_of

UNTRUSTED = "its certificate is not trusted: unable to get local issuer certificate"


class Lists(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"[1, 7]")

    def log_message(self, *_: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        pass  # callers that do not trust it hang up


@contextmanager
def https(tls: ssl.SSLContext) -> Iterator[int]:
    with QuietServer(("127.0.0.1", 0), Lists) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def thrifts(tls: ssl.SSLContext) -> Iterator[int]:
    with thrift_service.thrift_service(tls=tls) as service:
        yield service.port


SERVICES = {
    "https": (https, "list<int64>", "https://localhost:PORT/{behaviour}", [1, 7]),
    "thrifts": (
        thrifts,
        "list<struct<video_id: int64>>",
        "thrifts://localhost:PORT/History/get_plain",
        [{"video_id": 5}],
    ),
}


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """A certificate authority that the system trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture(params=SERVICES)
def ask(request: pytest.FixtureRequest, thrift_config: Any, behaviours: Any, long: timedelta) -> Callable[..., Any]:
    """Ask a service that has a certificate: give its row, and what it should have answered."""
    run, kind, url, right = SERVICES[request.param]

    def asked(tls: ssl.SSLContext, times: int = 1) -> tuple[list[dict[str, Any]], Any, int]:
        with run(tls) as port:
            fields = {"type": kind, "answer": "", "url": url.replace("PORT", str(port))}
            with Gateway(thrift_config(None, **fields)) as gateway:
                rows = [gateway.fetch("views", behaviours("ok-5"), long).to_pylist()[0] for _ in range(times)]
        return rows, right, port

    return asked


def test_a_service_with_a_certificate_that_the_system_trusts_is_asked(ask: Any, trusted: trustme.CA) -> None:
    rows, right, _ = ask(certified(trusted, "localhost"), times=3)
    assert [(row["status"], row["value"]) for row in rows] == [("ok", right)] * 3


def test_a_certificate_of_somebody_else_s_authority_is_an_error_that_says_so(ask: Any, trusted: trustme.CA) -> None:
    [row], _, port = ask(certified(trustme.CA(), "localhost"))
    assert (row["status"], row["reason"]) == ("error", f"unreachable: localhost:{port}: {UNTRUSTED}")


def test_a_certificate_of_another_host_is_an_error_that_says_so(ask: Any, trusted: trustme.CA) -> None:
    [row], _, port = ask(certified(trusted, "elsewhere.example"))
    assert row["status"] == "error"
    assert row["reason"].startswith(f"unreachable: localhost:{port}: its certificate is not trusted: Hostname mismatch")


@pytest.mark.parametrize("kind", SERVICES)
def test_a_service_without_tls_is_an_error_that_says_so(
    thrift_config: Any, behaviours: Any, long: timedelta, kind: str
) -> None:
    def say() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        speaker = threading.Thread(target=say)
        speaker.start()
        config = thrift_config(
            None, url=SERVICES[kind][2].replace("PORT", str(port)), answer="", type=SERVICES[kind][1]
        )
        with Gateway(config) as gateway:
            row = gateway.fetch("views", behaviours("ok-5"), long).to_pylist()[0]
        speaker.join()
    assert row["status"] == "error"
    assert row["reason"].startswith(f"unreachable: localhost:{port}: it does not speak TLS as expected: ")


@pytest.mark.parametrize("kind", SERVICES)
def test_an_address_from_dns_has_the_certificate_of_the_url_s_host(
    thrift_config: Any, trusted: trustme.CA, kind: str
) -> None:
    run, answer, url, _ = SERVICES[kind]

    async def ask(port: int) -> list[str]:
        config = thrift_config(None, url=url.replace("PORT", str(port)), type=answer, answer="").services[0]
        protocol = protocol_of(config.url)(system_clock)
        found = []
        for discovery in ("dns:///localhost:1", "static://127.0.0.1:1"):
            asking = protocol.asking(replace(config, discovery=discovery))
            [reply] = await asking(Instance("127.0.0.1", port), [{"behaviour": "ok-5"}], 0.0)
            found.append(reply.status.value)
        await protocol.close()
        return found

    with run(certified(trusted, "localhost")) as port:
        assert asyncio.run(ask(port)) == ["ok", "error"]

"""An HTTP proxy in front of a server, which injects faults into a number of requests."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ALWAYS = 10**9


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    """A fault of the requests that `meant` selects, as often as is left."""

    kind: str
    meant: Callable[[Request], bool]
    left: int
    status: int
    code: str
    hanging: threading.Event = field(default_factory=threading.Event)
    freed: threading.Event = field(default_factory=threading.Event)

    def hang(self) -> None:
        self.hanging.set()
        self.freed.wait()


@dataclass
class FaultyProxy:
    """The proxy: its address, the requests that it received, and the faults that it is to inject."""

    url: str
    seen: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(
        self, status: int, code: str, times: int = ALWAYS, meant: Callable[[Request], bool] | None = None
    ) -> None:
        """Answer with an error of S3's instead of forwarding."""
        self.faults.append(Fault("refuse", meant or (lambda _: True), times, status, code))

    def misbehave(self, kind: str, times: int = ALWAYS, meant: Callable[[Request], bool] | None = None) -> Fault:
        """Inject a fault.

        kind: "cut request" and "cut answer" close the connection in the middle of one, "lose answer" closes it when the
            server has done its part. "hang" in the middle of a request, or "hang before answer" when the server has
            done its part: until all is well again, when the connection is closed
        """
        fault = Fault(kind, meant or (lambda _: True), times, 0, "")
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Inject no more faults, and end those that hang."""
        with self.lock:
            faults, self.faults = self.faults, []
        for fault in faults:
            fault.freed.set()

    def next_fault(self, request: Request) -> Fault | None:
        with self.lock:
            self.seen.append(request)
            for fault in self.faults:
                if fault.left and fault.meant(request):
                    fault.left -= 1
                    return fault
        return None


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a server."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.upstream = urlsplit(upstream).netloc
        server.proxy = FaultyProxy(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.proxy
        finally:
            server.proxy.heal()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    upstream: str
    proxy: FaultyProxy

    def handle_error(self, *_: object) -> None:
        """Log nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.pass_on
        raise AttributeError(name)

    def pass_on(self) -> None:
        self.close_connection = True
        request = Request(self.command, self.path, dict(self.headers))
        fault = self.server.proxy.next_fault(request)
        kind = fault.kind if fault else ""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length // 2 if kind in ("cut request", "hang") else length)
        if fault is not None and kind == "hang":
            fault.hang()
        if kind in ("hang", "cut request"):
            return
        if fault is not None and kind == "refuse":
            text = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
            self.answer(fault.status, {"Content-Type": "application/xml"}, text, len(text))
            return
        status, headers, text = forward(self.server.upstream, request, body)
        if fault is not None and kind == "hang before answer":
            fault.hang()
        elif kind != "lose answer":
            self.answer(status, headers, text, len(text) // 2 if kind == "cut answer" else len(text))

    def answer(self, status: int, headers: dict[str, str], body: bytes, send: int) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:send])

    def log_message(self, *_: object) -> None:
        pass


def forward(host: str, request: Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send the server the same request, with the same Host: that is part of the signature."""
    connection = http.client.HTTPConnection(host)
    connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        if name.lower() not in ("expect", "connection"):
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    try:
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def closed_port() -> int:
    """Give a port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port

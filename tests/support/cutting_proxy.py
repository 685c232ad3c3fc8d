"""A TCP proxy that loses a request or its answer, and closes the connection or leaves it silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Lost = Literal["request", "answer", "only the answer"]


class CuttingProxy:
    """Forwards to a server. Whoever says the marker is cut off: before it is forwarded, or after it.

    lost: of "only the answer" the connection stays, and nobody else may be asking on it
    cuts: how often; before each, `before_cut` is called
    """

    def __init__(self, server: tuple[str, int], marker: bytes, lost: Lost, cuts: int) -> None:
        self._server = server
        self._marker = marker
        self._lost = lost
        self.cuts_left = cuts
        self.before_cut: Callable[[], None] = lambda: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._swallowing: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @contextmanager
    def running(self) -> Iterator[CuttingProxy]:
        self._start(self._accept)
        try:
            yield self
        finally:
            _cut(self._listener)
            for connection in list(self._open):
                _cut(connection)
            for thread in list(self._threads):
                thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                self._start(self._forward_requests, client, server)
                self._start(self._forward_answers, client, server)

    def _forward_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if self._marker in data and self.cuts_left:
                    self.cuts_left -= 1
                    self.before_cut()
                    if self._lost == "request":
                        break
                    if self._lost == "answer":
                        _cut(client)  # the answer, when it comes, meets nobody
                        server.sendall(data)
                        return
                    self._swallowing.add(server)
                server.sendall(data)
        _cut(client)
        _cut(server)

    def _forward_answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if server in self._swallowing:
                    self._swallowing.remove(server)
                else:
                    client.sendall(data)
        _cut(client)
        _cut(server)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

"""Services that end kept connections in their own ways, over real sockets: HTTP, and Thrift by Apache's library."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator

HEAD = re.compile(rb"(GET|POST) /([^ ]*) HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*\r\n")


class ClosingService:
    """Answers `[key, 7]`, and ends each connection in a way after so many answers.

    script: of each connection in turn, and again from the first: how many answers, and how it ends: "fin", "rst",
        "half" (it goes on reading), "unread" (it closes when the next question comes, without reading it), "unanswered"
        (it reads the next question and closes), "cut" (it begins to answer the next and closes), "announced", "http10",
        "late" (it closes 20 ms after its answer), "408" (it says that nothing came in time, and closes), "408 late" (it
        does so when the next question is on its way), "unasked" (it answers once more, unasked, and goes on)
    arrived: when each question that was read arrived, by the clock that never goes back
    """

    def __init__(self, *script: tuple[int, str], tls: ssl.SSLContext | None = None) -> None:
        self._script, self._tls = script, tls
        self.arrived: list[float] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                answers, ending = self._script[self.connections % len(self._script)]
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(connection, answers, ending)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket, answers: int, ending: str) -> None:
        self._open.add(connection)
        try:
            with contextlib.suppress(OSError, EOFError), connection:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                    self._open.add(connection)
                with connection:
                    for _ in range(answers):
                        connection.sendall(self.answer(self.question(connection), ending))
                    self._end(connection, ending)
        finally:
            self._open.discard(connection)

    def _end(self, connection: socket.socket, ending: str) -> None:
        if ending == "rst":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ending == "half":
            connection.shutdown(socket.SHUT_WR)
            self.question(connection)
        if ending == "unread":
            connection.recv(1, socket.MSG_PEEK)
        if ending == "unanswered":
            self.question(connection)
        if ending == "cut":
            connection.sendall(self.answer(self.question(connection), ending)[:10])
        if ending == "late":
            time.sleep(0.02)
        if ending == "408 late":
            connection.recv(1, socket.MSG_PEEK)
        if ending.startswith("408"):
            connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        if ending == "unasked":
            time.sleep(0.02)
            connection.sendall(self.answer(b"-1\n", ending))
            connection.sendall(self.answer(self.question(connection), ending))

    def question(self, connection: socket.socket) -> bytes:
        """Read a question, note it, and give its path with its body."""
        data = b""
        while (head := HEAD.match(data)) is None:
            data += _some(connection)
        self.arrived.append(time.monotonic())
        length = re.search(rb"Content-Length: (\d+)", head[0])
        while length and len(data) < head.end() + int(length[1]):
            data += _some(connection)
        return head[2] + b"\n" + data[head.end() :]

    def answer(self, question: bytes, ending: str) -> bytes:
        path, _, sent = question.partition(b"\n")
        if sent:
            keys = [next(iter(context.values())) for context in json.loads(sent)["contexts"]]
            body = json.dumps({"answers": [{"value": [key, 7]} for key in keys]}).encode()
        else:
            body = b"[%b, 7]" % path
        head = b"HTTP/1.0 200 OK\r\n" if ending == "http10" else b"HTTP/1.1 200 OK\r\n"
        if ending == "announced":
            head += b"Connection: close\r\n"
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class ClosingThriftService(ClosingService):
    """Does so for `list<i64> Lists.get(1: i64 profile_id)`."""

    IDL = "service Lists { list<i64> get(1: i64 profile_id) }"

    def __init__(self, *script: tuple[int, str], framed: bool = True) -> None:
        self._framed = framed
        super().__init__(*script)

    def question(self, connection: socket.socket) -> bytes:
        size = (4 if self._framed else 0) + 4 + 4 + len("get") + 4 + 11 + 1
        data = b""
        while len(data) < size:
            data += _some(connection, size - len(data))
        self.arrived.append(time.monotonic())
        return data[-16:-12] + data[-9:-1]  # sequence id, profile id

    def answer(self, question: bytes, ending: str) -> bytes:
        del ending
        name = b"get"
        message = struct.pack(">Ii", 0x80010002, len(name)) + name + question[:4]
        message += struct.pack(">bhbi", 15, 0, 10, 2) + question[4:] + struct.pack(">q", 7) + b"\0"
        return (struct.pack(">i", len(message)) if self._framed else b"") + message


def _some(connection: socket.socket, most: int = 65_536) -> bytes:
    data = connection.recv(most)
    if not data:
        raise EOFError
    return data


@contextlib.contextmanager
def closing(service: ClosingService) -> Iterator[ClosingService]:
    """Close it at the end."""
    try:
        yield service
    finally:
        service.close()

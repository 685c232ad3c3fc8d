"""A server that says what a test wrote."""

from __future__ import annotations

import socket
import threading


class Speaker:
    """A server that sends given bytes, one after the other, whatever it receives. received: what, by connection."""

    def __init__(self, *message: bytes, waits_for: bytes = b"\r\n\r\n") -> None:
        self.received: list[bytes] = []
        self._said, self._waits_for = iter(message), waits_for
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/a?profile={{profile_id}}"
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        answer = next(self._said, None)
        while answer is not None:
            connection, _ = self._listener.accept()
            self.received.append(b"")
            with connection:
                while answer is not None and (data := connection.recv(65_536)):
                    self.received[-1] += data
                    if self._waits_for in data:
                        connection.sendall(answer)
                        answer = next(self._said, None)

    def __enter__(self) -> Speaker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

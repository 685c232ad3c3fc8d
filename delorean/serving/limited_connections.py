"""Connections of the live scorer: their number, and the time that each waits for a request, are bounded."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from delorean.serving.limits import ServingLimits


def connection_protocol(limits: ServingLimits) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with limits."""
    return type("LimitedConnection", (_LimitedConnection,), {"limits": limits})


class _LimitedConnection(H11Protocol):
    """A connection that is closed when a request's head, or reading its response, takes too long.

    The app applies a separate deadline to a request's body.
    """

    limits: ClassVar[ServingLimits]
    _waiting_since: float | None = None  # for a request's head; None while a request is processed
    _timer: asyncio.TimerHandle | None = None
    _between_requests = False

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request; if there are too many connections, close the one that has waited longest."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.limits.connections:
            waiting = [
                c for c in self.connections if isinstance(c, _LimitedConnection) and c._waiting_since is not None
            ]
            longest = min(waiting, key=lambda c: c._waiting_since or 0.0, default=self)
            longest._give_up()

    def data_received(self, data: bytes) -> None:
        """Receive bytes; the first byte of a further request starts its deadline."""
        if self._between_requests:
            self._stop_watching()
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._watch()
        self._between_requests = self._waiting_since is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_watching()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the signature is uvicorn's
        """Reject what is not HTTP; a request that is being processed ends as if its caller had disconnected."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        self._refuse(400, "Bad Request", "the request is not valid HTTP/1.1")

    def _watch(self) -> None:
        self._between_requests = False
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._timer is None:
            self._waiting_since = time.monotonic()  # the loop gives all that come in one of its turns the same time
            self._timer = self.loop.call_later(self.limits.header_seconds, self._give_up)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._waiting_since = None

    def _give_up(self) -> None:
        """Close the connection, dropping the part of a response that the caller has not read by now."""
        self._stop_watching()
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()
        elif self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            self._refuse(408, "Request Timeout", f"no complete request within {self.limits.header_seconds:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, phrase: str, problem: str) -> None:
        body = json.dumps({"error": problem}).encode()
        head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

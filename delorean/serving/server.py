"""The server of the live scorer: it ends without losing a request that it has, or that waits in the kernel for it."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import uvicorn

from delorean.serving.connections import connection_protocol
from delorean.serving.limits import ServingLimits

_TICK_SECONDS = 0.05
_QUIET_SECONDS = 0.3  # without a connection from the kernel's backlog: longer than a handshake takes
_ATTACH_FILTER = 26
# Classic BPF over TCP headers: drop what asks for a new connection (SYN without ACK), keep all else.
_LOAD_BYTE, _AND, _EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
_SYN, _SYN_OR_ACK, _FLAGS = 0x02, 0x12, 13
_NO_NEW_CONNECTIONS = [
    (_LOAD_BYTE, 0, 0, _FLAGS),
    (_AND, 0, 0, _SYN_OR_ACK),
    (_EQUAL, 0, 1, _SYN),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 1 << 18),
]


class ScorerServer(uvicorn.Server):
    """Ends in this order: `/ready` says 503; new connections are refused; what has come is answered; listeners close.

    A connection that is refused has sent nothing, so its caller can safely ask another scorer.
    """

    def __init__(self, app: Any, limits: ServingLimits) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=connection_protocol(limits),
                ws="none",
                proxy_headers=False,
                server_header=False,
                log_level="error",  # a stranger's bad requests are no news
                access_log=False,
            )
        )
        self._app, self._limits, self._signals = app, limits, 0

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End at the first signal, without further waiting at the second."""
        self._signals += 1
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then do as uvicorn does."""
        await self._announce()
        for listener in sockets or []:
            refuse_new_connections(listener)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.grace_seconds
        await self._answer_backlog(until)
        self.config.timeout_graceful_shutdown = max(1, int(until - loop.time()))
        await super().shutdown(sockets)

    async def _announce(self) -> None:
        """Be unready for a while, for whoever distributes requests to see it; nobody sees it without connections."""
        self._app.state.ending = True
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.announce_seconds
        while loop.time() < until and self._signals < 2 and self.server_state.connections:
            await asyncio.sleep(_TICK_SECONDS)

    async def _answer_backlog(self, until: float) -> None:
        """Accept and answer until nothing has come for a while and nothing is under way."""
        loop = asyncio.get_running_loop()
        known, quiet_since = set(self.server_state.connections), loop.time()
        while loop.time() < until and self._signals < 2:
            await asyncio.sleep(_TICK_SECONDS)
            now = set(self.server_state.connections)
            if now - known or self.server_state.tasks:
                known, quiet_since = known | now, loop.time()
            if loop.time() - quiet_since >= _QUIET_SECONDS:
                return


def refuse_new_connections(listener: socket.socket) -> None:
    """Let the kernel begin no further connection; those that it has begun can still be accepted.

    Closing a listener would reset them, with the requests that they carry. Where there are no such filters, new
    connections go on until the listener closes.
    """
    if sys.platform != "linux":
        return
    code = _assemble(_NO_NEW_CONNECTIONS)
    program = struct.pack("@HP", len(_NO_NEW_CONNECTIONS), ctypes.addressof(code))
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


def _assemble(program: Sequence[tuple[int, int, int, int]]) -> Any:
    return ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))

"""The server of the live scorer: it ends without losing requests that it has, or that wait in the kernel for it."""

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

from delorean.serving.limited_connections import connection_protocol
from delorean.serving.limits import ServingLimits

_TICK_SECONDS = 0.05
_QUIET_SECONDS = 0.3  # without a new connection from the kernel's backlog; longer than a handshake takes
_ATTACH_FILTER = 26
# Classic BPF over TCP headers: drop requests for a new connection (SYN without ACK), keep everything else.
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
    """Ends in order: `/ready` returns 503, new connections are refused, requests are answered, listeners close.

    A refused connection has sent nothing, so its caller can safely try another scorer.
    """

    def __init__(self, app: Any, limits: ServingLimits) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=connection_protocol(limits),
                ws="none",
                proxy_headers=False,
                server_header=False,
                log_level="error",  # bad requests are not worth a warning
                access_log=False,
            )
        )
        self._app, self._limits, self._signals = app, limits, 0

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End at the first signal; at the second, stop waiting."""
        self._signals += 1
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then shut down as uvicorn does."""
        await self._announce()
        for listener in sockets or []:
            refuse_new_connections(listener)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.grace_seconds
        await self._answer_backlog(until)
        self.config.timeout_graceful_shutdown = max(1, int(until - loop.time()))
        await super().shutdown(sockets)

    async def _announce(self) -> None:
        """Be unready for a while so that load balancers notice; not needed without connections."""
        self._app.state.ending = True
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.announce_seconds
        while loop.time() < until and self._signals < 2 and self.server_state.connections:
            await asyncio.sleep(_TICK_SECONDS)

    async def _answer_backlog(self, until: float) -> None:
        """Accept and answer until nothing has arrived for a while and nothing is in progress."""
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
    """Make the kernel refuse new connections; those that it has already established can still be accepted.

    Closing the listener would reset these and lose their requests. On systems without such filters, new connections are
    possible until the listener closes.
    """
    if sys.platform != "linux":
        return
    code = _assemble(_NO_NEW_CONNECTIONS)
    program = struct.pack("@HP", len(_NO_NEW_CONNECTIONS), ctypes.addressof(code))
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


def _assemble(program: Sequence[tuple[int, int, int, int]]) -> Any:
    return ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))

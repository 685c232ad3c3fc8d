"""Whether connections are kept between calls: not to a server that closes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Server = TypeVar("_Server")

_TOLERATED = 1  # in a row: one closes after its own keep-alive time, and none of them is at fault
_DISTRUST_SECONDS = 10.0


class KeepAlivePolicy(Generic[_Server]):
    """Counts, for each server, the kept connections in a row that were closed before they served another call.

    Each of them costs a call that is sent twice, so to a server that closes two in a row none is kept for 10 s.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._closed: dict[_Server, tuple[int, float]] = {}

    def keeps(self, server: _Server) -> bool:
        """Whether a connection whose call is over is worth keep_alive."""
        count, at = self._closed.get(server, (0, 0.0))
        return count <= _TOLERATED or self._now() - at > _DISTRUST_SECONDS

    def served_again(self, server: _Server) -> None:
        """Note that a kept connection served another call."""
        self._closed.pop(server, None)

    def was_closed(self, server: _Server) -> None:
        """Note that a kept connection turned out closed."""
        count, _ = self._closed.get(server, (0, 0.0))
        self._closed[server] = (count + 1, self._now())

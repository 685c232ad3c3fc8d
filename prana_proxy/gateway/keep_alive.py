"""Whether connections are kept between calls: not to a server that closes them between calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Server = TypeVar("_Server")

_TOLERATED = 1  # in a row: a server may close one after its own keep-alive time
_DISTRUST_SECONDS = 10.0


class KeepAlivePolicy(Generic[_Server]):
    """Counts, per server, the kept connections in a row that were closed before another call.

    Each of them costs a call that is sent twice, so after two in a row no connection to the server is kept for 10 s.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._closed: dict[_Server, tuple[int, float]] = {}

    def keeps(self, server: _Server) -> bool:
        """Whether to keep a connection whose call has ended."""
        count, at = self._closed.get(server, (0, 0.0))
        return count <= _TOLERATED or self._now() - at > _DISTRUST_SECONDS

    def served_again(self, server: _Server) -> None:
        """Record that a kept connection served another call."""
        self._closed.pop(server, None)

    def was_closed(self, server: _Server) -> None:
        """Record that a kept connection turned out to be closed."""
        count, _ = self._closed.get(server, (0, 0.0))
        self._closed[server] = (count + 1, self._now())

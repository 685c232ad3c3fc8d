"""How much callers may ask of the live scorer before it protects itself."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class ServingLimits:
    """Bounds that hold over all callers together.

    body: most bytes of one request's body
    bodies: most bytes of all bodies in memory at a time, those that are still arriving included
    places: requests that may be ranked or wait for it at a time
    threads: requests that are ranked at a time; they mostly wait for services
    header_seconds: for a request's head to arrive, from its first byte or the connection's beginning
    body_seconds: for its body to arrive after that
    connections: open at a time; beyond it, the one that has kept us waiting longest for a request is closed
    announce_seconds: how long `/ready` says 503 before new connections are refused, when the scorer is to end
    grace_seconds: for requests under way after that
    """

    body: int = 1 << 20
    bodies: int = 64 << 20
    places: int = 256
    threads: int = 64
    header_seconds: float = 5.0
    body_seconds: float = 5.0
    connections: int = 1_024
    announce_seconds: float = 1.0
    grace_seconds: float = 10.0


def limits_here() -> ServingLimits:
    """Give the defaults, with no more connections than this process may have files, of which the services need some."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    usual = ServingLimits()
    most = usual.connections if files == resource.RLIM_INFINITY else min(usual.connections, files // 2)
    return ServingLimits(connections=max(most, 1))

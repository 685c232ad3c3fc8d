"""Limits that protect the live scorer from its callers."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class ServingLimits:
    """Limits for all callers together.

    body: maximum of bytes of one request's body
    bodies: maximum of bytes of all bodies in memory, including those that are still arriving
    places: maximum of requests that are ranked or wait to be
    threads: maximum of requests that are ranked at a time; they mostly wait for services
    header_seconds: deadline of a request's head, from its first byte or the beginning of the connection
    body_seconds: deadline of its body after that
    connections: maximum of open connections; beyond it, the one that has waited longest for a request is closed
    announce_seconds: when the scorer ends, how long `/ready` returns 503 before new connections are refused
    grace_seconds: for requests in progress after that
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
    """Return the defaults, with at most half as many connections as the process may open files: services need some."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    default = ServingLimits().connections
    connections = default if files == resource.RLIM_INFINITY else min(default, files // 2)
    return ServingLimits(connections=max(connections, 1))

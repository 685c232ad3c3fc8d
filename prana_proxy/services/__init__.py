"""Online services behind their protocols: the interface, and the loader that finds a protocol by its URL's scheme."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prana_proxy.answers import Reply
from prana_proxy.clock import Clock
from schemas.errors import ConfigError
from schemas.services import Service

Key = Mapping[str, Any]
"""One context's values of the service's key variables, none of them null."""

Ask = Callable[[Sequence[Key], float], Awaitable[Sequence[Reply]]]
"""Asks for some contexts in one call: (keys, deadline on the event loop's clock) → one reply for each, in their order.

A protocol's own, and each policy around it (prana_proxy/policies.py), have this form.
"""

MEBIBYTE = 1 << 20
SCHEMES = {"http": "http", "https": "http"}  # scheme of a service's URL → the file of its protocol


@dataclass(frozen=True)
class ServiceConfig:
    """How one service is asked.

    url: with {variables} of the key in it when one context is asked in a call; as it is when `batched`
    batch_size: contexts in one call of a batched service
    answer: JSON pointer, through objects, to the value within an answer; "" is all of it
    timeout_seconds: for one call, within what the caller has left
    max_concurrent: calls in flight, over all callers
    max_answer_bytes, max_batch_bytes: the largest answer, and the largest answer to a batch, that are read
    """

    service: Service
    url: str
    batched: bool = False
    batch_size: int = 100
    answer: str = ""
    timeout_seconds: float = 1.0
    max_concurrent: int = 10
    max_answer_bytes: int = 4 * MEBIBYTE
    max_batch_bytes: int = 64 * MEBIBYTE

    @property
    def call_size(self) -> int:
        """How many contexts one call asks for."""
        return self.batch_size if self.batched else 1


class Protocol(ABC):
    """One way to ask services. A gateway opens it once, on its event loop, for all services that speak it."""

    @abstractmethod
    def asking(self, config: ServiceConfig) -> Ask:
        """Give the function that asks this service: every failure is a reply, nothing is raised but cancellation."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections."""


def protocol_of(url: str) -> str:
    """Name the protocol of a URL. Raises ConfigError for a scheme that none has."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ConfigError.unknown("scheme of a service's URL", scheme, SCHEMES)
    return SCHEMES[scheme]


def open_protocol(name: str, clock: Clock) -> Protocol:
    """Open a protocol by the name that `protocol_of` gave; called on the event loop that will use it."""
    if name == "http":
        from prana_proxy.services.http import HttpProtocol

        return HttpProtocol(clock)
    raise ConfigError.unknown("service protocol", name, set(SCHEMES.values()))

"""Protocols of online services: the interface, and the loader that selects a protocol by a URL's scheme.

Each module of this folder is a protocol, named by its scheme. A scheme with an `s` for TLS, such as `https`, uses the
module without it. A new protocol needs no change elsewhere: its module assigns its implementation to `PROTOCOL`.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar
from typing import Protocol as TypingProtocol

from prana_proxy.clock import Clock
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import Instance
from schemas.errors import ConfigError
from schemas.redaction import without_password
from schemas.services import Status

Key = Mapping[str, Any]
"""One context's values of the service's key variables, none of them null."""


class Ask(TypingProtocol):
    """Sends one call for some contexts to an instance."""

    def __call__(
        self, instance: Instance, keys: Sequence[Key], deadline: float, /, *, new_connection: bool = False
    ) -> Awaitable[Sequence[Reply]]:
        """Return a reply for each key, in their order.

        deadline: on the event loop's clock; new_connection: use no connection kept from an earlier call
        """


class Protocol(ABC):
    """A protocol. A gateway opens it once, on its event loop, for all of its services.

    has_idl: whether an interface file describes the services
    """

    has_idl: ClassVar[bool] = False

    def __init__(self, clock: Clock) -> None:
        """Keep the clock that stamps answers; called on the event loop."""
        self._clock = self.clock = clock

    @staticmethod
    @abstractmethod
    def check(config: ServiceConfig) -> None:
        """Raise ConfigError about the URL unless the protocol can call the service; connects to nothing."""

    @staticmethod
    @abstractmethod
    def own_instance(config: ServiceConfig) -> Instance:
        """Return the instance at the URL's own address."""

    @abstractmethod
    def asking(self, config: ServiceConfig) -> Ask:
        """Return the function that calls this service: every failure is a reply, and only cancellation is raised.

        A failure to connect has the cause CONNECTION, a request that the service rejects as wrong the cause REQUEST.
        Where a kept connection was closed before any of the answer arrived, each reply has the cause KEPT_CONNECTION.
        Cancelling it closes the connection at once, so that the service can stop too.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close connections."""


def unreachable(instance: Instance, error: OSError | None = None) -> Reply:
    """Build the reply for an instance that could not be connected to; or, without an error, that hung up."""
    return Reply.failed(Status.ERROR, f"unreachable: {instance.address}: {_why(error)}", Cause.CONNECTION)


def kept_connection_closed(instance: Instance) -> Reply:
    """Build the reply for a call over a kept connection that was closed before it was answered."""
    return Reply.failed(Status.ERROR, unreachable(instance).reason or "", Cause.KEPT_CONNECTION)


def _why(error: OSError | None) -> str:
    if error is None:
        return "the connection was closed"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS as expected: {error.reason}"
    return os.strerror(error.errno) if error.errno else "no connection"


def protocol_of(url: str) -> type[Protocol]:
    """Return the protocol of a URL. Raises ConfigError for an unknown scheme."""
    scheme = url.partition(":")[0] if ":" in url else ""
    if not scheme:
        raise ConfigError.because(f"is '{without_password(url)}', expected a URL", "write http://host:port/path")
    schemes = {module.name for module in pkgutil.iter_modules(__path__)}
    module = next((name for name in (scheme, scheme.removesuffix("s")) if name in schemes), None)
    if module is None:
        raise ConfigError.unknown("scheme of a service's URL", scheme, schemes)
    protocol: type[Protocol] = importlib.import_module(f"{__name__}.{module}").PROTOCOL
    return protocol

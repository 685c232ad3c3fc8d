"""Online services behind their protocols: the interface, and the loader that finds a protocol by its URL's scheme.

Each module of this folder is a protocol, named by its scheme; `https` is spoken by `http.py`, as is any scheme with an
`s` for TLS by the one without. A new one needs no change elsewhere: it names its implementation of the interface below
`PROTOCOL`.
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
    """Asks an instance for some contexts in one call."""

    def __call__(
        self, instance: Instance, keys: Sequence[Key], deadline: float, /, *, new_connection: bool = False
    ) -> Awaitable[Sequence[Reply]]:
        """Give a reply for each key, in their order.

        deadline: on the event loop's clock; new_connection: none that was kept from an earlier call is used
        """


class Protocol(ABC):
    """One way to ask services. A gateway opens it once, on its event loop, for all services that speak it.

    has_idl: whether an interface file describes its services
    """

    has_idl: ClassVar[bool] = False

    def __init__(self, clock: Clock) -> None:
        """Take the clock that stamps answers; called on the event loop."""
        self._clock = self.clock = clock

    @staticmethod
    @abstractmethod
    def check(config: ServiceConfig) -> None:
        """Raise ConfigError, its text about the URL, unless the service can be asked in this way; asks nobody."""

    @staticmethod
    @abstractmethod
    def own_instance(config: ServiceConfig) -> Instance:
        """Give the instance at the URL's own address."""

    @abstractmethod
    def asking(self, config: ServiceConfig) -> Ask:
        """Give the function that asks this service: every failure is a reply, nothing is raised but cancellation.

        A failure to connect has the cause CONNECTION, a question that the service calls wrong the cause REQUEST. Where
        a kept connection was closed before any of the answer came, each reply has the cause KEPT_CONNECTION.
        Cancelling it lets go of the connection at once, so that the service can stop too.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections."""


def unreachable(instance: Instance, error: OSError | None = None) -> Reply:
    """Build the reply for an instance to which no connection could be made; or, without an error, that closed it."""
    return Reply.failed(Status.ERROR, f"unreachable: {instance.address}: {_why(error)}", Cause.CONNECTION)


def kept_connection_closed(instance: Instance) -> Reply:
    """Build the reply for a call whose connection, kept from an earlier one, was closed before it was answered."""
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
    """Give the protocol of a URL. Raises ConfigError for a scheme that none has."""
    scheme = url.partition(":")[0] if ":" in url else ""
    if not scheme:
        raise ConfigError.because(f"is '{without_password(url)}', expected a URL", "write http://host:port/path")
    known = {module.name for module in pkgutil.iter_modules(__path__)}
    found = next((name for name in (scheme, scheme.removesuffix("s")) if name in known), None)
    if found is None:
        raise ConfigError.unknown("scheme of a service's URL", scheme, known)
    protocol: type[Protocol] = importlib.import_module(f"{__name__}.{found}").PROTOCOL
    return protocol

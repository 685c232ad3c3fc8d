"""Discovery of a service's instances: the interface, and the loader that selects a driver by the URI's scheme.

A scheme is a file of this package: `dns.py` holds `DnsDiscovery`. A new one needs no change elsewhere.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from ipaddress import IPv6Address
from pkgutil import iter_modules
from typing import ClassVar, Self
from urllib.parse import parse_qsl

from schemas.errors import ConfigError
from schemas.redaction import has_password, without_password

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_URI = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#\s]*)(/[^?#\s]*)?(?:\?([^#\s]*))?")


@dataclass(frozen=True, order=True, slots=True)
class Instance:
    """One of a service's servers. host: a name, or an IP address without brackets."""

    host: str
    port: int

    def __post_init__(self) -> None:
        """Raise ConfigError for an invalid host or port."""
        if not (_is_ipv6(self.host) or _HOST.fullmatch(self.host)) or not 0 < self.port < 1 << 16:
            raise _invalid_address(self.address)

    @property
    def address(self) -> str:
        """The host and port as a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read `host:port`. Raises ConfigError.

        >>> Instance.parse("[::1]:80")
        Instance(host='::1', port=80)
        """
        host, _, port = address.rpartition(":")
        bracketed = host[:1] == "[" and host[-1:] == "]"
        inner = host[1:-1] if bracketed else host
        if bracketed != (":" in inner) or not re.fullmatch("[0-9]{1,5}", port):
            raise _invalid_address(address)
        return cls(str(IPv6Address(inner)) if _is_ipv6(inner) else inner, int(port))


@dataclass(frozen=True)
class DiscoveryResult:
    """The result of one look-up.

    fresh_seconds: until the next look-up; infinity when the instances never change
    why_none: the reason when there are no instances
    withdrawn: instances that the source lists as not to be called
    """

    instances: tuple[Instance, ...]
    fresh_seconds: float
    why_none: str = ""
    withdrawn: frozenset[Instance] = frozenset()


@dataclass(frozen=True)
class DiscoveryUri:
    """A URI's parts, unquoted: `scheme://authority/path?parameters`."""

    scheme: str
    authority: str
    path: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Take a URI apart. Raises ConfigError."""
        match = _URI.fullmatch(uri)
        if not match:
            raise ConfigError.because("not a valid URI", "write static://host:port,host:port")
        scheme, authority, path, query = match.groups(default="")
        return cls(scheme, authority, path, dict(parse_qsl(query, keep_blank_values=True)))

    def refuse_parameters(self, *but: str) -> None:
        """Raise ConfigError for a parameter that is not among the named ones."""
        for name in self.parameters:
            if name not in but:
                raise ConfigError.unknown("parameter", name, but)


class Discovery(ABC):
    """A source of one service's instances.

    Its constructor only checks the URI, raising ConfigError; it connects to nothing.

    schemes: of the URIs that a driver takes; each begins with the name of the driver's file
    """

    schemes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __init__(self, uri: DiscoveryUri) -> None: ...

    @abstractmethod
    async def find(self) -> DiscoveryResult:
        """Look up the instances. Raises ServiceError when the source cannot be reached.

        A source that answers that the service, or a healthy instance of it, does not exist gives a result without
        instances.
        """

    async def close(self) -> None:  # noqa: B027  # most keep nothing open between two look-ups
        """Close connections."""


def check_discovery(uri: str) -> None:
    """Raise ConfigError for a URI that `open_discovery` would reject; connects to nothing."""
    open_discovery(uri)


def open_discovery(uri: str) -> Discovery:
    """Open the discovery of a URI, such as `dns:///history.internal:8001`; it connects to nothing before `find`.

    Raises ConfigError.
    """
    if has_password(uri):
        raise ConfigError.because("discovery has a user or password, which would not be sent", "remove it")
    try:
        parts = DiscoveryUri.parse(uri)
        return _driver(parts.scheme)(parts)
    except ConfigError as error:
        raise ConfigError(f"discovery is '{without_password(uri)}': {error}") from error


def _driver(scheme: str) -> type[Discovery]:
    name = scheme.split("+")[0]
    names = [module.name for module in iter_modules(__path__)]
    if name not in names:
        raise ConfigError.unknown("scheme", scheme, names)
    driver: type[Discovery] = getattr(import_module(f"{__name__}.{name}"), f"{name.capitalize()}Discovery")
    if scheme not in driver.schemes:
        raise ConfigError.unknown("scheme", scheme, driver.schemes)
    return driver


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _invalid_address(text: str) -> ConfigError:
    return ConfigError.because(f"'{text}' is not an address, expected host:port", "write 10.0.0.1:8001 or [::1]:8001")

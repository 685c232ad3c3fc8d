"""Instances that are UP in Eureka's registry: `eureka://host:8761/eureka/v2?app=HISTORY`.

Registries that know the same are separated by commas: `eureka://one:8761,two:8761/…`. They are asked over TLS by
`eureka+https://…`. Further parameters: `refresh`, seconds between look-ups [30]; `secure=true`, to call instances at
their secure port.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any
from urllib.error import HTTPError, URLError
from xml.etree.ElementTree import ParseError

from py_eureka_client import eureka_basic
from py_eureka_client.http_client import parse_url

from prana_proxy.discovery import Discovery, DiscoveryUri, Found, Instance
from schemas.errors import ConfigError, ServiceError

_TRANSPORTS = {"eureka": "http", "eureka+https": "https"}
_REFRESH_SECONDS = 30.0  # as often as Eureka's own clients
_MALFORMED = (ParseError, ValueError, KeyError, TypeError, AttributeError)  # py-eureka-client's, of another's answer


class EurekaDiscovery(Discovery):
    """Reads a registry; it never registers."""

    schemes = tuple(_TRANSPORTS)

    def __init__(self, uri: DiscoveryUri) -> None:
        uri.refuse_parameters("app", "refresh", "secure")
        self._app = uri.parameters.get("app", "")
        if not self._app:
            raise ConfigError.because("it names no application", "add ?app=NAME")
        self._refresh = _seconds(uri.parameters.get("refresh", str(_REFRESH_SECONDS)))
        self._secure = _flag(uri.parameters.get("secure", "false"))
        hosts = [Instance.parse(address).address for address in uri.authority.split(",")]
        self._registries = deque(_checked(f"{_TRANSPORTS[uri.scheme]}://{host}{uri.path}") for host in hosts)

    async def find(self) -> Found:
        """Read the application from the first registry that answers; it is asked first the next time."""
        problems = []
        for _ in range(len(self._registries)):
            registry = self._registries[0]
            self._registries.rotate(-1)  # before asking, for it may hang until nobody waits any more
            try:
                found = await self._ask(registry)
            except ServiceError as error:
                problems.append(str(error))
            else:
                self._registries.rotate(1)
                return found
        raise ServiceError("; ".join(problems))

    async def _ask(self, registry: str) -> Found:
        try:
            # In a thread: for each call py-eureka-client reads the certificates from disk, which takes as long as
            # many calls to services.
            application = await asyncio.to_thread(_read_application, registry, self._app)
            instances = {one for each in application.up_instances if (one := self._instance(each))}
        except HTTPError as error:
            if error.code == 404 and "html" not in error.headers.get("Content-Type", ""):  # Eureka has no such page
                return self._found(set(), f"Eureka at {registry} knows no application '{self._app}'")
            raise ServiceError.because(f"Eureka at {registry} answered with HTTP {error.code}") from error
        except URLError as error:
            reason = error.reason or error.__cause__.__class__.__name__  # a timeout has no text
            raise ServiceError.because(f"Eureka at {registry} cannot be asked: {reason}") from error
        except _MALFORMED as error:
            raise ServiceError.because(f"{registry} does not answer as Eureka does", "check its path") from error
        return self._found(instances, f"Eureka at {registry} has no instance of '{self._app}' that is UP")

    def _found(self, instances: set[Instance], why_none: str) -> Found:
        return Found(tuple(sorted(instances)), self._refresh, why_none)

    def _instance(self, registered: Any) -> Instance | None:
        """Give where to call an instance; None when it has no port for that or no address that can be one."""
        port = registered.securePort if self._secure else registered.port
        try:
            return Instance(registered.hostName or registered.ipAddr or "", port.port) if port.enabled else None
        except ConfigError:
            return None


def _read_application(registry: str, app: str) -> Any:
    return asyncio.run(eureka_basic.get_application(registry, app))


def _checked(registry: str) -> str:
    try:
        parse_url(registry)
    except URLError as error:
        raise ConfigError.because(
            f"py-eureka-client cannot ask {registry}", "write a name or an IPv4 address"
        ) from error
    return registry


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600.0:
        raise ConfigError.because(f"refresh is '{text}', expected seconds from 0.1 to 3600", "write refresh=30")
    return seconds


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError.because(f"secure is '{text}', expected true or false", "write secure=true")
    return text == "true"

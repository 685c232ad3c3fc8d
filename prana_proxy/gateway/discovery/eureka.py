"""Instances that are UP in Eureka's registry: `eureka://host:8761/eureka/v2?app=HISTORY`.

Replicated registries are separated by commas: `eureka://one:8761,two:8761/…`. `eureka+https://…` connects over TLS.
Further parameters: `refresh`, seconds between look-ups [30]; `secure=true`, to call instances at their secure port.

An instance is called by its `hostName`, or by its `ipAddr` where that name does not resolve here, as in a container.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any
from urllib.error import HTTPError, URLError
from xml.etree.ElementTree import ParseError

from py_eureka_client import eureka_basic
from py_eureka_client.http_client import parse_url

from prana_proxy.gateway.discovery import Discovery, DiscoveryResult, DiscoveryUri, Instance
from schemas.errors import ConfigError, ServiceError

_TRANSPORTS = {"eureka": "http", "eureka+https": "https"}
_REFRESH_SECONDS = 30.0  # as often as Eureka's own clients
_RESOLVE_SECONDS = 1.0  # for all host names together
_RESOLVED_SECONDS = 300.0  # for which the result of resolving a name is cached
_MALFORMED = (ParseError, ValueError, KeyError, TypeError, AttributeError)  # by py-eureka-client


class EurekaDiscovery(Discovery):
    """Reads a registry; it never registers."""

    schemes = tuple(_TRANSPORTS)

    def __init__(self, uri: DiscoveryUri) -> None:
        uri.refuse_parameters("app", "refresh", "secure")
        self._app = uri.parameters.get("app", "")
        if not self._app:
            raise ConfigError.because("no application is named", "add ?app=NAME")
        self._refresh = _seconds(uri.parameters.get("refresh", str(_REFRESH_SECONDS)))
        self._secure = _flag(uri.parameters.get("secure", "false"))
        hosts = [Instance.parse(address).address for address in uri.authority.split(",")]
        self._resolves: dict[str, tuple[bool, float]] = {}  # host name → whether it resolves, and when that was checked
        self._registries = deque(_checked(f"{_TRANSPORTS[uri.scheme]}://{host}{uri.path}") for host in hosts)

    async def find(self) -> DiscoveryResult:
        """Read the application from the first registry that answers, which is tried first the next time."""
        problems = []
        for _ in range(len(self._registries)):
            registry = self._registries[0]
            self._registries.rotate(-1)  # first, because the request may hang until it is cancelled
            try:
                found = await self._read(registry)
            except ServiceError as error:
                problems.append(str(error))
            else:
                self._registries.rotate(1)
                return found
        raise ServiceError("; ".join(problems))

    async def _read(self, registry: str) -> DiscoveryResult:
        try:
            # In a thread: for each call py-eureka-client reads the certificates from disk, which takes as long as
            # many calls to services.
            application = await asyncio.to_thread(_read_application, registry, self._app)
            up = {id(one) for one in application.up_instances}
            choices = [(id(one) in up, self._addresses(one)) for one in application.instances]
        except HTTPError as error:
            if error.code == 404 and "html" not in error.headers.get("Content-Type", ""):  # Eureka has no such page
                return DiscoveryResult((), self._refresh, f"Eureka at {registry} has no application '{self._app}'")
            raise ServiceError.because(f"Eureka at {registry} answered with HTTP {error.code}") from error
        except URLError as error:
            reason = error.reason or error.__cause__.__class__.__name__  # a timeout has no text
            raise ServiceError.because(f"Eureka at {registry} cannot be reached: {reason}") from error
        except _MALFORMED as error:
            raise ServiceError.because(f"{registry} does not answer like Eureka", "check its path") from error
        await self._resolve(choice[0].host for _, choice in choices if len(choice) > 1)
        found = sorted({self._choose(choice) for is_up, choice in choices if is_up and choice})
        why_none = f"Eureka at {registry} has no instance of '{self._app}' that is UP"
        if any(is_up for is_up, _ in choices):
            why_none += f" and has {'a secure' if self._secure else 'a plain'} port"
        withdrawn = frozenset(one for is_up, choice in choices if not is_up for one in choice)
        return DiscoveryResult(tuple(found), self._refresh, why_none, withdrawn - set(found))

    def _addresses(self, registered: Any) -> list[Instance]:
        """Return an instance's addresses; none when it has no suitable port or no valid address."""
        port = registered.securePort if self._secure else registered.port
        addresses = []
        for host in dict.fromkeys((registered.hostName, registered.ipAddr)):
            try:
                if host and port.enabled:
                    addresses.append(Instance(host, port.port))
            except ConfigError:
                pass
        return addresses

    def _choose(self, addresses: list[Instance]) -> Instance:
        """Choose the first, unless it is a name that does not resolve and there is another."""
        resolves = len(addresses) == 1 or self._resolves[addresses[0].host][0]
        return addresses[0 if resolves else 1]

    async def _resolve(self, hosts: Iterable[str]) -> None:
        """Check which names resolve, and cache the result for some minutes."""
        now, loop = time.monotonic(), asyncio.get_running_loop()
        hosts = set(hosts)
        cached = {host: seen for host, seen in self._resolves.items() if now - seen[1] < _RESOLVED_SECONDS}
        tasks = {host: asyncio.ensure_future(loop.getaddrinfo(host, None)) for host in hosts - cached.keys()}
        done = (await asyncio.wait(tasks.values(), timeout=_RESOLVE_SECONDS))[0] if tasks else set()
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for host, task in tasks.items():
            cached[host] = task in done and task.exception() is None, now
        self._resolves = {host: cached[host] for host in hosts}


def _read_application(registry: str, app: str) -> Any:
    return asyncio.run(eureka_basic.get_application(registry, app))


def _checked(registry: str) -> str:
    try:
        parse_url(registry)
    except URLError as error:
        raise ConfigError.because(
            f"py-eureka-client cannot use {registry}", "write a name or an IPv4 address"
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

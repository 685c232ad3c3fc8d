"""Instances by a name in DNS: every address of it, A and AAAA, at one port.

`dns:///history.internal:8001` uses the system's resolv.conf, search domains included, and
`dns://127.0.0.1:5353/history.internal:8001` the given name server.

A and AAAA are requested concurrently. Once one kind has an answer, the other is waited for only a moment; where it
fails, its last answer is used. IPv6 addresses without a route from here are dropped if there are others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import dns.exception
import dns.inet
import dns.name
from dns.asyncresolver import Resolver
from dns.rdatatype import AAAA, A, RdataType
from dns.resolver import NXDOMAIN

from prana_proxy.gateway.discovery import Discovery, DiscoveryResult, DiscoveryUri, Instance
from schemas.errors import ConfigError, ServiceError

_SHORTEST, _LONGEST = 1.0, 30.0  # seconds between look-ups, whatever an answer's time to live
_PATIENCE_SECONDS = 4.0  # for all name servers together
_OTHER_KIND_SECONDS = 0.25  # for the other kind of address, once one has an answer

_Answer = tuple[list[str], float]
"""Addresses of one kind and their time to live in seconds."""


class DnsDiscovery(Discovery):
    """The addresses of a name, looked up again after their time to live."""

    schemes = ("dns",)

    def __init__(self, uri: DiscoveryUri) -> None:
        uri.refuse_parameters()
        self._server = Instance.parse(uri.authority) if uri.authority else None
        if self._server and not dns.inet.is_address(self._server.host):
            raise ConfigError.because(
                f"name server '{self._server.host}' is a host name",
                "write its IP address, or dns:///name:port with three slashes to ask the system's name servers",
            )
        named = Instance.parse(uri.path[1:])
        self._name, self._port = named.host, named.port
        if dns.inet.is_address(self._name):
            raise ConfigError.because(f"{self._name} is an address already", f"write static://{named.address}")
        try:
            dns.name.from_text(self._name)
        except dns.exception.DNSException as error:
            raise ConfigError.because(f"'{self._name}' is not a DNS name: {error}") from error
        self._last: dict[RdataType, _Answer] = {}

    async def find(self) -> DiscoveryResult:
        """Request the addresses of both kinds; one kind suffices when the other fails."""
        resolver = self._resolver()
        tasks = {kind: asyncio.ensure_future(self._addresses(resolver, kind)) for kind in (A, AAAA)}
        try:
            errors = await self._gather(tasks)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        instances = [Instance(one, self._port) for one in _routable(self._last)]
        if errors and (len(errors) == len(tasks) or not instances):
            raise errors[0]
        fresh = min((seconds for addresses, seconds in self._last.values() if addresses), default=_LONGEST)
        return DiscoveryResult(
            tuple(instances), min(max(fresh, _SHORTEST), _LONGEST), f"{self._name} has no address in DNS"
        )

    async def _gather(self, tasks: Mapping[RdataType, asyncio.Future[_Answer]]) -> list[BaseException]:
        """Keep each kind's answer as it arrives; return the errors of those that fail."""
        done, waiting = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        if waiting:
            enough = any(task.exception() is None and task.result()[0] for task in done)
            done |= (await asyncio.wait(waiting, timeout=_OTHER_KIND_SECONDS if enough else None))[0]
        for kind, task in tasks.items():
            if task in done and task.exception() is None:
                self._last[kind] = task.result()
        return [error for task in done if (error := task.exception()) is not None]

    def _resolver(self) -> Resolver:
        """Create a resolver; resolv.conf is read each time, because it may change while the proxy runs."""
        try:
            resolver = Resolver(configure=self._server is None)
        except dns.exception.DNSException as error:
            raise ServiceError.because(f"DNS: {error}", "name a server: dns://address:port/name:port") from error
        if self._server:
            resolver.nameservers, resolver.port = [self._server.host], self._server.port
        resolver.lifetime = _PATIENCE_SECONDS
        return resolver

    async def _addresses(self, resolver: Resolver, kind: RdataType) -> _Answer:
        try:
            answer = await resolver.resolve(self._name, kind, raise_on_no_answer=False, search=self._server is None)
        except NXDOMAIN:
            return [], _LONGEST
        except dns.exception.DNSException as error:
            raise ServiceError.because(f"DNS look-up of {self._name} failed: {error}") from error
        return [record.to_text() for record in answer.rrset or ()], answer.chaining_result.minimum_ttl


def _routable(answers: Mapping[RdataType, _Answer]) -> list[str]:
    """Return all addresses, without IPv6 addresses that this machine has no route to, unless there are no others."""
    plain = answers.get(A, ([], 0.0))[0]
    others = answers.get(AAAA, ([], 0.0))[0]
    return [*plain, *(others if not plain else filter(_has_route, others))]


def _has_route(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as unsent:
            unsent.connect((address, 9))  # which sends nothing
    except OSError:
        return False
    return True

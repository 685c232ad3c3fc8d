"""Instances that DNS knows by a name: every address it has, A and AAAA, at one port.

`dns:///history.internal:8001` asks as the system's resolv.conf says, search domains included, and
`dns://127.0.0.1:5353/history.internal:8001` a name server of one's own.
"""

from __future__ import annotations

import asyncio

import dns.exception
import dns.inet
import dns.name
from dns.asyncresolver import Resolver
from dns.rdatatype import AAAA, A, RdataType
from dns.resolver import NXDOMAIN

from prana_proxy.discovery import Discovery, DiscoveryUri, Found, Instance
from schemas.errors import ConfigError, ServiceError

_SHORTEST, _LONGEST = 1.0, 30.0  # seconds between look-ups, whatever an answer's time to live
_PATIENCE_SECONDS = 4.0  # for all name servers together


class DnsDiscovery(Discovery):
    """The addresses of a name, as fresh as their time to live says."""

    schemes = ("dns",)

    def __init__(self, uri: DiscoveryUri) -> None:
        uri.refuse_parameters()
        self._server = Instance.parse(uri.authority) if uri.authority else None
        if self._server and not dns.inet.is_address(self._server.host):
            raise ConfigError.because(
                f"name server '{self._server.host}' is a name",
                "write its IP address, or dns:///name:port with three slashes to ask the system's name servers",
            )
        named = Instance.parse(uri.path[1:])
        self._name, self._port = named.host, named.port
        if dns.inet.is_address(self._name):
            raise ConfigError.because(f"{self._name} is an address already", f"write static://{named.address}")
        try:
            dns.name.from_text(self._name)
        except dns.exception.DNSException as error:
            raise ConfigError.because(f"'{self._name}' is no name in DNS: {error}") from error

    async def find(self) -> Found:
        """Ask for the addresses of both kinds; one kind will do when the other cannot be asked for."""
        resolver = self._resolver()
        kinds = [self._addresses(resolver, kind) for kind in (A, AAAA)]
        answers = await asyncio.gather(*kinds, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        good = [answer for answer in answers if not isinstance(answer, BaseException)]
        instances = [Instance(address, self._port) for addresses, _ in good for address in addresses]
        if errors and not instances:
            raise errors[0]
        fresh = min((seconds for addresses, seconds in good if addresses), default=_LONGEST)
        return Found(tuple(instances), min(max(fresh, _SHORTEST), _LONGEST), f"{self._name} has no address in DNS")

    def _resolver(self) -> Resolver:
        """Make a resolver; resolv.conf is read each time, for it may change while the proxy runs."""
        try:
            resolver = Resolver(configure=self._server is None)
        except dns.exception.DNSException as error:
            raise ServiceError.because(f"DNS: {error}", "name a server: dns://address:port/name:port") from error
        if self._server:
            resolver.nameservers, resolver.port = [self._server.host], self._server.port
        resolver.lifetime = _PATIENCE_SECONDS
        return resolver

    async def _addresses(self, resolver: Resolver, kind: RdataType) -> tuple[list[str], float]:
        """Give the addresses of one kind and for how many seconds they hold."""
        try:
            answer = await resolver.resolve(self._name, kind, raise_on_no_answer=False, search=self._server is None)
        except NXDOMAIN:
            return [], _LONGEST
        except dns.exception.DNSException as error:
            raise ServiceError.because(f"DNS cannot be asked for {self._name}: {error}") from error
        return [record.to_text() for record in answer.rrset or ()], answer.chaining_result.minimum_ttl

"""A fixed list of instances: `static://10.0.0.1:8001,10.0.0.2:8001`."""

from __future__ import annotations

import math

from prana_proxy.gateway.discovery import Discovery, DiscoveryResult, DiscoveryUri, Instance
from schemas.errors import ConfigError


class StaticDiscovery(Discovery):
    """Always the same instances."""

    schemes = ("static",)

    def __init__(self, uri: DiscoveryUri) -> None:
        uri.refuse_parameters()
        if uri.path:
            raise ConfigError.because(f"addresses have no path, this is '{uri.path}'", "end it at the last port")
        self._instances = tuple(Instance.parse(address) for address in uri.authority.split(","))
        for instance in self._instances:
            if self._instances.count(instance) > 1:
                raise ConfigError.because(f"{instance.address} is written twice", "remove one")

    async def find(self) -> DiscoveryResult:
        """Return the list."""
        return DiscoveryResult(self._instances, math.inf)

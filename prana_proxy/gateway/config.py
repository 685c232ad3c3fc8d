"""What a gateway is configured with."""

from __future__ import annotations

from dataclasses import dataclass

from prana_proxy.gateway.services import ServiceConfig
from schemas.errors import ConfigError


@dataclass(frozen=True)
class GatewayConfig:
    """The services of a gateway, and the clock that stamps their answers.

    clock: `file:///path` of a file that holds an RFC 3339 instant, read for each answer; None is the system's clock
    """

    services: tuple[ServiceConfig, ...]
    clock: str | None = None

    def __post_init__(self) -> None:
        """Refuse two services of one name."""
        names = [service.service.name for service in self.services]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError.because(f"service '{name}' is declared twice", "give one of them another name")

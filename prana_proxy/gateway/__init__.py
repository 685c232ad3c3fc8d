"""The gateway: asks online services within their limits, for callers in threads or on an event loop."""

from prana_proxy.gateway.async_gateway import AsyncGateway
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.gateway.gateway import Gateway

__all__ = ["AsyncGateway", "Gateway", "GatewayConfig"]

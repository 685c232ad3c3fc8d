"""The proxy's client: many contexts in, Arrow out."""

from prana_proxy.client.client import PranaClient
from prana_proxy.config.credentials import ProxyCredentials

__all__ = ["PranaClient", "ProxyCredentials"]

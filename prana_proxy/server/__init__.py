"""The proxy: a Thrift server in front of the gateway, in one process or in several."""

from prana_proxy.server.proxy import Proxy, ProxyThread, start_proxy
from prana_proxy.server.serve import serve

__all__ = ["Proxy", "ProxyThread", "serve", "start_proxy"]

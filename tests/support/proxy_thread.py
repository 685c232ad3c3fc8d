"""A proxy in a thread of the test's process."""

from __future__ import annotations

from typing import Self

from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.loop_thread import LoopThread
from prana_proxy.server.proxy import Proxy, listen


class ProxyThread:
    """A running proxy on an event loop in a thread. Use it as a context manager, or `stop` it.

    config, server: what it serves, and how, whatever `server.processes` is

    Raises SetupError when the port is taken, and ConfigError as `Proxy.start` does.
    """

    def __init__(self, config: GatewayConfig, server: ServerConfig) -> None:
        self._server = server
        self._thread = LoopThread("prana-proxy")
        try:
            self._proxy = self._thread.run(Proxy.start(config, server, listen(server.host, server.port)))
        except BaseException:  # also an interrupt: the thread must not stay behind
            self._thread.close()
            raise
        self.address, self.gateway, self.worker_status = (
            self._proxy.address,
            self._proxy.gateway,
            self._proxy.worker_status,
        )

    def stop(self) -> None:
        """Stop it as `Proxy.stop` does."""
        if not self._thread.closed:
            self._thread.run(self._proxy.stop())
            self._thread.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def start_proxy(config: GatewayConfig, server: ServerConfig = ServerConfig(port=0)) -> ProxyThread:  # noqa: B008  # frozen
    """Start a proxy in a thread of this process; it listens when this returns. Raises as `ProxyThread` does."""
    return ProxyThread(config, server)

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.server import ProxyThread, start_proxy

PATIENCE = 20.0  # for what comes at once where nothing is wrong


@pytest.fixture
def serving(config_of: Any) -> Iterator[Callable[..., ProxyThread]]:
    """Start a proxy before services that behave as they are called; settings as `ServerConfig` has them."""
    with ExitStack() as opened:

        def start(*behaviours: str, **settings: Any) -> ProxyThread:
            services = {name: {"url": f"/{name}/{{profile_id}}"} for name in behaviours or ("ok",)}
            return opened.enter_context(start_proxy(config_of(**services), ServerConfig(port=0, **settings)))

        yield start


@pytest.fixture
def connect() -> Iterator[Callable[[ProxyThread], socket.socket]]:
    """Open a bare connection to a proxy."""
    with ExitStack() as opened:

        def connect(proxy: ProxyThread) -> socket.socket:
            host, port = proxy.address.split(":")
            return opened.enter_context(socket.create_connection((host, int(port)), PATIENCE))

        yield connect

"""The proxy's HTTP port: whether it is alive and ready, and its metrics. It tells no key, answer or secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from prana_proxy import supervised
from prana_proxy.gateway.ledger import Ledger
from prana_proxy.server.board import Board, Told
from prana_proxy.server.metrics import prometheus_text
from prana_proxy.server.proxy import address_of, listen

_TEXT = "text/plain; version=0.0.4; charset=utf-8"  # as Prometheus wants it


@asynccontextmanager
async def http_port(
    host: str, port: int, ledger: Ledger, board: Board, *, supervises: bool = False
) -> AsyncIterator[str]:
    """Serve health, readiness and metrics; gives the address. Raises SetupError when the port is taken.

    supervises: whether this process has no part of the board, since it is none of those that serve
    """

    async def health(_: web.Request) -> web.Response:
        names = [f"failing: {name}\n" for name in supervised.failing()]
        elsewhere = round(board.total(Told.BACKGROUND_FAILING)) if supervises else 0
        names += [f"failing in the processes that serve: {elsewhere}, see their log\n"] if elsewhere else []
        return web.Response(text="".join(["alive\n", *names]))

    async def ready(_: web.Request) -> web.Response:
        is_ready = board.total(Told.READY) > 0
        return web.Response(text="ready\n" if is_ready else "not ready\n", status=200 if is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        beside = (supervised.failures(), len(supervised.failing())) if supervises else (0, 0)
        return web.Response(body=prometheus_text(ledger, board, beside), headers={"Content-Type": _TEXT})

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    listener = listen(host, port)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield address_of(listener, host)
    finally:
        await runner.cleanup()
        listener.close()

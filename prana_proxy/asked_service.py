"""One service as the gateway asks it: its callers' questions gathered into calls, guarded, with fallbacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from prana_proxy.answers import Answers
from prana_proxy.calls import Caller, Calls
from prana_proxy.discovery import open_discovery
from prana_proxy.fallbacks import Fallbacks
from prana_proxy.instances import Instances
from prana_proxy.ledger import Own, Page
from prana_proxy.policies import Guard
from prana_proxy.services import Protocol, ServiceConfig
from schemas.services import Status

_POSITION = {status: i for i, status in enumerate(Status)}


class AskedService:
    """Asks one service. Belongs to one event loop.

    protocol: the one of the service's URL; page: the service's in the ledger
    """

    def __init__(self, config: ServiceConfig, protocol: Protocol, page: Page) -> None:
        self.config, self._page = config, page
        discovery = config.discovery or f"static://{protocol.own_instance(config).address}"
        self.instances = Instances(config.service.name, open_discovery(discovery))
        self.guard = Guard(config, protocol.asking(config), self.instances, page, time.monotonic)
        self._calls: Calls | None = None

    async def open(self) -> None:
        """Look for the service's instances."""
        await self.instances.open()

    def connect(self, others: Mapping[str, AskedService]) -> None:
        """Make it ready to be asked. others: the services that may stand in for it, by name."""
        send = self.guard.__call__
        if self.config.fallback is not None:
            other = others[self.config.fallback.service] if self.config.fallback.service else None
            stand_in = None if other is None else (other.config, other.guard.__call__)
            send = Fallbacks(self.config, self.guard, stand_in, time.monotonic).__call__
        wait = self.config.batch_wait_seconds if self.config.batched else 0.0
        self._calls = Calls(send, self.config.call_size, wait, self.config.limits.max_concurrent, self._queued)

    async def ask(self, caller: Caller, answers: Answers, deadline: float) -> None:
        """Ask a caller's questions and count what became of them."""
        assert self._calls is not None
        if caller.open:
            await self._calls.ask(caller, deadline)
        own = self._page.own
        for status, count in answers.counts().items():
            own[Own.STATUS + _POSITION[Status(status)]] += count

    async def close_when_idle(self) -> None:
        """Let calls under way end, then stop looking for instances."""
        while self._calls is not None and not self._calls.idle:
            await asyncio.sleep(0.05)
        await self.instances.close()

    def _queued(self, change: int) -> None:
        self._page.own[Own.QUEUED] += change

"""One service behind the gateway: requests gathered into calls, guarded, with fallbacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from prana_proxy.gateway.admission import AdmissionControl
from prana_proxy.gateway.answers import Answers
from prana_proxy.gateway.batching import Caller, RequestBatcher
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import open_discovery
from prana_proxy.gateway.fallbacks import Fallbacks
from prana_proxy.gateway.guard import Guard
from prana_proxy.gateway.instances import Instances
from prana_proxy.gateway.services import Protocol
from prana_proxy.gateway.shared_counters import ProcessField, ServicePage
from prana_proxy.gateway.tasks import TaskSet
from schemas.services import Status

_LOOK_UP_SECONDS = 1.0  # a registry that is slow must not keep a changed configuration waiting
_LOOK_SECONDS = 0.05
_POSITION = {status: i for i, status in enumerate(Status)}


class Upstream:
    """One service. Belongs to one event loop.

    protocol: of the service's URL; page: the service's counters
    before: the same service under another configuration, which this one replaces
    tasks: of the gateway, with which they end
    """

    def __init__(
        self,
        config: ServiceConfig,
        protocol: Protocol,
        page: ServicePage,
        before: Upstream | None,
        tasks: TaskSet,
    ) -> None:
        self.config, self._page, self._tasks = config, page, tasks
        self._opening: asyncio.Future[None] | None = None
        self._discovery = config.discovery or f"static://{protocol.own_instance(config).address}"
        self._instances: Instances
        if before is not None and before._discovery == self._discovery:
            self._instances, self._opening = before._instances, before._opening
        else:
            self._instances = Instances(config.service.name, open_discovery(self._discovery))
        self._controls: AdmissionControl = (
            before._controls if before else AdmissionControl(config, page, time.monotonic, tasks)
        )
        self._guard = Guard(config, protocol.asking(config), self._instances, self._controls)
        self._fallbacks = Fallbacks(config, self._guard, time.monotonic, protocol.clock)
        wait = config.batch_wait_seconds if config.batched else 0.0
        at_once = config.limits.max_concurrent
        self._batcher = RequestBatcher(self._fallbacks, config.call_size, wait, at_once, self._on_queued, tasks)

    async def open(self) -> None:
        """Wait until the service's instances have been looked up, for a second at most."""
        if self._opening is None:
            self._opening = self._tasks.start(self._instances.open())
        await asyncio.wait([self._opening], timeout=_LOOK_UP_SECONDS)

    def connect(self, services: Mapping[str, Upstream]) -> None:
        """Apply its limits, and connect it with its fallback service. services: all of the gateway, by name."""
        self._controls.configure(self.config)
        if self.config.fallback is not None and self.config.fallback.service is not None:
            other = services[self.config.fallback.service]
            self._fallbacks.use_service(other.config, other._guard)

    async def ask(self, caller: Caller, answers: Answers, deadline: float) -> None:
        """Request a caller's keys and count the replies by status."""
        if caller.open:
            late = await self._batcher.ask(caller, deadline)
            replies = [
                self._fallbacks.at_once(caller.open[number], reply or self._controls.rejected)
                for number, reply in late.items()
            ]
            answers.add(list(late), replies)
        own = self._page.own
        for status, count in answers.counts().items():
            own[ProcessField.STATUS + _POSITION[Status(status)]] += count

    async def close_when_idle(self, after: Upstream | None) -> None:
        """Let calls in progress end, then close. after: what replaces it."""
        try:
            while not self._batcher.idle:
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            if after is None or after._instances is not self._instances:
                await self.close()

    async def close(self) -> None:
        """Stop looking up instances."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._instances.close()

    def _on_queued(self, change: int) -> None:
        self._page.own[ProcessField.QUEUED] += change

"""What holds a service's calls back: its breaker, its limits, and that it does not answer for now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.breaker import Breaker
from prana_proxy.gateway.ledger import Own, Page
from prana_proxy.gateway.limits import ConcurrencyLimit, RateLimit
from prana_proxy.gateway.services import ServiceConfig
from prana_proxy.gateway.tasks import StartTask
from schemas.services import Status

_LIKELY: Final = 0.8  # of a caller's patience: a service that was silent for so long will hardly answer within it


class Controls:
    """What holds a service's calls back, for all callers and all processes that share the page.

    They outlive a change of configuration, so that a new limit holds at once also for what waits already.

    page: the service's in the ledger; now: in seconds, the same clock in all processes and the event loop's
    """

    def __init__(
        self,
        config: ServiceConfig,
        page: Page,
        now: Callable[[], float],
        start_task: StartTask = asyncio.ensure_future,
    ) -> None:
        self.page, self.now, self.start_task = page, now, start_task
        self.breaker = Breaker(config.breaker, page, now)
        self.places = ConcurrencyLimit(config.limits.max_concurrent, page, now)
        self.rate = RateLimit(config.limits, page, now)
        self._abandoned: dict[int, float] = {}  # calls by number: when they were sent
        self._number = 0
        self.hold(config)

    def hold(self, config: ServiceConfig) -> None:
        """Hold calls back by another configuration from now on."""
        self.breaker.rules = config.breaker
        self.breaker.probe_seconds = config.timeout_seconds
        self.places.most = config.limits.max_concurrent
        self.rate.limits = config.limits
        reason = f"not asked: its limits, {config.limits}, left no call before the caller's deadline"
        self.rejected = Reply.failed(Status.REJECTED, reason, Cause.DEADLINE)

    def answered(self) -> None:
        """Note that the service has answered, whatever it was."""
        self.page.own[Own.ANSWERED_AT] = self.now()

    def silent(self, seconds: float) -> bool:
        """Whether the service would hardly answer a call within some seconds, so that sending it is in vain.

        It is so while as many calls as may go on without a caller have lasted for about as long and no answer came
        meanwhile. One call at a time is sent all the same, to see when it is over.
        """
        page = self.page
        abandoned = page.total(Own.ABANDONED) if len(page.parts) > 1 else page.own[Own.ABANDONED]
        if not abandoned or abandoned < self._most_abandoned:
            return False
        youngest = max(part[Own.ABANDONED_SINCE] for part in page.parts if part[Own.ABANDONED])
        answered = max(part[Own.ANSWERED_AT] for part in page.parts)
        if self.now() - max(youngest, answered) < _LIKELY * seconds:
            return False
        taken = page.total(Own.IN_FLIGHT)
        return taken > abandoned or taken >= self.places.most

    def may_abandon(self) -> bool:
        """Whether one more call may go on without a caller: half of the places at most, so that others are free."""
        return self.page.total(Own.ABANDONED) < self._most_abandoned

    def abandon(self, sent_at: float) -> int:
        """Note that a call goes on without a caller; give its number for `ended`."""
        self._number += 1
        self._abandoned[self._number] = sent_at
        self._publish()
        return self._number

    def ended(self, number: int) -> None:
        """Note that a call that went on without a caller has ended."""
        del self._abandoned[number]
        self._publish()

    def _publish(self) -> None:
        own = self.page.own
        own[Own.ABANDONED_SINCE] = max(self._abandoned.values(), default=0.0)
        own[Own.ABANDONED] = len(self._abandoned)

    @property
    def _most_abandoned(self) -> int:
        return (self.places.most + 1) // 2


SILENT: Final = Reply.failed(
    Status.REJECTED, "not asked: it has not answered for about as long as the caller allows", Cause.DEADLINE
)
"""What becomes of a call that would be in vain."""

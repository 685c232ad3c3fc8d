"""Decides which calls a service gets: its breaker, its limits, and whether it is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.breaker import Breaker
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.limits import ConcurrencyLimit, RateLimit
from prana_proxy.gateway.shared_counters import ProcessField, ServicePage
from prana_proxy.gateway.tasks import TaskSet
from schemas.services import Status

_LIKELY: Final = 0.8  # of the time a caller allows: after so long a silence an answer within it is unlikely


class AdmissionControl:
    """A service's breaker and limits, for all callers and all processes that share the page.

    They outlive a change of configuration, so that new limits also apply to calls that wait already.

    page: the service's counters; now: in seconds, the same clock in all processes and the event loop's
    """

    def __init__(
        self,
        config: ServiceConfig,
        page: ServicePage,
        now: Callable[[], float],
        tasks: TaskSet | None = None,
    ) -> None:
        self.page, self.now, self.tasks = page, now, TaskSet() if tasks is None else tasks
        self.breaker = Breaker(config.breaker, page, now)
        self.concurrency = ConcurrencyLimit(config.limits.max_concurrent, page, now)
        self.rate = RateLimit(config.limits, page, now)
        self._abandoned: dict[int, float] = {}  # calls by number: when they were sent
        self._number = 0
        self.configure(config)

    def configure(self, config: ServiceConfig) -> None:
        """Apply another configuration."""
        self.breaker.rules = config.breaker
        self.breaker.probe_seconds = config.timeout_seconds
        self.concurrency.limit = config.limits.max_concurrent
        self.rate.limits = config.limits
        reason = f"not sent: its limits, {config.limits}, left no call before the caller's deadline"
        self.rejected = Reply.failed(Status.REJECTED, reason, Cause.DEADLINE)

    def answered(self) -> None:
        """Record that the service has answered, whether or not with an error."""
        self.page.own[ProcessField.ANSWERED_AT] = self.now()

    def silent(self, seconds: float) -> bool:
        """Whether the service is unlikely to answer a call within some seconds, so that sending it would be in vain.

        This holds while abandoned calls take their full share of the limit, have lasted for about as long, and no
        answer came meanwhile. One call at a time is sent all the same, to notice when the silence ends.
        """
        page = self.page
        abandoned = page.total(ProcessField.ABANDONED) if len(page.processes) > 1 else page.own[ProcessField.ABANDONED]
        if not abandoned or abandoned < self._most_abandoned:
            return False
        youngest = max(part[ProcessField.ABANDONED_SINCE] for part in page.processes if part[ProcessField.ABANDONED])
        answered = max(part[ProcessField.ANSWERED_AT] for part in page.processes)
        if self.now() - max(youngest, answered) < _LIKELY * seconds:
            return False
        taken = page.total(ProcessField.IN_FLIGHT)
        return taken > abandoned or taken >= self.concurrency.limit

    def may_abandon(self) -> bool:
        """Whether one more call may go on without a caller: at most half of those allowed in flight."""
        return self.page.total(ProcessField.ABANDONED) < self._most_abandoned

    def abandon(self, sent_at: float) -> int:
        """Record that a call goes on without a caller; return its number for `ended`."""
        self._number += 1
        self._abandoned[self._number] = sent_at
        self._publish()
        return self._number

    def ended(self, number: int) -> None:
        """Record that an abandoned call has ended."""
        del self._abandoned[number]
        self._publish()

    def _publish(self) -> None:
        own = self.page.own
        own[ProcessField.ABANDONED_SINCE] = max(self._abandoned.values(), default=0.0)
        own[ProcessField.ABANDONED] = len(self._abandoned)

    @property
    def _most_abandoned(self) -> int:
        return (self.concurrency.limit + 1) // 2


SILENT: Final = Reply.failed(
    Status.REJECTED, "not sent: the service has not answered for about as long as the caller allows", Cause.DEADLINE
)
"""The reply to a call that would be in vain."""

"""One request to one instance, which may outlive its caller.

A caller's deadline is not a failure of the service. So a request that was sent goes on until its answer or the
service's own timeout, and its true outcome counts. Meanwhile it counts as a call in flight; where half of those allowed
are abandoned already, it ends with its caller, and after 30 s without a caller at the latest.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from prana_proxy.gateway.admission import AdmissionControl
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.shared_counters import LATENCIES, ProcessField
from schemas.services import Status

_FAILURES = (Status.TIMEOUT, Status.ERROR, Status.INVALID)
_LONGEST_ABANDONED_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Attempt:
    """A request under way. Belongs to one event loop.

    work: sends it and returns its replies; cancelling it closes the connection
    count: of the replies; timeout_seconds: the service's own
    turn: of the rate limit; permit: of the breaker; retry: whether it repeats a call
    on_end: called when it has ended

    Example: `replies = await Attempt(controls, ask(...), ...).replies(deadline)`
    """

    def __init__(
        self,
        controls: AdmissionControl,
        work: Coroutine[Any, Any, Sequence[Reply]],
        *,
        count: int,
        timeout_seconds: float,
        turn: tuple[int, float],
        permit: int,
        retry: bool,
        on_end: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._controls, self._count, self._timeout_seconds = controls, count, timeout_seconds
        self._turn, self._on_end = turn, on_end
        self._permit: int | None = permit  # None once the breaker has the outcome
        self._abandoned: int | None = None
        self._alone: asyncio.TimerHandle | None = None
        self._sent_at = controls.now()
        self._outcome: asyncio.Future[Sequence[Reply]] = loop.create_future()
        self._task = loop.create_task(work)
        controls.tasks.add(self._task)
        self._task.add_done_callback(self._end)
        self._overdue = loop.call_later(timeout_seconds, self._time_out)
        own = controls.page.own
        own[ProcessField.OUT] += 1.0
        own[ProcessField.CALLS] += 1.0
        own[ProcessField.RETRIES] += retry

    async def replies(self, deadline: float) -> Sequence[Reply]:
        """Wait for the replies, or until the caller's deadline, on the event loop's clock.

        Cancelling this cancels the request, because its caller has hung up; except a breaker's probe, which goes on.
        """
        late = None
        if deadline < self._overdue.when():
            late = asyncio.get_running_loop().call_at(deadline, self._leave)
        try:
            return await self._outcome
        except asyncio.CancelledError:
            self._go_on(cancelled=not self._probes)
            raise
        finally:
            if late is not None:
                late.cancel()

    def _leave(self) -> None:
        """End the caller's wait at its deadline."""
        if self._outcome.done():
            return
        self._outcome.set_result([NO_ANSWER] * self._count)
        own = self._controls.page.own
        own[ProcessField.LATE] += 1.0
        cut = not (self._probes or self._controls.may_abandon())
        if cut:
            own[ProcessField.CUT] += 1.0
            self._report(self._controls.breaker.cut)
        self._go_on(cancelled=cut)

    def _time_out(self) -> None:
        """End it at the service's own timeout."""
        seconds = self._timeout_seconds
        self._report(lambda permit: self._controls.breaker.failed(permit, seconds))
        if not self._outcome.done():
            late = Reply.failed(Status.TIMEOUT, f"no answer within {seconds:g} s")
            self._outcome.set_result([late] * self._count)
        self._go_on(cancelled=True)

    def _go_on(self, *, cancelled: bool) -> None:
        """Go on without a caller; a cancelled request ends at once, except a thread, which cannot be stopped."""
        if self._task.done():
            return
        if self._abandoned is None:
            self._abandoned = self._controls.abandon(self._sent_at)
            self._alone = asyncio.get_running_loop().call_later(_LONGEST_ABANDONED_SECONDS, self._end_abandoned)
        if cancelled:
            self._task.cancel()

    def _end_abandoned(self) -> None:
        """End a request whose service has a longer timeout than an abandoned call may last."""
        self._report(self._controls.breaker.cut)
        self._task.cancel()

    @property
    def _probes(self) -> bool:
        """Whether it is the open breaker's probe of the service."""
        return self._permit is not None and self._controls.breaker.is_probe(self._permit)

    def _end(self, task: asyncio.Task[Sequence[Reply]]) -> None:
        """Record the outcome and release what it holds."""
        for timer in (self._overdue, self._alone):
            if timer is not None:
                timer.cancel()
        self._controls.tasks.discard(task)
        self._controls.page.own[ProcessField.OUT] -= 1.0
        if self._abandoned is not None:
            self._controls.ended(self._abandoned)
        if task.cancelled():
            self._report(self._controls.breaker.abandoned)
            self._outcome.cancel()
        elif (error := task.exception()) is not None:  # a clock file that was deleted, or a defect
            self._report(self._controls.breaker.abandoned)
            if self._outcome.done():
                _log.error("an abandoned call failed", exc_info=error)
            else:
                self._outcome.set_exception(error)
        else:
            self._take(task.result())
        self._on_end()

    def _take(self, replies: Sequence[Reply]) -> None:
        controls = self._controls
        if replies[0].status is not Status.TIMEOUT:  # a call that timed out may still arrive
            controls.rate.answered(self._turn)
            controls.answered()
        self._report(self._breaker_report(replies))
        if not self._outcome.done():
            self._outcome.set_result(replies)

    def _report(self, report: Callable[[int], None]) -> None:
        """Report the outcome to the breaker, and count how long it took; only the first report counts."""
        if self._permit is None:
            return
        report(self._permit)
        self._permit = None
        seconds, own = self._controls.now() - self._sent_at, self._controls.page.own
        own[ProcessField.SECONDS] += seconds
        own[ProcessField.LATENCY + bisect.bisect_left(LATENCIES, seconds)] += 1.0

    def _breaker_report(self, replies: Sequence[Reply]) -> Callable[[int], None]:
        """Choose the breaker's method for an outcome: the call failed if all of its replies did."""
        breaker = self._controls.breaker
        if not all(reply.status in _FAILURES for reply in replies):
            return breaker.succeeded
        causes = {reply.cause for reply in replies}
        if causes == {Cause.KEPT_CONNECTION}:
            return breaker.withdrawn  # it is sent again
        if causes == {Cause.REQUEST}:
            sent = any(
                reply.status is Status.ERROR for reply in replies
            )  # else the protocol could not express the request
            return breaker.refused if sent else breaker.withdrawn
        seconds = self._controls.now() - self._sent_at
        return lambda permit: breaker.failed(permit, seconds)


NO_ANSWER = Reply.failed(Status.TIMEOUT, "no answer before the caller's deadline", Cause.DEADLINE)
"""The reply at the caller's deadline to a call that was sent."""

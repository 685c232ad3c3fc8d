"""One request to one instance: it lasts as long as its service allows, whether or not its caller waits so long.

A caller's deadline is no failure of the service. So what is sent goes on until its answer or the service's own timeout,
and its true outcome counts. It keeps its place among the service's calls meanwhile; where half of the places are held
by such calls already, it ends with its caller, and after 30 s without a caller at the latest.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.controls import Controls
from prana_proxy.gateway.ledger import LATENCIES, Own
from schemas.services import Status

_FAILURES = (Status.TIMEOUT, Status.ERROR, Status.INVALID)
_LONGEST_ALONE_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Attempt:
    """A request under way. Belongs to one event loop.

    work: sends it and gives its replies; cancelling it lets go of the connection
    count: how many replies there are; timeout_seconds: the service's own
    turn: of the rate; permit: of the breaker; retry: whether it was made before
    ended: called when nothing of it is under way any more

    Example: `replies = await Attempt(controls, ask(...), ...).replies(deadline)`
    """

    def __init__(
        self,
        controls: Controls,
        work: Coroutine[Any, Any, Sequence[Reply]],
        *,
        count: int,
        timeout_seconds: float,
        turn: tuple[int, float],
        permit: int,
        retry: bool,
        ended: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._controls, self._count, self._timeout_seconds = controls, count, timeout_seconds
        self._turn, self._ended = turn, ended
        self._permit: int | None = permit  # None: the breaker knows the outcome
        self._abandoned: int | None = None
        self._alone: asyncio.TimerHandle | None = None
        self._sent_at = controls.now()
        self._outcome: asyncio.Future[Sequence[Reply]] = loop.create_future()
        self._task = controls.start_task(work)
        self._task.add_done_callback(self._end)
        self._overdue = loop.call_later(timeout_seconds, self._time_out)
        own = controls.page.own
        own[Own.OUT] += 1.0
        own[Own.CALLS] += 1.0
        own[Own.RETRIES] += retry

    async def replies(self, deadline: float) -> Sequence[Reply]:
        """Wait for the replies, or until the caller's deadline, on the event loop's clock.

        Cancelling this cancels the request: its caller has hung up. A breaker's probe goes on all the same.
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
        """Give the caller up at its deadline."""
        if self._outcome.done():
            return
        self._outcome.set_result([NO_ANSWER] * self._count)
        own = self._controls.page.own
        own[Own.LATE] += 1.0
        cut = not (self._probes or self._controls.may_abandon())
        if cut:
            own[Own.CUT] += 1.0
            self._tell(self._controls.breaker.cut)
        self._go_on(cancelled=cut)

    def _time_out(self) -> None:
        """End it by the service's own timeout."""
        seconds = self._timeout_seconds
        self._tell(lambda permit: self._controls.breaker.failed(permit, seconds))
        if not self._outcome.done():
            late = Reply.failed(Status.TIMEOUT, f"no answer within {seconds:g} s")
            self._outcome.set_result([late] * self._count)
        self._go_on(cancelled=True)

    def _go_on(self, *, cancelled: bool) -> None:
        """Go on without a caller; a cancelled request ends at once unless it cannot be stopped, such as a thread."""
        if self._task.done():
            return
        if self._abandoned is None:
            self._abandoned = self._controls.abandon(self._sent_at)
            self._alone = asyncio.get_running_loop().call_later(_LONGEST_ALONE_SECONDS, self._give_up)
        if cancelled:
            self._task.cancel()

    def _give_up(self) -> None:
        """End a request whose service allows more time than its outcome is worth."""
        self._tell(self._controls.breaker.cut)
        self._task.cancel()

    @property
    def _probes(self) -> bool:
        """Whether it is the call by which an open breaker learns whether the service is well."""
        return self._permit is not None and self._controls.breaker.is_probe(self._permit)

    def _end(self, task: asyncio.Task[Sequence[Reply]]) -> None:
        """Take the outcome, and let go of everything."""
        for timer in (self._overdue, self._alone):
            if timer is not None:
                timer.cancel()
        self._controls.page.own[Own.OUT] -= 1.0
        if self._abandoned is not None:
            self._controls.ended(self._abandoned)
        if task.cancelled():
            self._tell(self._controls.breaker.abandoned)
            self._outcome.cancel()
        elif (error := task.exception()) is not None:  # a clock that is gone, or a defect
            self._tell(self._controls.breaker.abandoned)
            if self._outcome.done():
                _log.error("a call that nobody waited for failed", exc_info=error)
            else:
                self._outcome.set_exception(error)
        else:
            self._take(task.result())
        self._ended()

    def _take(self, replies: Sequence[Reply]) -> None:
        controls = self._controls
        if replies[0].status is not Status.TIMEOUT:  # a call that is given up may still arrive
            controls.rate.answered(self._turn)
            controls.answered()
        self._tell(self._verdict(replies))
        if not self._outcome.done():
            self._outcome.set_result(replies)

    def _tell(self, verdict: Callable[[int], None]) -> None:
        """Report the outcome to the breaker, and count how long it took; the first one counts."""
        if self._permit is None:
            return
        verdict(self._permit)
        self._permit = None
        seconds, own = self._controls.now() - self._sent_at, self._controls.page.own
        own[Own.SECONDS] += seconds
        own[Own.LATENCY + bisect.bisect_left(LATENCIES, seconds)] += 1.0

    def _verdict(self, replies: Sequence[Reply]) -> Callable[[int], None]:
        """Choose how an outcome is reported to the breaker: the call failed if no reply is any good."""
        breaker = self._controls.breaker
        if not all(reply.status in _FAILURES for reply in replies):
            return breaker.succeeded
        causes = {reply.cause for reply in replies}
        if causes == {Cause.KEPT_CONNECTION}:
            return breaker.withdrawn  # it is sent again
        if causes == {Cause.REQUEST}:
            sent = any(reply.status is Status.ERROR for reply in replies)  # else the protocol had no way to ask it
            return breaker.refused if sent else breaker.withdrawn
        seconds = self._controls.now() - self._sent_at
        return lambda permit: breaker.failed(permit, seconds)


NO_ANSWER = Reply.failed(Status.TIMEOUT, "no answer before the caller's deadline", Cause.DEADLINE)
"""What a caller gets at its deadline for what was sent."""

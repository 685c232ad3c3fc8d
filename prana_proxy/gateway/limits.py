"""Limits of a service, over all callers: calls at a time, and calls a second."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from prana_proxy.gateway.shared_counters import MOST_CALLS_PER_SECOND, ProcessField, ServiceField, ServicePage

_POLL_SECONDS = 0.002  # poll interval: another process may have released a call
_POLL_ALONE_SECONDS = 0.05  # only calls of an earlier configuration are released unseen
_ASLEEP_SECONDS = 0.25  # a process that has not polled for so long has no precedence
_LONGEST_SLEEP_SECONDS = 0.5  # until a changed limit, or an open breaker, is noticed
_MARGIN_SECONDS = 0.045  # a call may always arrive that much later than it was sent
_FULL_SHARE = 1.0 + _MARGIN_SECONDS  # seconds in which a second's calls are sent where answers take longer
_MOST_SPARE_SECONDS = 0.25  # that may be waited at once

Turn = tuple[int, float]
"""A call's index in the ring of the last calls, and when it was sent."""
_UNLIMITED: Turn = (-1, 0.0)


@dataclass(frozen=True)
class Limits:
    """What a service allows.

    max_concurrent: calls in flight
    calls_per_second: in any second, by the service's own clock too; None: as many as come
    burst: of these, how many may come at once; None: a tenth
    """

    max_concurrent: int = 10
    calls_per_second: float | None = None
    burst: int | None = None

    def __str__(self) -> str:
        """Describe them in an error."""
        rate = "" if self.calls_per_second is None else f", {self.calls_per_second:g} a second"
        return f"{self.max_concurrent} at a time{rate}"


class ConcurrencyLimit:
    """The calls that may be in flight: first come, first served, over all processes.

    limit: may change at any time
    now: the same clock in all processes, in seconds; the event loop's
    """

    def __init__(self, limit: int, page: ServicePage, now: Callable[[], float]) -> None:
        self.limit, self._page, self._now = limit, page, now
        self._queue: deque[asyncio.Future[None]] = deque()  # callers of this process; the first one's future is done
        self._freed = asyncio.Event()

    async def take(self, deadline: float, in_vain: Callable[[], bool] = lambda: False) -> bool:
        """Wait until one more call may be in flight; False at the deadline, or when waiting is in vain."""
        if not self._queue and self._try(self._now()):
            return True
        since = self._now()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        if len(self._queue) == 1:
            turn.set_result(None)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
                while not in_vain():
                    if self._try(since):
                        return True
                    await self._wait_for_release()
                return False
        except TimeoutError:
            return False
        finally:
            self._leave(turn)

    def release(self) -> None:
        """End a call in flight."""
        with self._page.lock():
            self._page.own[ProcessField.IN_FLIGHT] -= 1.0
        self._freed.set()

    def _try(self, since: float) -> bool:
        own = self._page.own
        with self._page.lock():
            free = self.limit - self._page.total(ProcessField.IN_FLIGHT)
            if free <= self._ahead(since):
                own[ProcessField.WAITING_SINCE], own[ProcessField.WAITING_SEEN] = since, self._now()
                return False
            own[ProcessField.IN_FLIGHT] += 1.0
            return True

    def _ahead(self, since: float) -> int:
        """Count the processes whose first caller has waited longer, and polls still."""
        awake = self._now() - _ASLEEP_SECONDS
        own = self._page.own
        return sum(
            0.0 < part[ProcessField.WAITING_SINCE] < since and part[ProcessField.WAITING_SEEN] > awake
            for part in self._page.processes
            if part is not own
        )

    async def _wait_for_release(self) -> None:
        """Wait until this process ends a call, or for the poll interval, in which another one may."""
        self._freed.clear()
        try:
            async with asyncio.timeout(_POLL_SECONDS if len(self._page.processes) > 1 else _POLL_ALONE_SECONDS):
                await self._freed.wait()
        except TimeoutError:
            pass

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """Leave the queue; the next caller in it polls from now on."""
        if self._queue[0] is not turn:
            self._queue.remove(turn)
            return
        self._queue.popleft()
        self._page.own[ProcessField.WAITING_SINCE] = 0.0
        if self._queue and not self._queue[0].done():
            self._queue[0].set_result(None)


class RateLimit:
    """The calls that may be sent in a second, over all processes.

    Two rules. Calls are sent evenly, with bursts: the generic cell rate algorithm (GCRA). And a call waits while as
    many as a second may have could have arrived within the last one. GCRA alone would have to leave room for a burst
    and for calls that are delayed on their way: with the default burst that leaves 86% of the rate, and still a
    machine that stands still for a moment could deliver too many calls at once.

    A call may arrive at any time until its answer comes. Answers within 45 ms, the margin, are waited for. A call
    without such an answer counts as arrived 45 ms after it was sent, but only once waiting longer would leave less than
    1 / 1.045 = 95.7% of the rate.

    limits: may change at any time, and hold for the calls of the last second too
    now: the same clock in all processes, in seconds; the event loop's
    """

    def __init__(self, limits: Limits, page: ServicePage, now: Callable[[], float]) -> None:
        self.limits, self._page, self._now = limits, page, now
        self._queue = asyncio.Lock()  # first come, first served

    async def take(self, deadline: float, in_vain: Callable[[], bool]) -> Turn | None:
        """Wait for a turn; None when there is none before the deadline, or when waiting is in vain."""
        if self.limits.calls_per_second is None:
            return _UNLIMITED
        try:
            async with asyncio.timeout_at(deadline), self._queue:
                while not in_vain():
                    wait, turn = self._try()
                    if wait <= 0.0:
                        return turn
                    if self._now() + wait > deadline:
                        return None
                    await asyncio.sleep(min(wait, _LONGEST_SLEEP_SECONDS))
        except TimeoutError:
            pass
        return None

    def answered(self, turn: Turn) -> None:
        """Record that a call's answer is here, so that the call has arrived by now."""
        place, sent = turn
        if place < 0:
            return
        with self._page.lock():
            unanswered = self._page.shared[ServiceField.RATE_CALLS + place] == -sent
            if unanswered and (now := self._now()) < sent + _MARGIN_SECONDS:
                self._page.shared[ServiceField.RATE_CALLS + place] = now

    def _try(self) -> tuple[float, Turn]:
        """Take a turn now, or return in how many seconds to try again."""
        limits = self.limits
        if limits.calls_per_second is None:
            return 0.0, _UNLIMITED
        apart = 1.0 / limits.calls_per_second
        burst = max(1, int(limits.calls_per_second / 10)) if limits.burst is None else limits.burst
        numbers, now = self._page.shared, self._now()
        with self._page.lock():
            if numbers[ServiceField.RATE_LIMIT] != limits.calls_per_second:
                numbers[ServiceField.RATE_LIMIT] = limits.calls_per_second
                numbers[ServiceField.RATE_MIXED_UNTIL] = now + self._window + _MARGIN_SECONDS
            if (
                numbers[ServiceField.RATE_NEXT] > now + burst * apart
            ):  # set under another limit, by which calls were rarer
                numbers[ServiceField.RATE_NEXT] = now + burst * apart
                self._bound_spare()
            wait = max(numbers[ServiceField.RATE_NEXT] - (burst - 1) * apart - now, self._until_arrival_is_over(now))
            if wait > 0.0:
                return wait, _UNLIMITED
            place = int(numbers[ServiceField.RATE_HEAD])
            numbers[ServiceField.RATE_HEAD] = (place + 1) % MOST_CALLS_PER_SECOND
            numbers[ServiceField.RATE_CALLS + place] = -now
            numbers[ServiceField.RATE_NEXT] = max(now, numbers[ServiceField.RATE_NEXT]) + apart
            numbers[ServiceField.RATE_SPARE_UNTIL] = (
                max(now, numbers[ServiceField.RATE_SPARE_UNTIL]) + apart * _FULL_SHARE
            )
            self._bound_spare()
            return 0.0, (place, now)

    @property
    def _most(self) -> int:
        """How many calls may arrive within the window."""
        assert self.limits.calls_per_second is not None
        return math.ceil(self.limits.calls_per_second)

    @property
    def _window(self) -> float:
        """In how many seconds so many calls may arrive: one, or what makes them a whole number."""
        assert self.limits.calls_per_second is not None
        return self._most / self.limits.calls_per_second

    def _until_arrival_is_over(self, now: float) -> float:
        """Seconds until the oldest of the last calls, as many as a window may have, has certainly left the window.

        Those before it had left when later ones were sent, unless that was under another limit.
        """
        numbers = self._page.shared
        place = (int(numbers[ServiceField.RATE_HEAD]) - self._most) % MOST_CALLS_PER_SECOND
        call = numbers[ServiceField.RATE_CALLS + place]
        if not call:
            return 0.0
        over = self._over(place)
        if now < numbers[ServiceField.RATE_MIXED_UNTIL]:
            over = max(over, self._all_over(place, now))
        if over > now:
            return over - now
        answered = call > 0.0
        return 0.0 if answered else min(numbers[ServiceField.RATE_SPARE_UNTIL] - now, _POLL_SECONDS)

    def _over(self, place: int) -> float:
        """When a call leaves the window, if it arrives within the margin."""
        call = self._page.shared[ServiceField.RATE_CALLS + place]
        return (call if call >= 0.0 else _MARGIN_SECONDS - call) + self._window

    def _all_over(self, place: int, now: float) -> float:
        """When all calls before a place have left the window, whatever the order in which they were answered."""
        over, calls = 0.0, self._page.shared[ServiceField.RATE_CALLS : ServiceField.RATE_CALLS + MOST_CALLS_PER_SECOND]
        for back in range(1, MOST_CALLS_PER_SECOND):
            before = (place - back) % MOST_CALLS_PER_SECOND
            if abs(calls[before]) + _MARGIN_SECONDS + self._window <= now:  # as all that were sent earlier, or never
                break
            over = max(over, self._over(before))
        return over

    def _bound_spare(self) -> None:
        numbers = self._page.shared
        most = numbers[ServiceField.RATE_NEXT] + _MOST_SPARE_SECONDS
        numbers[ServiceField.RATE_SPARE_UNTIL] = min(numbers[ServiceField.RATE_SPARE_UNTIL], most)

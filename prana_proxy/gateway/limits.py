"""Limits of a service that hold over all callers: calls at a time, and calls a second."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from prana_proxy.gateway.ledger import MOST_CALLS_PER_SECOND, Own, Page, Shared

_LOOK_SECONDS = 0.002  # how often whoever waits looks for what another process has given back
_LOOK_ALONE_SECONDS = 0.05  # only calls that began under an earlier configuration give back unseen
_ASLEEP_SECONDS = 0.25  # a process that has not looked for so long is not waited for
_LONGEST_SLEEP_SECONDS = 0.5  # in which another limit, or that waiting is in vain, is not seen
_ARRIVAL_SECONDS = 0.045  # a call may always arrive that much later than it was sent
_KEPT_SHARE = 0.955  # of the rate: waiting longer for calls to arrive must leave that much
_MOST_SPARE_SECONDS = 0.25  # that may be waited at once

Turn = tuple[int, float]
"""A call's place among the last ones, and when it was sent."""
_ANY: Turn = (-1, 0.0)


@dataclass(frozen=True)
class Limits:
    """What a service must not be asked beyond.

    max_concurrent: calls in flight
    calls_per_second: in any second, by the service's own clock too; None: as many as come
    burst: of these, how many may come at once; None: a tenth
    """

    max_concurrent: int = 10
    calls_per_second: float | None = None
    burst: int | None = None

    def __str__(self) -> str:
        """Say them as a person would."""
        rate = "" if self.calls_per_second is None else f", {self.calls_per_second:g} a second"
        return f"{self.max_concurrent} at a time{rate}"


class Places:
    """The calls that may be in flight: first come, first served, over all processes.

    most: may be another number at any time
    now: the same clock in all processes, in seconds; the event loop's
    """

    def __init__(self, most: int, page: Page, now: Callable[[], float]) -> None:
        self.most, self._page, self._now = most, page, now
        self._line: deque[asyncio.Future[None]] = deque()  # who waits in this process; the first one's turn is set
        self._freed = asyncio.Event()

    async def take(self, deadline: float, in_vain: Callable[[], bool] = lambda: False) -> bool:
        """Take a place, waiting for one until the deadline; False when there was none, or waiting is in vain."""
        if not self._line and self._try(self._now()):
            return True
        since = self._now()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        if len(self._line) == 1:
            turn.set_result(None)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
                while not in_vain():
                    if self._try(since):
                        return True
                    await self._look()
                return False
        except TimeoutError:
            return False
        finally:
            self._leave(turn)

    def give(self) -> None:
        """Give a place back."""
        with self._page.lock():
            self._page.own[Own.IN_FLIGHT] -= 1.0
        self._freed.set()

    def _try(self, since: float) -> bool:
        own = self._page.own
        with self._page.lock():
            free = self.most - self._page.total(Own.IN_FLIGHT)
            if free <= self._ahead(since):
                own[Own.WAITING_SINCE], own[Own.WAITING_SEEN] = since, self._now()
                return False
            own[Own.IN_FLIGHT] += 1.0
            return True

    def _ahead(self, since: float) -> int:
        """Count the processes whose first in line waits for longer, and still does."""
        awake = self._now() - _ASLEEP_SECONDS
        own = self._page.own
        return sum(
            0.0 < part[Own.WAITING_SINCE] < since and part[Own.WAITING_SEEN] > awake
            for part in self._page.parts
            if part is not own
        )

    async def _look(self) -> None:
        """Wait until this process gives a place back, or for a moment in which another one may."""
        self._freed.clear()
        try:
            async with asyncio.timeout(_LOOK_SECONDS if len(self._page.parts) > 1 else _LOOK_ALONE_SECONDS):
                await self._freed.wait()
        except TimeoutError:
            pass

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """Leave the line; whoever is next looks for a place."""
        if self._line[0] is not turn:
            self._line.remove(turn)
            return
        self._line.popleft()
        self._page.own[Own.WAITING_SINCE] = 0.0
        if self._line and not self._line[0].done():
            self._line[0].set_result(None)


class Rate:
    """The calls that may be made in a second.

    Two rules. Calls are sent evenly, with bursts allowed: the generic cell rate algorithm. And none is sent while as
    many as a second may have could have arrived within the last one. A call may arrive at any time until its answer
    comes. To wait for that costs a part of the rate as long as an answer takes, so for slow services it is taken to
    have arrived soon after it was sent: as soon as waiting would leave less than 95.5% of the rate.

    limits: may be others at any time; they hold for the calls of the last second too
    now: the same clock in all processes, in seconds; the event loop's
    """

    def __init__(self, limits: Limits, page: Page, now: Callable[[], float]) -> None:
        self.limits, self._page, self._now = limits, page, now
        self._line = asyncio.Lock()  # first come, first served

    async def take(self, deadline: float, in_vain: Callable[[], bool]) -> Turn | None:
        """Wait for a turn; None when there is none before the deadline, or when waiting is in vain."""
        if self.limits.calls_per_second is None:
            return _ANY
        try:
            async with asyncio.timeout_at(deadline), self._line:
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
        """Tell that a call's answer is here, so that it has arrived by now."""
        place, sent = turn
        if place < 0:
            return
        with self._page.lock():
            if self._page.shared[Shared.RATE_SENT + place] == sent:
                self._page.shared[Shared.RATE_ANSWERED + place] = self._now()

    def _try(self) -> tuple[float, Turn]:
        """Take a turn now, or say in how many seconds to try again."""
        limits = self.limits
        if limits.calls_per_second is None:
            return 0.0, _ANY
        apart = 1.0 / limits.calls_per_second
        burst = max(1, int(limits.calls_per_second / 10)) if limits.burst is None else limits.burst
        numbers, now = self._page.shared, self._now()
        with self._page.lock():
            if numbers[Shared.RATE_LIMIT] != limits.calls_per_second:
                numbers[Shared.RATE_LIMIT] = limits.calls_per_second
                numbers[Shared.RATE_MIXED_UNTIL] = now + self._window + _ARRIVAL_SECONDS
            if numbers[Shared.RATE_NEXT] > now + burst * apart:  # by another limit, under which calls were rarer
                numbers[Shared.RATE_NEXT] = now + burst * apart
                self._limit_spare()
            wait = max(numbers[Shared.RATE_NEXT] - (burst - 1) * apart - now, self._until_one_is_over(now))
            if wait > 0.0:
                return wait, _ANY
            place = int(numbers[Shared.RATE_HEAD])
            numbers[Shared.RATE_HEAD] = (place + 1) % MOST_CALLS_PER_SECOND
            numbers[Shared.RATE_SENT + place], numbers[Shared.RATE_ANSWERED + place] = now, 0.0
            numbers[Shared.RATE_NEXT] = max(now, numbers[Shared.RATE_NEXT]) + apart
            numbers[Shared.RATE_SPARE_UNTIL] = max(now, numbers[Shared.RATE_SPARE_UNTIL]) + apart / _KEPT_SHARE
            self._limit_spare()
            return 0.0, (place, now)

    @property
    def _most(self) -> int:
        """How many calls may be made within the window."""
        assert self.limits.calls_per_second is not None
        return math.ceil(self.limits.calls_per_second)

    @property
    def _window(self) -> float:
        """Say in how many seconds so many calls may be made: one, or what makes them a whole number."""
        assert self.limits.calls_per_second is not None
        return self._most / self.limits.calls_per_second

    def _until_one_is_over(self, now: float) -> float:
        """Say for how long the first of the last calls, as many as a second may have, may still be within it.

        Those before it were over when later ones were sent, unless that was by another limit.
        """
        numbers = self._page.shared
        place = (int(numbers[Shared.RATE_HEAD]) - self._most) % MOST_CALLS_PER_SECOND
        if not numbers[Shared.RATE_SENT + place]:
            return 0.0
        over = self._over(place)
        if now < numbers[Shared.RATE_MIXED_UNTIL]:
            over = max(over, self._all_over(place, now))
        if over > now:
            return over - now
        answered = numbers[Shared.RATE_ANSWERED + place] or math.inf
        spare = min(numbers[Shared.RATE_SPARE_UNTIL], answered + self._window) - now
        return min(spare, _LOOK_SECONDS)  # its answer may come meanwhile

    def _over(self, place: int) -> float:
        """Say when a call is over: it is taken to have arrived, and the window has passed."""
        sent, answered = self._page.shared[Shared.RATE_SENT + place], self._page.shared[Shared.RATE_ANSWERED + place]
        return min(sent + _ARRIVAL_SECONDS, answered or math.inf) + self._window

    def _all_over(self, place: int, now: float) -> float:
        """Say when all calls before a place are over, whatever the order in which they were answered."""
        over, sent = 0.0, self._page.shared[Shared.RATE_SENT : Shared.RATE_SENT + MOST_CALLS_PER_SECOND]
        for back in range(1, MOST_CALLS_PER_SECOND):
            before = (place - back) % MOST_CALLS_PER_SECOND
            if sent[before] + _ARRIVAL_SECONDS + self._window <= now:  # as are all that were sent earlier, or never
                break
            over = max(over, self._over(before))
        return over

    def _limit_spare(self) -> None:
        numbers = self._page.shared
        most = numbers[Shared.RATE_NEXT] + _MOST_SPARE_SECONDS
        numbers[Shared.RATE_SPARE_UNTIL] = min(numbers[Shared.RATE_SPARE_UNTIL], most)

"""Limits of a service that hold over all callers: calls at a time, and calls a second."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from prana_proxy.ledger import Own, Page, Shared

_LOOK_SECONDS = 0.002  # how often whoever waits looks for what another process has given back
_LOOK_ALONE_SECONDS = 0.05  # only calls that began under an earlier configuration give back unseen
_ASLEEP_SECONDS = 0.25  # a process that has not looked for so long is not waited for
_ARRIVAL_SECONDS = 0.03  # a call may arrive that much later than it was sent, unless it has been answered before

Turn = tuple[int, float]
"""A call's place among the last ones, and when it is taken to have arrived."""
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

    now: the same clock in all processes, in seconds; the event loop's
    """

    def __init__(self, most: int, page: Page, now: Callable[[], float]) -> None:
        self._most, self._page, self._now = most, page, now
        self._line: deque[asyncio.Future[None]] = deque()  # who waits in this process; the first one's turn is set
        self._freed = asyncio.Event()

    async def take(self, deadline: float) -> bool:
        """Take a place, waiting for one until the deadline; False when there was none."""
        if not self._line and self._try(self._now()):
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        if len(self._line) == 1:
            turn.set_result(None)
        since = self._now()
        try:
            async with asyncio.timeout_at(deadline):
                await turn
                while not self._try(since):
                    await self._look()
                return True
        except TimeoutError:
            return False
        finally:
            self._line.remove(turn)
            self._page.own[Own.WAITING_SINCE] = 0.0
            if self._line and not self._line[0].done():
                self._line[0].set_result(None)

    def give(self) -> None:
        """Give a place back."""
        with self._page.lock():
            self._page.own[Own.IN_FLIGHT] -= 1.0
        self._freed.set()

    def _try(self, since: float) -> bool:
        own = self._page.own
        with self._page.lock():
            free = self._most - self._page.total(Own.IN_FLIGHT)
            if free <= 0 or (len(self._page.parts) > 1 and free <= self._ahead(since)):
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


class Rate:
    """The calls that may be made in a second.

    Two rules. Calls are sent evenly, with bursts allowed: the generic cell rate algorithm. And none is sent while as
    many as a second may have could have arrived within the last one. A call may arrive at any time from when it is sent
    until its answer comes, so the latter is what is remembered of it.
    """

    def __init__(self, limits: Limits, page: Page, now: Callable[[], float]) -> None:
        self._page, self._now = page, now
        self._per_second = limits.calls_per_second
        if self._per_second is None:
            return
        self._most = math.ceil(self._per_second)
        self._window = self._most / self._per_second
        self._apart = 1.0 / self._per_second
        burst = max(1, int(self._per_second / 10)) if limits.burst is None else limits.burst
        self._early = (burst - 1) * self._apart
        self._line = asyncio.Lock()  # first come, first served

    async def take(self, deadline: float) -> Turn | None:
        """Wait for a turn; None when there is none before the deadline."""
        if self._per_second is None:
            return _ANY
        try:
            async with asyncio.timeout_at(deadline), self._line:
                while True:
                    wait, turn = self._try()
                    if wait <= 0.0:
                        return turn
                    if self._now() + wait > deadline:
                        return None
                    await asyncio.sleep(wait)
        except TimeoutError:
            return None

    def answered(self, turn: Turn) -> None:
        """Tell that a call's answer is here, so that it has arrived by now."""
        slot, arrival = turn
        now = self._now()
        if slot < 0 or arrival <= now:
            return
        with self._page.lock():
            if self._page.shared[Shared.RATE_RING + slot] == arrival:
                self._page.shared[Shared.RATE_RING + slot] = now

    def _try(self) -> tuple[float, Turn]:
        """Take a turn now, or say in how many seconds to try again."""
        numbers, now = self._page.shared, self._now()
        with self._page.lock():
            if numbers[Shared.RATE_CALLS] != self._most:
                self._resize()
            head = int(numbers[Shared.RATE_HEAD])
            at = Shared.RATE_RING + head
            due = max(numbers[Shared.RATE_NEXT] - self._early, numbers[at] + self._window if numbers[at] else 0.0)
            if due > now:
                return due - now, _ANY
            numbers[at] = arrival = now + _ARRIVAL_SECONDS
            numbers[Shared.RATE_HEAD] = (head + 1) % self._most
            numbers[Shared.RATE_NEXT] = max(now, numbers[Shared.RATE_NEXT]) + self._apart
            return 0.0, (head, arrival)

    def _resize(self) -> None:
        """Keep the last calls in a ring of another size: a limit that has just changed holds for the past too."""
        numbers = self._page.shared
        size, head = int(numbers[Shared.RATE_CALLS]), int(numbers[Shared.RATE_HEAD])
        calls = [numbers[Shared.RATE_RING + (head + i) % size] for i in range(size)][-self._most :]
        calls = [0.0] * (self._most - len(calls)) + calls
        for i, call in enumerate(calls):
            numbers[Shared.RATE_RING + i] = call
        numbers[Shared.RATE_CALLS], numbers[Shared.RATE_HEAD] = self._most, 0.0
        numbers[Shared.RATE_NEXT] = min(numbers[Shared.RATE_NEXT], self._now() + self._apart)

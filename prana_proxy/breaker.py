"""The circuit breaker, by Hystrix's rules: a service that fails too often is left alone for a while.

Of the calls of the last ten seconds, kept in ten buckets, 20 or more with half of them failed open it. After five
seconds one call may try: its success closes the breaker and forgets the past, its failure opens it again. What the
breaker itself refuses counts as nothing, nor does a question that the service rightly calls wrong. Unlike Hystrix,
refusals by our own limits do not count either: they say nothing of the service.

See https://github.com/Netflix/Hystrix/wiki/How-it-Works#circuit-breaker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from prana_proxy.ledger import BREAKER_BUCKETS, Page, Shared

_CLOSED, _OPEN, _HALF_OPEN = 0.0, 1.0, 2.0
_ADMITTED = -1  # by a breaker that is forced: its outcome changes nothing


class State(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"  # one call tries, the others do not go through


@dataclass(frozen=True)
class BreakerRules:
    """When a breaker opens, and for how long.

    window_seconds: of calls that count
    min_calls, error_share: in the window, from which on it opens
    sleep_seconds: until one call may try
    forced: "open" lets nothing through, "closed" everything, whatever happens
    """

    window_seconds: float = 10.0
    min_calls: int = 20
    error_share: float = 0.5
    sleep_seconds: float = 5.0
    forced: Literal["open", "closed"] | None = None


class Breaker:
    """A service's breaker, the same for all processes that share the page.

    rules: may be others at any time; what has been counted stays
    now: a clock that never goes back and is the same in all of them, in seconds
    """

    def __init__(self, rules: BreakerRules, page: Page, now: Callable[[], float]) -> None:
        self.rules, self._page, self._now = rules, page, now
        self._numbers = page.shared

    @property
    def state(self) -> State:
        """Whether calls go through now."""
        if self.rules.forced:
            return State(self.rules.forced)
        return (State.CLOSED, State.OPEN, State.HALF_OPEN)[int(self._numbers[Shared.BREAKER_STATE])]

    @property
    def refuses(self) -> bool:
        """Whether a call would be refused if it came now; the cheap question before a call waits for its place."""
        if self.rules.forced:
            return self.rules.forced == "open"
        return self._numbers[Shared.BREAKER_STATE] != _CLOSED and not self._may_probe()

    def admit(self) -> int | None:
        """Let a call through, or not: give its permit, with which its outcome is told, or None."""
        if self.rules.forced:
            return _ADMITTED if self.rules.forced == "closed" else None
        numbers = self._numbers
        epoch = int(numbers[Shared.BREAKER_EPOCH])  # first, for it changes last: a permit is never of a later state
        if numbers[Shared.BREAKER_STATE] == _CLOSED:
            return epoch
        with self._page.lock():
            if numbers[Shared.BREAKER_STATE] == _CLOSED:
                return int(numbers[Shared.BREAKER_EPOCH])
            if not self._may_probe():
                return None
            self._become(_HALF_OPEN)
            numbers[Shared.BREAKER_PROBER] = self._page.process + 1
            return int(numbers[Shared.BREAKER_EPOCH])

    def succeeded(self, permit: int) -> None:
        """Tell that a call was answered."""
        self._tell(permit, failed=False)

    def failed(self, permit: int) -> None:
        """Tell that a call failed by the service's doing."""
        self._tell(permit, failed=True)

    def refused(self, permit: int) -> None:
        """Tell that the service called the question wrong: it is alive, and nothing counts."""
        with self._page.lock():
            if self._counts(permit) and self._numbers[Shared.BREAKER_STATE] == _HALF_OPEN:
                self._become(_CLOSED)

    def abandoned(self, permit: int) -> None:
        """Tell that a call ended without an outcome, so that another may try in its place."""
        with self._page.lock():
            if self._counts(permit) and self._numbers[Shared.BREAKER_STATE] == _HALF_OPEN:
                self._become(_OPEN)
                self._numbers[Shared.BREAKER_SINCE] = -math.inf

    def _counts(self, permit: int) -> bool:
        """Whether nothing has changed since the call was let through."""
        return permit == int(self._numbers[Shared.BREAKER_EPOCH])

    def _may_probe(self) -> bool:
        if self._numbers[Shared.BREAKER_STATE] == _HALF_OPEN:
            return self._numbers[Shared.BREAKER_PROBER] == 0.0  # the process that tried has died
        return self._now() >= self._numbers[Shared.BREAKER_SINCE] + self.rules.sleep_seconds

    def _become(self, state: float) -> None:
        if state == _CLOSED:
            self._forget()
        self._numbers[Shared.BREAKER_STATE] = state
        self._numbers[Shared.BREAKER_SINCE] = self._now()
        self._numbers[Shared.BREAKER_PROBER] = 0.0
        self._numbers[Shared.BREAKER_EPOCH] += 1.0

    def _tell(self, permit: int, failed: bool) -> None:
        with self._page.lock():
            if not self._counts(permit):
                return
            if self._numbers[Shared.BREAKER_STATE] == _HALF_OPEN:
                self._become(_OPEN if failed else _CLOSED)
                return
            calls, failures = self._count(failed)
            if calls >= self.rules.min_calls and failures >= self.rules.error_share * calls and failures:
                self._become(_OPEN)

    def _count(self, failed: bool) -> tuple[float, float]:
        """Count a call; give the window's calls and failures."""
        numbers, width = self._numbers, self.rules.window_seconds / BREAKER_BUCKETS
        current = self._now() // width
        at = Shared.BREAKER_WINDOW + 3 * int(current % BREAKER_BUCKETS)
        if numbers[at] != current * width:
            numbers[at], numbers[at + 1], numbers[at + 2] = current * width, 0.0, 0.0
        numbers[at + 1] += 1.0
        numbers[at + 2] += failed
        before = (current - BREAKER_BUCKETS + 0.5) * width  # half a bucket, since products are rounded
        calls = failures = 0.0
        for bucket in range(Shared.BREAKER_WINDOW, Shared.BREAKER_WINDOW + 3 * BREAKER_BUCKETS, 3):
            if numbers[bucket] > before:
                calls, failures = calls + numbers[bucket + 1], failures + numbers[bucket + 2]
        return calls, failures

    def _forget(self) -> None:
        for number in range(Shared.BREAKER_WINDOW, Shared.BREAKER_WINDOW + 3 * BREAKER_BUCKETS):
            self._numbers[number] = 0.0

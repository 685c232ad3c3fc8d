"""The circuit breaker, by Hystrix's rules: a service that fails too often gets no calls for a while.

It opens when the last ten seconds, in ten buckets, contain 20 or more calls of which half failed. After five seconds
one probe may be sent: its success closes the breaker and clears the counts, its failure opens it again. Calls that
the breaker rejects do not count, nor do requests that the service rejects as wrong. Unlike in Hystrix, calls rejected
by our own limits do not count either: they say nothing about the service.

A service that hangs holds its few calls for so long that a window may never contain 20 outcomes. So a run of five or
more failures without a success opens it too: when it has lasted for a whole window, or when it has 20 calls together
with those that were cut meanwhile, whose outcomes are unknown.

See https://github.com/Netflix/Hystrix/wiki/How-it-Works#circuit-breaker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from prana_proxy.gateway.shared_counters import BREAKER_BUCKETS, ServiceField, ServicePage

_CLOSED, _OPEN, _HALF_OPEN = 0.0, 1.0, 2.0
_ADMITTED = -1  # by a forced breaker: its outcome changes nothing
_FEWEST_FAILURES = 5  # of a run without a success
_PROBE_GRACE_SECONDS = 1.0  # beyond a service's timeout, after which a probe counts as lost


class BreakerState(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"  # one probe is sent, other calls are rejected


STATES = (BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN)
"""The shared counters hold a state as its position here."""


@dataclass(frozen=True)
class BreakerRules:
    """When a breaker opens, and for how long.

    window_seconds: length of the window
    min_calls, error_share: in the window; reaching both opens it
    sleep_seconds: until a probe, and between one probe and the next
    forced: "open" rejects every call, "closed" admits every call
    """

    window_seconds: float = 10.0
    min_calls: int = 20
    error_share: float = 0.5
    sleep_seconds: float = 5.0
    forced: Literal["open", "closed"] | None = None


class Breaker:
    """A service's breaker, the same for all processes that share the page.

    rules: may change at any time; counts stay
    now: a clock that never goes back and is the same in all of them, in seconds
    probe_seconds: the longest that a call may take; a probe that takes longer is lost, perhaps with its process
    """

    def __init__(
        self, rules: BreakerRules, page: ServicePage, now: Callable[[], float], probe_seconds: float = 0.0
    ) -> None:
        self.rules, self.probe_seconds, self._page, self._now = rules, probe_seconds, page, now
        self._numbers = page.shared

    @property
    def state(self) -> BreakerState:
        """Whether calls go through now."""
        if self.rules.forced:
            return BreakerState(self.rules.forced)
        return STATES[int(self._numbers[ServiceField.BREAKER_STATE])]

    @property
    def refuses(self) -> bool:
        """Whether a call would be rejected now; a cheap check before a call waits for the limits."""
        if self.rules.forced:
            return self.rules.forced == "open"
        return self._numbers[ServiceField.BREAKER_STATE] != _CLOSED and not self._may_probe()

    def admit(self) -> int | None:
        """Admit a call: return the permit with which its outcome is reported; None rejects it."""
        if self.rules.forced:
            return _ADMITTED if self.rules.forced == "closed" else None
        numbers = self._numbers
        epoch = int(
            numbers[ServiceField.BREAKER_EPOCH]
        )  # read first, since it is written last: a permit is never newer than the state
        if numbers[ServiceField.BREAKER_STATE] == _CLOSED:
            return epoch
        with self._page.lock():
            if numbers[ServiceField.BREAKER_STATE] == _CLOSED:
                return int(numbers[ServiceField.BREAKER_EPOCH])
            if not self._may_probe():
                return None
            self._become(_HALF_OPEN)
            numbers[ServiceField.BREAKER_PROBER] = self._page.process + 1
            return int(numbers[ServiceField.BREAKER_EPOCH])

    def is_probe(self, permit: int) -> bool:
        """Whether a permit is the probe's."""
        return self._counts(permit) and self._numbers[ServiceField.BREAKER_STATE] == _HALF_OPEN

    def succeeded(self, permit: int) -> None:
        """Count a call that was answered."""
        self._end(permit, failed=False)

    def failed(self, permit: int, seconds: float = 0.0) -> None:
        """Count a call that the service failed; seconds: how long it took."""
        self._end(permit, failed=True, seconds=seconds)

    def refused(self, permit: int) -> None:
        """End a call whose request the service rejected as wrong: it is alive, so a probe closes the breaker."""
        with self._page.lock():
            if self.is_probe(permit):
                self._become(_CLOSED)

    def cut(self, permit: int) -> None:
        """End a call that was cut at its caller's deadline: slow, but not failed."""
        with self._page.lock():
            if self.is_probe(permit):
                self._become(_OPEN)
            elif self._counts(permit):
                self._continue_run(self._now())
                self._numbers[ServiceField.BREAKER_RUN_CUT] += 1.0
                self._open_after_run()

    def abandoned(self, permit: int) -> None:
        """End a call that was sent but has no outcome, for example because its caller hung up; it does not count."""
        with self._page.lock():
            if self.is_probe(permit):
                self._become(_OPEN)

    def withdrawn(self, permit: int) -> None:
        """End a call that was never sent, so that another may be the probe."""
        with self._page.lock():
            if self.is_probe(permit):
                self._become(_OPEN)
                self._numbers[ServiceField.BREAKER_SINCE] = -math.inf

    def _counts(self, permit: int) -> bool:
        """Whether the breaker's state is the one that admitted the call."""
        return permit == int(self._numbers[ServiceField.BREAKER_EPOCH])

    def _may_probe(self) -> bool:
        numbers = self._numbers
        pause = self.rules.sleep_seconds
        if numbers[ServiceField.BREAKER_STATE] == _HALF_OPEN and numbers[ServiceField.BREAKER_PROBER]:
            pause = max(pause, self.probe_seconds + _PROBE_GRACE_SECONDS)
        return self._now() >= numbers[ServiceField.BREAKER_SINCE] + pause

    def _become(self, state: float) -> None:
        if state == _CLOSED:
            self._clear()
        self._numbers[ServiceField.BREAKER_STATE] = state
        self._numbers[ServiceField.BREAKER_SINCE] = self._now()
        self._numbers[ServiceField.BREAKER_PROBER] = 0.0
        self._numbers[ServiceField.BREAKER_EPOCH] += 1.0

    def _end(self, permit: int, failed: bool, seconds: float = 0.0) -> None:
        with self._page.lock():
            if not self._counts(permit):
                return
            if self._numbers[ServiceField.BREAKER_STATE] == _HALF_OPEN:
                self._become(_OPEN if failed else _CLOSED)
                return
            calls, failures = self._count(failed)
            if calls >= self.rules.min_calls and failures >= self.rules.error_share * calls and failures:
                self._become(_OPEN)
            elif failed:
                self._continue_run(self._now() - seconds)
                self._numbers[ServiceField.BREAKER_RUN_FAILED] += 1.0
                self._open_after_run()
            else:
                self._end_run()

    def _continue_run(self, began: float) -> None:
        """Continue the run of failures, or begin another if none of it is recent. began: start of the call to count."""
        numbers = self._numbers
        if not self._run_length or began - numbers[ServiceField.BREAKER_RUN_LAST] >= self.rules.window_seconds:
            self._end_run()
            numbers[ServiceField.BREAKER_RUN_SINCE] = began
        numbers[ServiceField.BREAKER_RUN_SINCE] = min(numbers[ServiceField.BREAKER_RUN_SINCE], began)
        numbers[ServiceField.BREAKER_RUN_LAST] = self._now()

    def _open_after_run(self) -> None:
        numbers, rules = self._numbers, self.rules
        lasted = self._now() - numbers[ServiceField.BREAKER_RUN_SINCE]
        enough = self._run_length >= rules.min_calls or lasted >= rules.window_seconds
        if enough and numbers[ServiceField.BREAKER_RUN_FAILED] >= min(rules.min_calls, _FEWEST_FAILURES):
            self._become(_OPEN)

    def _end_run(self) -> None:
        self._numbers[ServiceField.BREAKER_RUN_FAILED] = self._numbers[ServiceField.BREAKER_RUN_CUT] = 0.0

    @property
    def _run_length(self) -> float:
        return self._numbers[ServiceField.BREAKER_RUN_FAILED] + self._numbers[ServiceField.BREAKER_RUN_CUT]

    def _count(self, failed: bool) -> tuple[float, float]:
        """Count a call; return the window's calls and failures."""
        numbers, width = self._numbers, self.rules.window_seconds / BREAKER_BUCKETS
        current = self._now() // width
        at = ServiceField.BREAKER_WINDOW + 3 * int(current % BREAKER_BUCKETS)
        if numbers[at] != current * width:
            numbers[at], numbers[at + 1], numbers[at + 2] = current * width, 0.0, 0.0
        numbers[at + 1] += 1.0
        numbers[at + 2] += failed
        before = (current - BREAKER_BUCKETS + 0.5) * width  # half a bucket, since products are rounded
        calls = failures = 0.0
        for bucket in range(ServiceField.BREAKER_WINDOW, ServiceField.BREAKER_WINDOW + 3 * BREAKER_BUCKETS, 3):
            if numbers[bucket] > before:
                calls, failures = calls + numbers[bucket + 1], failures + numbers[bucket + 2]
        return calls, failures

    def _clear(self) -> None:
        self._end_run()
        for number in range(ServiceField.BREAKER_WINDOW, ServiceField.BREAKER_WINDOW + 3 * BREAKER_BUCKETS):
            self._numbers[number] = 0.0

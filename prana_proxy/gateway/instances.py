"""The instances of one service, and the choice of the next one to call."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from prana_proxy.gateway.discovery import Discovery, DiscoveryResult, Instance
from prana_proxy.supervised import Supervised, supervise
from schemas.errors import ServiceError

_log = logging.getLogger(__name__)
_LOOK_UP_SECONDS = 10.0  # for one look-up
_RETRY_SECONDS = 2.0  # until the next look-up, after one without a result
_TOLERATED_FAILURES = 2  # in a row, before an instance is paused
_KEPT_SECONDS = 300.0  # since it was last listed, for an instance missing from a doubtful answer
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 30.0


@dataclass(slots=True)
class _InstanceState:
    """The load and health of one instance.

    last_turn: number of the choice that last chose it; failures: in a row; listed_at: when the registry last listed it
    """

    listed_at: float = -math.inf
    in_flight: int = 0
    last_turn: int = 0
    failures: int = 0
    paused_until: float = -math.inf


def _load(instance: tuple[Instance, _InstanceState]) -> tuple[int, int]:
    return instance[1].in_flight, instance[1].last_turn


class Instances:
    """Chooses among the instances of a service by their load, and keeps their list fresh; for one event loop.

    An instance that cannot be reached three times in a row is paused for 10 s, twice as long after each further
    failure, 30 s at most (Ribbon's rule); one success resets it. While the registry cannot be reached, the last known
    instances stay in use.

    An answer that lists fewer than half of the current instances is doubted, an empty one too: a restarted registry or
    a failing name server answers the same. The missing ones stay in use for up to 5 minutes since they were last
    listed, except those that the registry withdraws explicitly; and, if some are listed, until they cannot be reached.

    name: of the service, for the log
    now: the clock of pauses, in seconds
    """

    def __init__(self, name: str, discovery: Discovery, now: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._discovery = discovery
        self._now = now
        self._current: dict[Instance, _InstanceState] = {}
        self._missing: set[Instance] = set()  # current instances that the last look-up did not list
        self._leaving: dict[Instance, _InstanceState] = {}  # no longer current, but with calls in flight
        self._turns = count(1)
        self._problem: str | None = "they have not been looked up yet"
        self._logged = False  # whether the problem was logged
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def current(self) -> tuple[Instance, ...]:
        """The instances that may be chosen, paused or not."""
        return tuple(self._current)

    @property
    def problem(self) -> str | None:
        """Why there is no instance; None when there is one."""
        return None if self._current else f"no instance: {self._problem}"

    async def open(self) -> None:
        """Look up the instances, now and regularly; a failure is reported by `problem`, not raised."""
        refreshing = Supervised(f"instances of {self._name}")
        try:
            fresh_seconds = await self.look_up()
        except Exception as error:  # noqa: BLE001  # a driver's defect must not end the look-ups
            fresh_seconds = refreshing.failed(error)
        if math.isfinite(fresh_seconds):
            self._refreshing = asyncio.create_task(
                supervise(refreshing, lambda: self._keep_fresh(refreshing, fresh_seconds))
            )

    async def close(self) -> None:
        """Stop looking up."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._discovery.close()

    async def look_up(self) -> float:
        """Look up the instances once; return the seconds until the next look-up."""
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                result = await self._discovery.find()
        except TimeoutError:
            self._report(f"no answer within {_LOOK_UP_SECONDS:g} s")
        except ServiceError as error:
            self._report(str(error))
        except Exception as error:  # noqa: BLE001  # a driver's defect must not end the look-ups unnoticed
            self._report(f"the driver failed: {error!r}")
        else:
            missing = self._apply(result)
            if result.instances and missing:
                self._report(f"{len(result.instances)} of {len(self._current)} are listed; the others stay in use")
            else:
                self._report(None if result.instances else result.why_none)
            if result.instances and not missing:
                return result.fresh_seconds
        return _RETRY_SECONDS

    def choose(self, but: Collection[Instance] = ()) -> Instance | None:
        """Return the instance with the fewest calls in flight, equal ones in turn; None if there is none.

        but: instances to skip, because this call was tried on them. If it is empty, an instance is returned even if
        all are paused: whether to call at all is up to the circuit breaker.
        """
        now = self._now()
        awake = [(one, state) for one, state in self._current.items() if state.paused_until <= now and one not in but]
        candidates = awake if awake or but else list(self._current.items())
        if not candidates:
            return None
        chosen, state = min(candidates, key=_load)
        state.last_turn = next(self._turns)
        return chosen

    @contextmanager
    def call(self, instance: Instance) -> Iterator[None]:
        """Count a call in flight."""
        state = self._tally(instance)
        state.in_flight += 1
        try:
            yield
        finally:
            state.in_flight -= 1

    def reached(self, instance: Instance) -> None:
        """Record that an instance answered, even with an error."""
        state = self._tally(instance)
        state.failures, state.paused_until = 0, -math.inf

    def unreachable(self, instance: Instance) -> None:
        """Record that an instance could not be reached, or that its connection broke."""
        state = self._tally(instance)
        state.failures += 1
        beyond = state.failures - _TOLERATED_FAILURES - 1
        if beyond >= 0:
            # The exponent is bounded too: an instance may fail a million calls.
            state.paused_until = self._now() + min(_PAUSE_SECONDS * 2 ** min(beyond, 8), _LONGEST_PAUSE_SECONDS)
        if instance in self._missing and len(self._missing) < len(self._current):
            self._missing.discard(instance)
            self._replace([one for one in self._current if one != instance])

    def _tally(self, instance: Instance) -> _InstanceState:
        """Return an instance's state; a temporary one for an instance that has vanished."""
        return self._current.get(instance) or self._leaving.get(instance) or _InstanceState()

    def _apply(self, result: DiscoveryResult) -> int:
        """Apply a look-up; if it is doubtful, keep the missing instances for a while and return their number."""
        now, listed = self._now(), dict.fromkeys(result.instances)
        before = {one: state for one, state in self._current.items() if one not in result.withdrawn}
        doubtful = 2 * len(listed) < len(before)
        others = [one for one, state in before.items() if doubtful and now - state.listed_at <= _KEPT_SECONDS]
        self._missing = {one for one in others if one not in listed}
        self._replace([*listed, *(one for one in others if one not in listed)])
        for one in listed:
            self._current[one].listed_at = now
        return len(self._missing)

    def _replace(self, instances: Collection[Instance]) -> None:
        """Replace the instances; one that returns before its calls have ended keeps its state."""
        states = {**self._leaving, **self._current}
        self._current = {one: states.get(one) or _InstanceState() for one in instances}
        self._leaving = {one: state for one, state in states.items() if one not in self._current and state.in_flight}

    def _report(self, problem: str | None) -> None:
        """Keep the problem; log its beginning and end, not each occurrence."""
        self._problem = problem
        if problem is not None and not self._logged:
            serving = f"the last known {len(self._current)} stay in use" if self._current else "there is none to call"
            _log.warning("service '%s': instances: %s; %s", self._name, problem, serving)
        if problem is None and self._logged:
            _log.warning("service '%s': instances can be looked up again: %d", self._name, len(self._current))
        self._logged = problem is not None

    async def _keep_fresh(self, refreshing: Supervised, fresh_seconds: float) -> None:
        while math.isfinite(fresh_seconds):
            await asyncio.sleep(fresh_seconds)
            fresh_seconds = await self.look_up()
            refreshing.works()
        await asyncio.get_running_loop().create_future()  # instances that never change are not looked up again

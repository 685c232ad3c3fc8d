"""The instances of one service: which there are, and which of them to call next."""

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
_PATIENCE_SECONDS = 10.0  # for one look-up
_RETRY_SECONDS = 2.0  # until the next look-up, after one that found nothing
_TOLERATED_FAILURES = 2  # in a row, before an instance rests
_KEPT_SECONDS = 300.0  # of an instance that a doubtful answer does not name, since it was named last
_REST_SECONDS, _LONGEST_REST_SECONDS = 10.0, 30.0


@dataclass(slots=True)
class _InstanceState:
    """What calls to one instance told.

    last_turn: when it was chosen last, in choices; failures: in a row; named_at: when the registry named it last
    """

    named_at: float = -math.inf
    in_flight: int = 0
    last_turn: int = 0
    failures: int = 0
    rests_until: float = -math.inf


def _load(instance: tuple[Instance, _InstanceState]) -> tuple[int, int]:
    return instance[1].in_flight, instance[1].last_turn


class Instances:
    """Chooses among the instances of a service by their load, and keeps their list fresh; for one event loop.

    An instance that cannot be reached three times in a row rests for 10 s, twice as long after each further failure,
    30 s at most (Ribbon's rule); one success forgets all failures. While the registry cannot be asked, the instances
    known last serve on.

    An answer that names fewer than half as many as are known is doubted, an empty one above all: a registry that was
    restarted, or a name server in trouble, says the same. The others serve on for up to 5 minutes since they were named
    last, but for those that the registry withdraws by name; and, where some are named, until they cannot be reached.

    name: of the service, for the log
    now: gives seconds, by which instances rest
    """

    def __init__(self, name: str, discovery: Discovery, now: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._discovery = discovery
        self._now = now
        self._known: dict[Instance, _InstanceState] = {}
        self._missing: set[Instance] = set()  # of those known, what the last look-up did not name
        self._leaving: dict[Instance, _InstanceState] = {}  # no longer known, but with calls in flight
        self._turns = count(1)
        self._trouble: str | None = "they have not been looked up yet"
        self._told = False  # whether the log has the trouble
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def known(self) -> tuple[Instance, ...]:
        """The instances that may be chosen, resting or not."""
        return tuple(self._known)

    @property
    def problem(self) -> str | None:
        """Why there is no instance; None when there is one."""
        return None if self._known else f"no instance: {self._trouble}"

    async def open(self) -> None:
        """Look the instances up, and from then on again and again; a failure is told by `problem`, not raised."""
        refreshing = Supervised(f"instances of {self._name}")
        try:
            fresh_seconds = await self.look_up()
        except Exception as error:  # noqa: BLE001  # a defect of a driver's; else they would never be looked up again
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
        """Look the instances up once; give the seconds after which to do it again."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                found = await self._discovery.find()
        except TimeoutError:
            self._tell(f"no answer within {_PATIENCE_SECONDS:g} s")
        except ServiceError as error:
            self._tell(str(error))
        except Exception as error:  # noqa: BLE001  # else a driver's defect would end the looking up, unseen
            self._tell(f"the driver failed: {error!r}")
        else:
            missing = self._take(found)
            if found.instances and missing:
                self._tell(f"{len(found.instances)} of {len(self._known)} are named; the others may be there still")
            else:
                self._tell(None if found.instances else found.why_none)
            if found.instances and not missing:
                return found.fresh_seconds
        return _RETRY_SECONDS

    def choose(self, but: Collection[Instance] = ()) -> Instance | None:
        """Give the instance with the fewest calls in flight, equal ones by turns; None if there is none to give.

        but: instances that must not be chosen, because this call has been tried on them. Without any, an instance is
        given even if all of them rest: whether to call at all is for the circuit breaker to decide.
        """
        now = self._now()
        awake = [(one, state) for one, state in self._known.items() if state.rests_until <= now and one not in but]
        candidates = awake if awake or but else list(self._known.items())
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
        """Note that an instance answered, whatever it said."""
        state = self._tally(instance)
        state.failures, state.rests_until = 0, -math.inf

    def unreachable(self, instance: Instance) -> None:
        """Note that no connection to an instance came about, or that it broke."""
        state = self._tally(instance)
        state.failures += 1
        beyond = state.failures - _TOLERATED_FAILURES - 1
        if beyond >= 0:
            # The exponent is bounded too: an instance may be away for a million calls.
            state.rests_until = self._now() + min(_REST_SECONDS * 2 ** min(beyond, 8), _LONGEST_REST_SECONDS)
        if instance in self._missing and len(self._missing) < len(self._known):
            self._missing.discard(instance)
            self._know([one for one in self._known if one != instance])

    def _tally(self, instance: Instance) -> _InstanceState:
        """Give an instance's state; one that nobody keeps for an instance that vanished."""
        return self._known.get(instance) or self._leaving.get(instance) or _InstanceState()

    def _take(self, found: DiscoveryResult) -> int:
        """Know what a look-up named, and if that is doubtful, the others too for a while; give how many these are."""
        now, named = self._now(), dict.fromkeys(found.instances)
        before = {one: state for one, state in self._known.items() if one not in found.withdrawn}
        doubtful = 2 * len(named) < len(before)
        others = [one for one, state in before.items() if doubtful and now - state.named_at <= _KEPT_SECONDS]
        self._missing = {one for one in others if one not in named}
        self._know([*named, *(one for one in others if one not in named)])
        for one in named:
            self._known[one].named_at = now
        return len(self._missing)

    def _know(self, instances: Collection[Instance]) -> None:
        """Know these instances and no others; one that comes back before its calls have ended keeps its state."""
        states = {**self._leaving, **self._known}
        self._known = {one: states.get(one) or _InstanceState() for one in instances}
        self._leaving = {one: state for one, state in states.items() if one not in self._known and state.in_flight}

    def _tell(self, trouble: str | None) -> None:
        """Keep what is wrong; log it when it begins and when it is over, not each time."""
        self._trouble = trouble
        if trouble is not None and not self._told:
            serving = f"the {len(self._known)} known last serve on" if self._known else "there is none to call"
            _log.warning("service '%s': instances: %s; %s", self._name, trouble, serving)
        if trouble is None and self._told:
            _log.warning("service '%s': instances can be looked up again: %d", self._name, len(self._known))
        self._told = trouble is not None

    async def _keep_fresh(self, refreshing: Supervised, fresh_seconds: float) -> None:
        while math.isfinite(fresh_seconds):
            await asyncio.sleep(fresh_seconds)
            fresh_seconds = await self.look_up()
            refreshing.works()
        await asyncio.get_running_loop().create_future()  # what never changes is not looked up again

"""What stands between callers and a service: its breaker, its limits, its timeout, and retries on other instances."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.attempts import NO_ANSWER, Attempt
from prana_proxy.gateway.calls import Known
from prana_proxy.gateway.controls import SILENT, Controls
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.instances import Instances
from prana_proxy.gateway.ledger import Own
from prana_proxy.gateway.services import Ask, ServiceConfig
from schemas.services import Status

_T = TypeVar("_T")
_MOST_JITTER_SECONDS = 0.05
_MOST_SAVED_RETRIES = 50


class RetryBudget:
    """How many calls may be made again: never more than a share of all calls.

    >>> budget = RetryBudget(0.1)
    >>> for _ in range(25): budget.called()
    >>> [budget.spend() for _ in range(3)]
    [True, True, False]
    """

    def __init__(self, share: float) -> None:
        self._share = round(share * 1_000)  # in thousandths, so that sums are exact
        self._saved = 0

    def called(self) -> None:
        """Count a call that is no retry."""
        self._saved = min(self._saved + self._share, _MOST_SAVED_RETRIES * 1_000)

    def spend(self) -> bool:
        """Take a retry, if there is one."""
        if self._saved < 1_000:
            return False
        self._saved -= 1_000
        return True


@dataclass
class _Call:
    """What is asked. tried: the instances that were; running: requests that have not ended."""

    keys: Sequence[dict[str, Any]]
    deadline: float
    known: Known
    controls: Controls
    tried: list[Instance] = field(default_factory=list)
    running: int = 1  # the caller's own share, until it has its replies

    def all(self, reply: Reply) -> Sequence[Reply]:
        """Give the same reply to each question."""
        return [reply] * len(self.keys)

    def ended(self) -> None:
        """Note that a request, or the caller's waiting, has ended; after the last one the call's place is free."""
        self.running -= 1
        if not self.running:
            self.controls.places.give()


class Guard:
    """Makes the calls to one service, within its policies.

    ask: the protocol's own
    """

    def __init__(self, config: ServiceConfig, ask: Ask, instances: Instances, controls: Controls) -> None:
        self._config, self._ask, self._instances, self._controls = config, ask, instances, controls
        self._ask_anew = partial(ask, new_connection=True)
        self._names = tuple(variable.name for variable in config.service.key)
        self._budget = RetryBudget(config.retry_share)

    async def __call__(self, keys: Sequence[tuple[Any, ...]], deadline: float, known: Known) -> Sequence[Reply]:
        """Make one call for some keys: a reply for each, in their order. known: called when it has been sent."""
        controls = self._controls
        if controls.breaker.refuses:
            return [_SHORT_CIRCUITED] * len(keys)
        if controls.silent(deadline - asyncio.get_running_loop().time()):
            return [SILENT] * len(keys)
        if not await self._waiting(controls.places.take(deadline, lambda: controls.breaker.refuses)):
            return [_SHORT_CIRCUITED if controls.breaker.refuses else controls.rejected] * len(keys)
        call = _Call([dict(zip(self._names, key, strict=True)) for key in keys], deadline, known, controls)
        try:
            return await self._with_retries(call)
        finally:
            call.ended()

    async def _waiting(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for a place or a turn, and count that a call waits."""
        own = self._controls.page.own
        own[Own.WAITING] += 1.0
        try:
            return await work
        finally:
            own[Own.WAITING] -= 1.0

    async def _with_retries(self, call: _Call) -> Sequence[Reply]:
        replies = await self._attempt(call)
        if call.tried:
            self._budget.called()
        for attempt in range(1, self._config.retries + 1 if self._config.idempotent else 1):
            if not _worth_another(replies) or not await self._may_retry(call):
                break
            call.known(replies)
            again = await self._attempt(call)
            if len(call.tried) == attempt or again[0].cause is Cause.DEADLINE:
                break  # what the service did before says more
            replies = again
        return replies

    async def _may_retry(self, call: _Call) -> bool:
        """Say whether there is time, an instance and a budget for another attempt, after a moment."""
        jitter = random.uniform(0.0, min(_MOST_JITTER_SECONDS, self._config.timeout_seconds / 10))  # noqa: S311  # no secret
        if asyncio.get_running_loop().time() + jitter >= call.deadline:
            return False
        if self._instances.choose(call.tried) is None or not self._budget.spend():
            return False
        await asyncio.sleep(jitter)
        return True

    async def _attempt(self, call: _Call) -> Sequence[Reply]:
        """Send a call to an instance not tried yet, if rate and breaker let it through."""
        if self._instances.problem is not None:  # known at once; there is nobody whom the breaker could spare
            return call.all(self._nobody())
        turn = await self._waiting(self._controls.rate.take(call.deadline, lambda: self._controls.breaker.refuses))
        if self._controls.breaker.refuses:
            return call.all(_SHORT_CIRCUITED)
        if turn is None or asyncio.get_running_loop().time() >= call.deadline:
            return call.all(self._controls.rejected)
        permit = self._controls.breaker.admit()
        if permit is None:  # another process was faster
            return call.all(_SHORT_CIRCUITED)
        instance = self._instances.choose(call.tried)
        if instance is None:
            self._controls.breaker.withdrawn(permit)
            return call.all(self._nobody())
        replies = await self._send(call, instance, turn, permit, self._ask).replies(call.deadline)
        if replies[0].cause is Cause.KEPT_CONNECTION:
            return await self._send_again(call, instance) or replies
        return replies

    async def _send_again(self, call: _Call, instance: Instance) -> Sequence[Reply] | None:
        """Send a call whose kept connection was closed over a new one: no retry, but another call to the rate.

        None when it is not sent: there is no time, or the breaker has opened meanwhile.
        """
        turn = await self._waiting(self._controls.rate.take(call.deadline, lambda: self._controls.breaker.refuses))
        if turn is None or asyncio.get_running_loop().time() >= call.deadline:
            return None
        permit = self._controls.breaker.admit()
        if permit is None:
            return None
        return await self._send(call, instance, turn, permit, self._ask_anew).replies(call.deadline)

    def _send(self, call: _Call, instance: Instance, turn: tuple[int, float], permit: int, ask: Ask) -> Attempt:
        if not call.tried:
            call.known(call.all(NO_ANSWER))
        if ask is self._ask:
            call.tried.append(instance)
        call.running += 1
        return Attempt(
            self._controls,
            self._asked(ask, instance, call.keys),
            count=len(call.keys),
            timeout_seconds=self._config.timeout_seconds,
            turn=turn,
            permit=permit,
            retry=ask is self._ask_anew or len(call.tried) > 1,
            ended=call.ended,
        )

    async def _asked(self, ask: Ask, instance: Instance, keys: Sequence[dict[str, Any]]) -> Sequence[Reply]:
        until = asyncio.get_running_loop().time() + self._config.timeout_seconds
        with self._instances.call(instance):
            replies = await ask(instance, keys, until)
        lost = any(reply.cause is Cause.CONNECTION and reply.status is Status.ERROR for reply in replies)
        if replies[0].cause is not Cause.KEPT_CONNECTION:
            (self._instances.unreachable if lost else self._instances.reached)(instance)
        return replies

    def _nobody(self) -> Reply:
        return Reply.failed(Status.ERROR, self._instances.problem or "no instance is known", Cause.CONNECTION)


_SHORT_CIRCUITED = Reply.failed(
    Status.SHORT_CIRCUITED, "not asked: the service failed too often, so its breaker is open"
)


def _worth_another(replies: Collection[Reply]) -> bool:
    """Whether another instance might do better: all failed, by the service's doing."""
    return all(
        reply.status in (Status.TIMEOUT, Status.ERROR) and reply.cause in (Cause.SERVICE, Cause.CONNECTION)
        for reply in replies
    )

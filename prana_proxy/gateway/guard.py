"""Guards a service: breaker, limits, timeout, and retries on other instances."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from prana_proxy.gateway.admission import SILENT, AdmissionControl
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.attempt import NO_ANSWER, Attempt
from prana_proxy.gateway.batching import OnInterim
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.instances import Instances
from prana_proxy.gateway.services import Ask
from prana_proxy.gateway.shared_counters import ProcessField
from schemas.services import Status

_T = TypeVar("_T")
_MOST_JITTER_SECONDS = 0.05
_MOST_SAVED_RETRIES = 50


class RetryBudget:
    """Bounds the calls made again to a share of all calls.

    >>> budget = RetryBudget(0.1)
    >>> for _ in range(25): budget.called()
    >>> [budget.spend() for _ in range(3)]
    [True, True, False]
    """

    def __init__(self, share: float) -> None:
        self._share = round(share * 1_000)  # in thousandths, so that sums are exact
        self._saved = 0

    def called(self) -> None:
        """Count a call that is not a retry."""
        self._saved = min(self._saved + self._share, _MOST_SAVED_RETRIES * 1_000)

    def spend(self) -> bool:
        """Take a retry; False when the budget is spent."""
        if self._saved < 1_000:
            return False
        self._saved -= 1_000
        return True


@dataclass
class _RetriedCall:
    """A call with its retries. tried: instances it was sent to; running: attempts that have not ended."""

    keys: Sequence[dict[str, Any]]
    deadline: float
    on_interim: OnInterim
    controls: AdmissionControl
    tried: list[Instance] = field(default_factory=list)
    running: int = 1  # one more for the caller, until it has its replies

    def all(self, reply: Reply) -> Sequence[Reply]:
        """Return the same reply for each key."""
        return [reply] * len(self.keys)

    def ended(self) -> None:
        """End an attempt, or the caller's wait; after the last one another call may begin."""
        self.running -= 1
        if not self.running:
            self.controls.concurrency.release()


class Guard:
    """Makes the calls to one service, within its limits and breaker.

    ask: the protocol's function that sends a call
    """

    def __init__(self, config: ServiceConfig, ask: Ask, instances: Instances, controls: AdmissionControl) -> None:
        self._config, self._ask, self._instances, self._controls = config, ask, instances, controls
        self._ask_over_new_connection = partial(ask, new_connection=True)
        self._names = tuple(variable.name for variable in config.service.key)
        self._budget = RetryBudget(config.retry_share)

    async def __call__(
        self, keys: Sequence[tuple[Any, ...]], deadline: float, on_interim: OnInterim
    ) -> Sequence[Reply]:
        """Make one call for some keys and return a reply for each, in their order.

        on_interim: called when the call is sent, and with the replies of each attempt before a retry
        """
        controls = self._controls
        if controls.breaker.refuses:
            return [_SHORT_CIRCUITED] * len(keys)
        if controls.silent(deadline - asyncio.get_running_loop().time()):
            return [SILENT] * len(keys)
        if not await self._waiting(controls.concurrency.take(deadline, lambda: controls.breaker.refuses)):
            return [_SHORT_CIRCUITED if controls.breaker.refuses else controls.rejected] * len(keys)
        call = _RetriedCall([dict(zip(self._names, key, strict=True)) for key in keys], deadline, on_interim, controls)
        try:
            return await self._with_retries(call)
        finally:
            call.ended()

    async def _waiting(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for a limit, and count the call among those that wait."""
        own = self._controls.page.own
        own[ProcessField.WAITING] += 1.0
        try:
            return await work
        finally:
            own[ProcessField.WAITING] -= 1.0

    async def _with_retries(self, call: _RetriedCall) -> Sequence[Reply]:
        replies = await self._attempt(call)
        if call.tried:
            self._budget.called()
        for attempt in range(1, self._config.retries + 1 if self._config.idempotent else 1):
            if not _worth_another(replies) or not await self._may_retry(call):
                break
            call.on_interim(replies)
            again = await self._attempt(call)
            if len(call.tried) == attempt or again[0].cause is Cause.DEADLINE:
                break  # the first attempt's outcome says more of the service
            replies = again
        return replies

    async def _may_retry(self, call: _RetriedCall) -> bool:
        """Whether there is time, an instance and a budget for another attempt, after a random pause."""
        jitter = random.uniform(0.0, min(_MOST_JITTER_SECONDS, self._config.timeout_seconds / 10))  # noqa: S311  # no secret
        if asyncio.get_running_loop().time() + jitter >= call.deadline:
            return False
        if self._instances.choose(call.tried) is None or not self._budget.spend():
            return False
        await asyncio.sleep(jitter)
        return True

    async def _attempt(self, call: _RetriedCall) -> Sequence[Reply]:
        """Send a call to an instance not tried yet, if rate limit and breaker admit it."""
        if self._instances.problem is not None:  # without an instance the breaker has nothing to protect
            return call.all(self._no_instance())
        turn = await self._waiting(self._controls.rate.take(call.deadline, lambda: self._controls.breaker.refuses))
        if self._controls.breaker.refuses:
            return call.all(_SHORT_CIRCUITED)
        if turn is None or asyncio.get_running_loop().time() >= call.deadline:
            return call.all(self._controls.rejected)
        permit = self._controls.breaker.admit()
        if permit is None:  # another process has taken the probe
            return call.all(_SHORT_CIRCUITED)
        instance = self._instances.choose(call.tried)
        if instance is None:
            self._controls.breaker.withdrawn(permit)
            return call.all(self._no_instance())
        replies = await self._send(call, instance, turn, permit, self._ask).replies(call.deadline)
        if replies[0].cause is Cause.KEPT_CONNECTION:
            return await self._send_again(call, instance) or replies
        return replies

    async def _send_again(self, call: _RetriedCall, instance: Instance) -> Sequence[Reply] | None:
        """Send a call again over a new connection: not a retry, but another call to the rate limit.

        Returns None when it is not sent: there is no time, or the breaker has opened meanwhile.
        """
        turn = await self._waiting(self._controls.rate.take(call.deadline, lambda: self._controls.breaker.refuses))
        if turn is None or asyncio.get_running_loop().time() >= call.deadline:
            return None
        permit = self._controls.breaker.admit()
        if permit is None:
            return None
        return await self._send(call, instance, turn, permit, self._ask_over_new_connection).replies(call.deadline)

    def _send(self, call: _RetriedCall, instance: Instance, turn: tuple[int, float], permit: int, ask: Ask) -> Attempt:
        if not call.tried:
            call.on_interim(call.all(NO_ANSWER))
        if ask is self._ask:
            call.tried.append(instance)
        call.running += 1
        return Attempt(
            self._controls,
            self._request(ask, instance, call.keys),
            count=len(call.keys),
            timeout_seconds=self._config.timeout_seconds,
            turn=turn,
            permit=permit,
            retry=ask is self._ask_over_new_connection or len(call.tried) > 1,
            on_end=call.ended,
        )

    async def _request(self, ask: Ask, instance: Instance, keys: Sequence[dict[str, Any]]) -> Sequence[Reply]:
        until = asyncio.get_running_loop().time() + self._config.timeout_seconds
        with self._instances.call(instance):
            replies = await ask(instance, keys, until)
        lost = any(reply.cause is Cause.CONNECTION and reply.status is Status.ERROR for reply in replies)
        if replies[0].cause is not Cause.KEPT_CONNECTION:
            (self._instances.unreachable if lost else self._instances.reached)(instance)
        return replies

    def _no_instance(self) -> Reply:
        return Reply.failed(Status.ERROR, self._instances.problem or "there is no instance", Cause.CONNECTION)


_SHORT_CIRCUITED = Reply.failed(
    Status.SHORT_CIRCUITED, "not sent: the service failed too often, so its breaker is open"
)


def _worth_another(replies: Collection[Reply]) -> bool:
    """Whether another instance might succeed: all keys failed, through the service or its connection."""
    return all(
        reply.status in (Status.TIMEOUT, Status.ERROR) and reply.cause in (Cause.SERVICE, Cause.CONNECTION)
        for reply in replies
    )

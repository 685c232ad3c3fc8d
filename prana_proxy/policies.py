"""What stands between callers and a service: its breaker, its limits, its timeout, and retries on other instances."""

from __future__ import annotations

import asyncio
import bisect
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prana_proxy.answers import Cause, Reply
from prana_proxy.breaker import Breaker
from prana_proxy.calls import Known
from prana_proxy.discovery import Instance
from prana_proxy.instances import Instances
from prana_proxy.ledger import LATENCIES, Own, Page
from prana_proxy.limits import Places, Rate
from prana_proxy.services import Ask, ServiceConfig
from schemas.services import Status

_FAILURES = (Status.TIMEOUT, Status.ERROR, Status.INVALID)
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


class Controls:
    """What holds a service's calls back: its breaker and its limits.

    They outlive a change of configuration, so that a new limit holds at once also for what waits already.

    page: the service's in the ledger; now: in seconds, the same clock in all processes and the event loop's
    """

    def __init__(self, config: ServiceConfig, page: Page, now: Callable[[], float]) -> None:
        self.page, self.now = page, now
        self.breaker = Breaker(config.breaker, page, now)
        self.places = Places(config.limits.max_concurrent, page, now)
        self.rate = Rate(config.limits, page, now)
        self.hold(config)

    def hold(self, config: ServiceConfig) -> None:
        """Hold calls back by another configuration from now on."""
        self.breaker.rules = config.breaker
        self.places.most = config.limits.max_concurrent
        self.rate.limits = config.limits
        reason = f"not asked: its limits, {config.limits}, left no call before the caller's deadline"
        self.rejected = Reply.failed(Status.REJECTED, reason, Cause.DEADLINE)


@dataclass(frozen=True)
class _Call:
    """What is asked. tried: the instances that were."""

    keys: Sequence[dict[str, Any]]
    deadline: float
    known: Known
    tried: list[Instance] = field(default_factory=list)

    def all(self, reply: Reply) -> Sequence[Reply]:
        """Give the same reply to each question."""
        return [reply] * len(self.keys)


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
        """Make one call for some keys: a reply for each, in their order. known: told that it has been sent."""
        if self._controls.breaker.refuses:
            return [_SHORT_CIRCUITED] * len(keys)
        if not await self._controls.places.take(deadline):
            return [self._controls.rejected] * len(keys)
        try:
            named = [dict(zip(self._names, key, strict=True)) for key in keys]
            return await self._with_retries(_Call(named, deadline, known))
        finally:
            self._controls.places.give()

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
        turn = await self._controls.rate.take(call.deadline, lambda: self._controls.breaker.refuses)
        if self._controls.breaker.refuses:
            return call.all(_SHORT_CIRCUITED)
        if turn is None or asyncio.get_running_loop().time() >= call.deadline:
            return call.all(self._controls.rejected)
        permit = self._controls.breaker.admit()
        if permit is None:  # another process was faster
            return call.all(_SHORT_CIRCUITED)
        tell: Callable[[int], None] = self._controls.breaker.abandoned
        try:
            instance = self._instances.choose(call.tried)
            if instance is None:
                return call.all(self._nobody())
            replies, seconds = await self._send(call, instance)
            if replies[0].status is not Status.TIMEOUT:  # a call that is given up may still arrive
                self._controls.rate.answered(turn)
            if replies[0].cause is Cause.KEPT_CONNECTION:
                replies, seconds = await self._send_again(call, instance, replies, seconds)
            tell = self._verdict(replies, seconds)
            return replies
        finally:
            tell(permit)

    async def _send_again(
        self, call: _Call, instance: Instance, replies: Sequence[Reply], seconds: float
    ) -> tuple[Sequence[Reply], float]:
        """Send a call whose kept connection was closed over a new one: no retry, but another call to the rate."""
        turn = await self._controls.rate.take(call.deadline, lambda: False)
        if turn is None:
            return replies, seconds
        replies, seconds = await self._send(call, instance, again=True)
        if replies[0].status is not Status.TIMEOUT:
            self._controls.rate.answered(turn)
        return replies, seconds

    async def _send(self, call: _Call, instance: Instance, again: bool = False) -> tuple[Sequence[Reply], float]:
        if not call.tried:
            call.known(call.all(_NO_ANSWER))
        if not again:
            call.tried.append(instance)
        started = self._controls.now()
        own_limit = asyncio.get_running_loop().time() + self._config.timeout_seconds
        replies: Sequence[Reply]
        try:
            with self._instances.call(instance):
                async with asyncio.timeout_at(min(own_limit, call.deadline)):
                    ask = self._ask_anew if again else self._ask
                    replies = await ask(instance, call.keys, call.deadline)
        except TimeoutError:
            late = Reply.failed(Status.TIMEOUT, f"no answer within {self._config.timeout_seconds:g} s")
            replies = call.all(late if own_limit <= call.deadline else _NO_ANSWER)
        else:
            lost = any(reply.cause is Cause.CONNECTION and reply.status is Status.ERROR for reply in replies)
            if replies[0].cause is not Cause.KEPT_CONNECTION:
                (self._instances.unreachable if lost else self._instances.reached)(instance)
        finally:
            seconds = self._controls.now() - started
            self._count(seconds, again or len(call.tried) > 1)
        return replies, seconds

    def _verdict(self, replies: Sequence[Reply], seconds: float) -> Callable[[int], None]:
        """Say how a call's outcome is told to the breaker: it failed if no reply is any good."""
        if not all(reply.status in _FAILURES for reply in replies):
            return self._controls.breaker.succeeded
        causes = {reply.cause for reply in replies}
        if causes == {Cause.REQUEST}:
            sent = any(reply.status is Status.ERROR for reply in replies)  # else the protocol had no way to ask it
            return self._controls.breaker.refused if sent else self._controls.breaker.abandoned
        if causes == {Cause.KEPT_CONNECTION}:
            return self._controls.breaker.abandoned  # it was not sent again: there was no time
        if causes == {Cause.DEADLINE} and seconds < self._config.timeout_seconds / 2:
            return self._controls.breaker.abandoned  # a caller in a hurry says nothing of the service
        return self._controls.breaker.failed

    def _count(self, seconds: float, retry: bool) -> None:
        own = self._controls.page.own
        own[Own.CALLS] += 1.0
        own[Own.RETRIES] += retry
        own[Own.SECONDS] += seconds
        own[Own.LATENCY + bisect.bisect_left(LATENCIES, seconds)] += 1.0

    def _nobody(self) -> Reply:
        return Reply.failed(Status.ERROR, self._instances.problem or "no instance is known", Cause.CONNECTION)


_NO_ANSWER = Reply.failed(Status.TIMEOUT, "no answer before the caller's deadline", Cause.DEADLINE)
_SHORT_CIRCUITED = Reply.failed(
    Status.SHORT_CIRCUITED, "not asked: the service failed too often, so its breaker is open"
)


def _worth_another(replies: Collection[Reply]) -> bool:
    """Whether another instance might do better: all failed, by the service's doing."""
    return all(
        reply.status in (Status.TIMEOUT, Status.ERROR) and reply.cause in (Cause.SERVICE, Cause.CONNECTION)
        for reply in replies
    )

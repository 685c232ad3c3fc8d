"""What stands between callers and a service: its breaker, its limits, its timeout, and retries on other instances."""

from __future__ import annotations

import asyncio
import bisect
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

from prana_proxy.answers import Cause, Reply
from prana_proxy.breaker import Breaker
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


class Guard:
    """Makes the calls to one service, within its policies.

    ask: the protocol's own; page: the service's in the ledger; now: in seconds, the same clock in all processes
    """

    def __init__(
        self, config: ServiceConfig, ask: Ask, instances: Instances, page: Page, now: Callable[[], float]
    ) -> None:
        self._config, self._ask, self._instances, self._page, self._now = config, ask, instances, page, now
        self._names = tuple(variable.name for variable in config.service.key)
        self._places = Places(config.limits.max_concurrent, page, now)
        self._rate = Rate(config.limits, page, now)
        self._budget = RetryBudget(config.retry_share)
        self.breaker = Breaker(config.breaker, page, now)

    async def __call__(self, keys: Sequence[tuple[Any, ...]], deadline: float) -> Sequence[Reply]:
        """Make one call for some keys: a reply for each, in their order."""
        if self.breaker.refuses:
            return [_SHORT_CIRCUITED] * len(keys)
        if not await self._places.take(deadline):
            return [self._rejected()] * len(keys)
        try:
            return await self._with_retries([dict(zip(self._names, key, strict=True)) for key in keys], deadline)
        finally:
            self._places.give()

    async def _with_retries(self, keys: Sequence[dict[str, Any]], deadline: float) -> Sequence[Reply]:
        self._budget.called()
        tried: list[Instance] = []
        replies = await self._attempt(keys, deadline, tried)
        for _ in range(self._config.retries if self._config.idempotent else 0):
            if not _worth_another(replies) or self._instances.choose(tried) is None or not self._budget.spend():
                break
            self._page.own[Own.RETRIES] += 1.0
            await asyncio.sleep(random.uniform(0.0, min(_MOST_JITTER_SECONDS, self._config.timeout_seconds / 10)))  # noqa: S311  # no secret
            again = await self._attempt(keys, deadline, tried)
            if again[0].status in (Status.SHORT_CIRCUITED, Status.REJECTED):
                break  # what the service did before says more
            replies = again
        return replies

    async def _attempt(self, keys: Sequence[dict[str, Any]], deadline: float, tried: list[Instance]) -> Sequence[Reply]:
        """Make one call to an instance not tried yet, if breaker and rate let it through."""
        permit = self.breaker.admit()
        if permit is None:
            return [_SHORT_CIRCUITED] * len(keys)
        tell: Callable[[int], None] = self.breaker.abandoned
        try:
            instance = self._instances.choose(tried)
            if instance is None:
                tell = self.breaker.failed
                return [Reply.failed(Status.ERROR, self._nobody(), Cause.CONNECTION)] * len(keys)
            turn = await self._rate.take(deadline)
            if turn is None:
                return [self._rejected()] * len(keys)
            tried.append(instance)
            try:
                replies, seconds = await self._call(instance, keys, deadline)
            finally:
                self._rate.answered(turn)
            tell = self._verdict(replies, seconds)
            return replies
        finally:
            tell(permit)

    async def _call(
        self, instance: Instance, keys: Sequence[dict[str, Any]], deadline: float
    ) -> tuple[Sequence[Reply], float]:
        started = self._now()
        own_limit = asyncio.get_running_loop().time() + self._config.timeout_seconds
        replies: Sequence[Reply]
        try:
            with self._instances.call(instance):
                async with asyncio.timeout_at(min(own_limit, deadline)):
                    replies = await self._ask(instance, keys, deadline)
        except TimeoutError:
            if own_limit <= deadline:
                reply = Reply.failed(Status.TIMEOUT, f"no answer within {self._config.timeout_seconds:g} s")
            else:
                reply = Reply.failed(Status.TIMEOUT, "no answer before the caller's deadline", Cause.DEADLINE)
            replies = [reply] * len(keys)
        else:
            lost = any(reply.cause is Cause.CONNECTION and reply.status is Status.ERROR for reply in replies)
            (self._instances.unreachable if lost else self._instances.reached)(instance)
        seconds = self._now() - started
        self._count(seconds)
        return replies, seconds

    def _verdict(self, replies: Sequence[Reply], seconds: float) -> Callable[[int], None]:
        """Say how a call's outcome is told to the breaker: it failed if no reply is any good."""
        if not all(reply.status in _FAILURES for reply in replies):
            return self.breaker.succeeded
        causes = {reply.cause for reply in replies}
        if causes == {Cause.REQUEST}:
            return self.breaker.refused
        if causes == {Cause.DEADLINE} and seconds < self._config.timeout_seconds / 2:
            return self.breaker.abandoned  # a caller in a hurry says nothing of the service
        return self.breaker.failed

    def _count(self, seconds: float) -> None:
        own = self._page.own
        own[Own.CALLS] += 1.0
        own[Own.SECONDS] += seconds
        own[Own.LATENCY + bisect.bisect_left(LATENCIES, seconds)] += 1.0

    def _rejected(self) -> Reply:
        reason = f"not asked: its limits, {self._config.limits}, left no call before the caller's deadline"
        return Reply.failed(Status.REJECTED, reason, Cause.DEADLINE)

    def _nobody(self) -> str:
        return self._instances.problem or "no instance is known"


_SHORT_CIRCUITED = Reply.failed(
    Status.SHORT_CIRCUITED, "not asked: the service failed too often, so its breaker is open"
)


def _worth_another(replies: Collection[Reply]) -> bool:
    """Whether another instance might do better: all failed, by the service's doing."""
    return all(
        reply.status in (Status.TIMEOUT, Status.ERROR) and reply.cause in (Cause.SERVICE, Cause.CONNECTION)
        for reply in replies
    )

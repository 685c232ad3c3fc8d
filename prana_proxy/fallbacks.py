"""What is given in place of an answer that did not come: marked as a fallback, and never a success."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from prana_proxy.answers import Reply
from prana_proxy.services import ServiceConfig
from schemas.services import Service, Status

_MOST_CACHED = 10_000  # answers of one service

Guarded = Callable[[Sequence[tuple[Any, ...]], float], Awaitable[Sequence[Reply]]]


class Fallbacks:
    """A service's fallbacks, tried in their order: an earlier answer, another service, a fixed value.

    ask: makes a call to the service itself
    other: makes calls to the service that stands in, with that service's configuration; None: there is none
    now: in seconds
    """

    def __init__(
        self,
        config: ServiceConfig,
        ask: Guarded,
        other: tuple[ServiceConfig, Guarded] | None,
        now: Callable[[], float],
    ) -> None:
        assert config.fallback is not None
        self._fallback, self._ask, self._now = config.fallback, ask, now
        self._cache: OrderedDict[tuple[Any, ...], tuple[Reply, float]] = OrderedDict()
        self._other = None if other is None else (_picked(config.service, other[0].service), *other)

    async def __call__(self, keys: Sequence[tuple[Any, ...]], deadline: float) -> Sequence[Reply]:
        """Make a call, and give for each key that has no answer what there is instead."""
        replies = list(await self._ask(keys, deadline))
        missing = []
        for i, (key, reply) in enumerate(zip(keys, replies, strict=True)):
            if reply.status is Status.OK:
                self._keep(key, reply)
            elif (earlier := self._earlier(key)) is not None:
                replies[i] = _instead(reply, earlier)
            else:
                missing.append(i)
        if missing and self._other is not None:
            missing = await self._ask_other(keys, replies, missing, deadline)
        if self._fallback.value is not None:
            for i in missing:
                replies[i] = _instead(replies[i], Reply(Status.FALLBACK, self._fallback.value))
        return replies

    def _keep(self, key: tuple[Any, ...], reply: Reply) -> None:
        if self._fallback.cached_seconds is None:
            return
        self._cache[key] = (reply, self._now())
        self._cache.move_to_end(key)
        if len(self._cache) > _MOST_CACHED:
            self._cache.popitem(last=False)

    def _earlier(self, key: tuple[Any, ...]) -> Reply | None:
        reply, kept_at = self._cache.get(key, (None, 0.0))
        if reply is not None and self._now() - kept_at > (self._fallback.cached_seconds or 0.0):
            del self._cache[key]
            return None
        return reply

    async def _ask_other(
        self, keys: Sequence[tuple[Any, ...]], replies: list[Reply], missing: list[int], deadline: float
    ) -> list[int]:
        """Ask the service that stands in; give what is missing still."""
        assert self._other is not None
        picked, config, ask = self._other
        still = []
        for start in range(0, len(missing), config.call_size):
            part = missing[start : start + config.call_size]
            others = await ask([tuple(keys[i][at] for at in picked) for i in part], deadline)
            for i, other in zip(part, others, strict=True):
                if other.status is Status.OK:
                    replies[i] = _instead(replies[i], other)
                else:
                    still.append(i)
        return still


def _picked(service: Service, other: Service) -> list[int]:
    """Say where in a service's key the other's variables are."""
    names = [variable.name for variable in service.key]
    return [names.index(variable.name) for variable in other.key]


def _instead(failed: Reply, given: Reply) -> Reply:
    reason = f"{failed.status}: {failed.reason}"
    return Reply(Status.FALLBACK, given.value, given.captured_at, reason, failed.cause)

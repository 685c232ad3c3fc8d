"""Replaces failed replies with fallbacks: marked as such, never a success."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prana_proxy.clock import Clock, system_clock
from prana_proxy.gateway.answers import Reply
from prana_proxy.gateway.batching import OnInterim, Send
from prana_proxy.gateway.config import ServiceConfig
from schemas.services import OnFallback, Service, Status

_MOST_CACHED = 10_000  # answers of one service


class Fallbacks:
    """A service's fallbacks, tried in their order: an earlier answer, another service, a fixed value.

    ask: makes a call to the service itself; now: in seconds
    clock: stamps a fixed value where snapshots keep fallbacks, microseconds since the epoch
    """

    def __init__(self, config: ServiceConfig, ask: Send, now: Callable[[], float], clock: Clock = system_clock) -> None:
        kept = config.service.on_fallback is OnFallback.VALUE
        self._clock: Callable[[], int | None] = clock if kept else _no_time
        self._service, self._fallback, self._ask, self._now = config.service, config.fallback, ask, now
        self._cache: OrderedDict[tuple[Any, ...], tuple[Reply, float]] = OrderedDict()
        self._service_instead: _FallbackService | None = None

    def use_service(self, config: ServiceConfig, ask: Send) -> None:
        """Use another service as a fallback: its configuration, and what calls it without its own fallbacks."""
        self._service_instead = _FallbackService(_picked(self._service, config.service), config.call_size, ask)

    async def __call__(
        self, keys: Sequence[tuple[Any, ...]], deadline: float, on_interim: OnInterim
    ) -> Sequence[Reply]:
        """Make a call, and replace each failed reply with a fallback, if there is one."""
        own = await self._ask(keys, deadline, on_interim)
        if self._fallback is None:
            return own
        replies, missing = list(own), []
        for i, (key, reply) in enumerate(zip(keys, own, strict=True)):
            if reply.status is Status.OK:
                self._keep(key, reply)
            elif (earlier := self._earlier(key)) is not None:
                replies[i] = _as_fallback(reply, earlier)
            else:
                missing.append(i)
        if missing and self._service_instead is not None:
            on_interim(replies)
            others = await self._service_instead.ask_distinct([keys[i] for i in missing], deadline)
            for i, other in zip(missing, others, strict=True):
                if other.status is Status.OK:
                    replies[i] = _as_fallback(replies[i], other)
        return [self.at_once(key, reply) for key, reply in zip(keys, replies, strict=True)]

    def at_once(self, key: tuple[Any, ...], reply: Reply) -> Reply:
        """Replace a failed reply with a fallback that needs no call: an earlier answer or the fixed value."""
        if self._fallback is None or reply.status in (Status.OK, Status.FALLBACK):
            return reply
        earlier = self._earlier(key)
        if earlier is None and self._fallback.value is not None:
            earlier = Reply(Status.FALLBACK, self._fallback.value, self._clock())
        return reply if earlier is None else _as_fallback(reply, earlier)

    def _keep(self, key: tuple[Any, ...], reply: Reply) -> None:
        if self._fallback is None or self._fallback.cached_seconds is None:
            return
        self._cache[key] = (reply, self._now())
        self._cache.move_to_end(key)
        if len(self._cache) > _MOST_CACHED:
            self._cache.popitem(last=False)

    def _earlier(self, key: tuple[Any, ...]) -> Reply | None:
        reply, kept_at = self._cache.get(key, (None, 0.0))
        if reply is None or self._fallback is None:
            return None
        if self._now() - kept_at > (self._fallback.cached_seconds or 0.0):
            del self._cache[key]
            return None
        return reply


@dataclass(frozen=True)
class _FallbackService:
    """The fallback service.

    picked: indices of its own variables in a key; size: keys in one call to it
    """

    picked: Sequence[int]
    size: int
    ask: Send

    async def ask_distinct(self, keys: Sequence[tuple[Any, ...]], deadline: float) -> Sequence[Reply]:
        """Request its replies, once for equal keys of its own."""
        own = [tuple(key[at] for at in self.picked) for key in keys]
        distinct = list(dict.fromkeys(own))
        replies: dict[tuple[Any, ...], Reply] = {}
        for start in range(0, len(distinct), self.size):
            part = distinct[start : start + self.size]
            replies.update(zip(part, await self.ask(part, deadline, _ignore_interim), strict=True))
        return [replies[key] for key in own]


def _no_time() -> None:
    """A fixed value has no time of capture unless snapshots keep it."""


def _ignore_interim(_: Sequence[Reply]) -> None:
    """Interim replies of the fallback service change nothing for the caller."""


def _picked(service: Service, other: Service) -> list[int]:
    """Return the indices in a service's key of the other's variables."""
    names = [variable.name for variable in service.key]
    return [names.index(variable.name) for variable in other.key]


def _as_fallback(failed: Reply, own: Reply) -> Reply:
    reason = f"{failed.status}: {failed.reason}"
    return Reply(Status.FALLBACK, own.value, own.captured_at, reason, failed.cause)

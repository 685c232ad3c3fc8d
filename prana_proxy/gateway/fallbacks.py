"""What is given in place of an answer that did not come: marked as a fallback, and never a success."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prana_proxy.clock import Clock, system_clock
from prana_proxy.gateway.answers import Reply
from prana_proxy.gateway.calls import Known, Send
from prana_proxy.gateway.services import ServiceConfig
from schemas.services import OnFallback, Service, Status

_MOST_CACHED = 10_000  # answers of one service


class Fallbacks:
    """A service's fallbacks, tried in their order: an earlier answer, another service, a fixed value.

    ask: makes a call to the service itself; now: in seconds
    clock: when a fixed value is given instead, microseconds since the epoch, as a snapshot that keeps it needs to know
    """

    def __init__(self, config: ServiceConfig, ask: Send, now: Callable[[], float], clock: Clock = system_clock) -> None:
        kept = config.service.on_fallback is OnFallback.VALUE
        self._clock: Callable[[], int | None] = clock if kept else _no_time
        self._service, self._fallback, self._ask, self._now = config.service, config.fallback, ask, now
        self._cache: OrderedDict[tuple[Any, ...], tuple[Reply, float]] = OrderedDict()
        self._other: _Other | None = None

    def let_stand_in(self, config: ServiceConfig, ask: Send) -> None:
        """Take the service that stands in: its configuration, and what makes a call to it, without fallbacks."""
        self._other = _Other(_picked(self._service, config.service), config.call_size, ask)

    async def __call__(self, keys: Sequence[tuple[Any, ...]], deadline: float, known: Known) -> Sequence[Reply]:
        """Make a call, and give for each key that has no answer what there is instead."""
        given = await self._ask(keys, deadline, known)
        if self._fallback is None:
            return given
        replies, missing = list(given), []
        for i, (key, reply) in enumerate(zip(keys, given, strict=True)):
            if reply.status is Status.OK:
                self._keep(key, reply)
            elif (earlier := self._earlier(key)) is not None:
                replies[i] = _instead(reply, earlier)
            else:
                missing.append(i)
        if missing and self._other is not None:
            known(replies)
            others = await self._other.ask_for([keys[i] for i in missing], deadline)
            for i, other in zip(missing, others, strict=True):
                if other.status is Status.OK:
                    replies[i] = _instead(replies[i], other)
        return [self.at_once(key, reply) for key, reply in zip(keys, replies, strict=True)]

    def at_once(self, key: tuple[Any, ...], reply: Reply) -> Reply:
        """Give what there is without asking anybody instead of a reply, if that is none."""
        if self._fallback is None or reply.status in (Status.OK, Status.FALLBACK):
            return reply
        earlier = self._earlier(key)
        if earlier is None and self._fallback.value is not None:
            earlier = Reply(Status.FALLBACK, self._fallback.value, self._clock())
        return reply if earlier is None else _instead(reply, earlier)

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
class _Other:
    """The service that stands in.

    picked: where in a key its own variables are; size: keys in one call to it
    """

    picked: Sequence[int]
    size: int
    ask: Send

    async def ask_for(self, keys: Sequence[tuple[Any, ...]], deadline: float) -> Sequence[Reply]:
        """Ask it, once for equal keys of its own."""
        own = [tuple(key[at] for at in self.picked) for key in keys]
        distinct = list(dict.fromkeys(own))
        replies: dict[tuple[Any, ...], Reply] = {}
        for start in range(0, len(distinct), self.size):
            part = distinct[start : start + self.size]
            replies.update(zip(part, await self.ask(part, deadline, _not_told), strict=True))
        return [replies[key] for key in own]


def _no_time() -> None:
    """Nobody answered with a fixed value, so it has no time unless one is needed."""


def _not_told(_: Sequence[Reply]) -> None:
    """Whether the other has been sent a call changes nothing for the caller."""


def _picked(service: Service, other: Service) -> list[int]:
    """Say where in a service's key the other's variables are."""
    names = [variable.name for variable in service.key]
    return [names.index(variable.name) for variable in other.key]


def _instead(failed: Reply, given: Reply) -> Reply:
    reason = f"{failed.status}: {failed.reason}"
    return Reply(Status.FALLBACK, given.value, given.captured_at, reason, failed.cause)

"""What stands between a caller and a service: each policy takes an `Ask` and gives one.

A breaker, a rate limit, a retry or a fallback is one more function of this form in `guarded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prana_proxy.answers import Reply
from prana_proxy.services import Ask, Key, ServiceConfig
from schemas.services import Status


def guarded(config: ServiceConfig, ask: Ask) -> Ask:
    """Put the service's policies around the function that asks it, the last one outermost."""
    ask = within_timeout(config.timeout_seconds, ask)
    return within_bulkhead(config.max_concurrent, ask)


def within_timeout(seconds: float, ask: Ask) -> Ask:
    """Give up on a call after some seconds, or at the caller's deadline if that is earlier."""

    async def ask_in_time(keys: Sequence[Key], deadline: float) -> Sequence[Reply]:
        own = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(min(own, deadline)):
                return await ask(keys, deadline)
        except TimeoutError:
            limit = f"within {seconds:g} s" if own <= deadline else "before the caller's deadline"
            return [Reply.failed(Status.TIMEOUT, f"no answer {limit}")] * len(keys)

    return ask_in_time


def within_bulkhead(calls: int, ask: Ask) -> Ask:
    """Let so many calls through at a time, over all callers; the others wait for a place until their deadline."""
    places = asyncio.Semaphore(calls)

    async def ask_in_a_place(keys: Sequence[Key], deadline: float) -> Sequence[Reply]:
        try:
            async with asyncio.timeout_at(deadline):
                await places.acquire()
        except TimeoutError:
            reason = f"none of the {calls} places was free before the caller's deadline"
            return [Reply.failed(Status.TIMEOUT, reason)] * len(keys)
        try:
            return await ask(keys, deadline)
        finally:
            places.release()

    return ask_in_a_place

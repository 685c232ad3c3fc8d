"""Requests waiting for a thread: a bounded number, in order, each within its budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from delorean.serving.limits import ServingLimits

_T = TypeVar("_T")


class QueueError(Exception):
    """A request that is not worked for: the queue is full, or its time is up."""


class CallerLeftError(Exception):
    """A request whose caller is gone when its turn comes."""


class RequestQueue:
    """Runs work on threads. For one event loop."""

    def __init__(self, limits: ServingLimits) -> None:
        self._most, self._taken = limits.places, 0
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="rank")
        self._free = asyncio.Semaphore(limits.threads)

    async def run(self, work: Callable[[float], _T], budget: float, left: Callable[[], Awaitable[bool]]) -> _T:
        """Run work when a thread is free.

        work: receives the `time.monotonic()` at which its budget ends
        budget: seconds from now, waiting included
        left: whether the caller is gone

        Raises QueueError and CallerLeftError; the work has not begun then.
        """
        deadline = time.monotonic() + budget
        if self._taken >= self._most:
            raise QueueError(f"{self._most} requests are waiting already")
        self._taken += 1
        try:
            await self._turn(deadline)
            try:
                if await left():
                    raise CallerLeftError
                return await asyncio.get_running_loop().run_in_executor(self._threads, work, deadline)
            finally:
                self._free.release()
        finally:
            self._taken -= 1

    def close(self) -> None:
        """Wait for the work that has begun, and end the threads."""
        self._threads.shutdown()

    async def _turn(self, deadline: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._free.acquire()
            if time.monotonic() < deadline:
                return
            self._free.release()
        raise QueueError("the request's budget passed while it waited for its turn")

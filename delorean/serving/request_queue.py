"""A bounded queue of requests that wait for a thread, each within its budget."""

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
    """A request that is not processed: the queue is full, or its budget has passed."""


class CallerLeftError(Exception):
    """A request whose caller has disconnected before its turn."""


class RequestQueue:
    """Runs requests on threads. For one event loop."""

    def __init__(self, limits: ServingLimits) -> None:
        self._most, self._taken = limits.places, 0
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="rank")
        self._free = asyncio.Semaphore(limits.threads)

    async def run(self, work: Callable[[float], _T], budget: float, left: Callable[[], Awaitable[bool]]) -> _T:
        """Run a function when a thread is free, and return its result.

        work: receives the `time.monotonic()` at which its budget ends
        budget: seconds from now, including the wait
        left: returns whether the caller has disconnected

        Raises QueueError and CallerLeftError before `work` is called.
        """
        deadline = time.monotonic() + budget
        if self._taken >= self._most:
            raise QueueError(f"{self._most} requests are already waiting")
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
        """Wait for requests in progress, and end the threads."""
        self._threads.shutdown()

    async def _turn(self, deadline: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._free.acquire()
            if time.monotonic() < deadline:
                return
            self._free.release()
        raise QueueError("the request's budget passed while it waited")

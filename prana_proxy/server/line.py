"""The threads that answer calls, and the line in which calls wait for one: who finds it full is told so at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from schemas.generated.ttypes import Overloaded

_SHORTEST_MS, _LONGEST_MS = 50, 5_000  # that a client is asked to wait
_USUAL_SECONDS = 0.2  # of a call, before any was seen
_NEWEST = 0.1  # what the last call weighs in the usual time


class Work(Protocol):
    """A call's work."""

    def __call__(self) -> bytes:
        """Do it, in a thread; gives the answer's frame."""

    def give_up(self) -> None:
        """Tell it, from another thread, that nobody wants the answer any more: it ends in a moment."""


class Line:
    """Belongs to one event loop.

    threads: calls answered at a time; room: calls that may wait
    counted: told the calls that are being answered, and those that wait, whenever that has changed
    """

    def __init__(self, threads: int, room: int, counted: Callable[[int, int], None]) -> None:
        self._threads, self._room, self._counted = threads, room, counted
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prana-call")
        self._calls: set[asyncio.Future[bytes]] = set()
        self._usual_seconds = _USUAL_SECONDS

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return max(0, len(self._calls) - self._threads)

    async def answer(self, work: Work, lost: asyncio.Future[None]) -> bytes:
        """Do a call's work in a thread.

        lost: done when nobody wants the answer any more: work that has not begun is dropped then, other work given up

        Raises Overloaded when the line is full, and ConnectionResetError when the caller is lost.
        """
        if len(self._calls) >= self._threads + self._room:
            message = f"{self._threads} calls are being answered and {self._room} wait"
            raise Overloaded(message, self.retry_after_ms())  # type: ignore[no-untyped-call]  # generated
        loop = asyncio.get_running_loop()
        began = loop.time()
        job = self._pool.submit(work)
        future = asyncio.wrap_future(job)
        self._calls.add(future)
        future.add_done_callback(self._done)
        self._count()
        try:
            await asyncio.wait((future, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not future.done():
                work.give_up()
                job.cancel()
        if lost.done():
            await asyncio.wait((future,))  # until then it counts
            raise ConnectionResetError
        self._usual_seconds += _NEWEST * (loop.time() - began - self._usual_seconds)
        return future.result()

    def retry_after_ms(self) -> int:
        """Say when there will be room: when what waits now has been answered."""
        seconds = self._usual_seconds * (self.waiting + 1) / self._threads
        return min(max(_SHORTEST_MS, round(1000 * seconds)), _LONGEST_MS)

    def pause_ms(self) -> int:
        """Say for how long callers had better wait before their next call: not at all while the line is short."""
        full = min(1.0, self.waiting / self._room) if self._room else 0.0
        return 0 if full < 0.5 else round(self.retry_after_ms() * full)

    def close(self) -> None:
        """End the threads. Nothing is to be answered any more."""
        self._pool.shutdown()

    def _done(self, future: asyncio.Future[bytes]) -> None:
        if not future.cancelled():
            future.exception()  # somebody may be gone who would have asked for it
        self._calls.discard(future)
        self._count()

    def _count(self) -> None:
        self._counted(len(self._calls) - self.waiting, self.waiting)

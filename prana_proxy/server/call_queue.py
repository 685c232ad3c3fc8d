"""The queue in which fetches wait for one of a process's workers; when it is full, callers are rejected at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from schemas.generated.ttypes import Overloaded

_SHORTEST_MS, _LONGEST_MS = 50, 5_000  # that a client is asked to wait
_INITIAL_SECONDS = 0.2  # the duration of a call, before any was measured
_NEWEST = 0.1  # weight of the last call in the moving average


class CallQueue:
    """Bounds the calls in progress. Belongs to one event loop.

    workers: calls in progress at a time; size: calls that may wait
    on_change: called with the numbers of calls in progress and waiting, whenever they change
    """

    def __init__(self, workers: int, size: int, on_change: Callable[[int, int], None]) -> None:
        self._workers, self._size, self._on_change = workers, size, on_change
        self._free = asyncio.Semaphore(workers)  # first come, first served
        self._calls: set[asyncio.Task[bytes]] = set()
        self._usual_seconds = _INITIAL_SECONDS

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return max(0, len(self._calls) - self._workers)

    async def run(self, work: Callable[[], Awaitable[bytes]], lost: asyncio.Future[None]) -> bytes:
        """Do a call's work when a worker is free, and return the frame that answers it.

        lost: done when the caller has hung up, which cancels the work or drops it from the queue

        Raises Overloaded when the queue is full, and ConnectionResetError when the caller has hung up.
        """
        if len(self._calls) >= self._workers + self._size:
            message = f"{self._workers} calls are being answered and {self._size} wait"
            raise Overloaded(message, self.retry_after_ms())  # type: ignore[no-untyped-call]  # generated
        loop = asyncio.get_running_loop()
        began = loop.time()
        task = loop.create_task(self._run(work))
        self._calls.add(task)
        task.add_done_callback(self._done)
        self._report()

        def cancel(_: asyncio.Future[None]) -> None:
            task.cancel()

        lost.add_done_callback(cancel)
        try:
            frame = await task
        except asyncio.CancelledError:
            if lost.done():
                raise ConnectionResetError from None
            raise
        finally:
            lost.remove_done_callback(cancel)
        self._usual_seconds += _NEWEST * (loop.time() - began - self._usual_seconds)
        return frame

    def retry_after_ms(self) -> int:
        """Estimate when there will be room: after the calls that wait now."""
        seconds = self._usual_seconds * (self.waiting + 1) / self._workers
        return min(max(_SHORTEST_MS, round(1000 * seconds)), _LONGEST_MS)

    def pause_ms(self) -> int:
        """Return how long callers should pause before their next call: 0 while the queue is less than half full."""
        full = min(1.0, self.waiting / self._size) if self._size else 0.0
        return 0 if full < 0.5 else round(self.retry_after_ms() * full)

    async def _run(self, work: Callable[[], Awaitable[bytes]]) -> bytes:
        async with self._free:
            return await work()

    def _done(self, task: asyncio.Task[bytes]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved here too, since the caller may have hung up meanwhile
        self._calls.discard(task)
        self._report()

    def _report(self) -> None:
        self._on_change(len(self._calls) - self.waiting, self.waiting)

"""Gathers callers' requests of one service into calls: equal keys once, many in one call, callers in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from prana_proxy.gateway.answers import Answers, Cause, Reply
from prana_proxy.gateway.tasks import TaskSet
from schemas.services import Status

_SOON_SECONDS = 0.01  # a call that ends so soon by itself is not cancelled, so that its outcome counts
_UNSENT = (Status.REJECTED, Status.SHORT_CIRCUITED)

OnInterim = Callable[[Sequence[Reply]], None]
"""Called while a call goes on with its keys' interim replies: what a caller gets if its deadline passes now."""

Send = Callable[[Sequence[tuple[Any, ...]], float, OnInterim], Awaitable[Sequence[Reply]]]
"""Makes one call: (keys, deadline on the event loop's clock, `OnInterim`) → one reply for each key, in their order."""


class Caller:
    """One caller's keys of a service.

    answers: receives their replies; numbers, keys: of the keys that are to be requested
    """

    def __init__(self, answers: Answers, numbers: Sequence[int], keys: Sequence[tuple[Any, ...]]) -> None:
        self.answers, self.deadline, self.gone = answers, 0.0, False
        self.open = dict(zip(numbers, keys, strict=True))  # no reply yet
        self.earlier: dict[int, Reply] = {}  # replies to those that are requested again
        self.waiting: deque[_PendingKey] = deque()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, numbers: Sequence[int], replies: Sequence[Reply]) -> None:
        """Receive the replies to some keys."""
        if self.gone:
            return
        if self.earlier:
            replies = [
                self.earlier.get(number, reply) if reply.status in _UNSENT else reply
                for number, reply in zip(numbers, replies, strict=True)
            ]
        self.answers.add(numbers, replies)
        for number in numbers:
            del self.open[number]
        if not self.open and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Raise an error in the caller, which is not a reply of the service."""
        if not self.done.done():
            self.gone = True
            self.done.set_exception(error)


class _PendingKey:
    """A key that waits for a call or is part of one. callers: who requested it; call, at: its call and index there."""

    __slots__ = ("at", "call", "callers", "key")

    def __init__(self, key: tuple[Any, ...], caller: Caller, number: int) -> None:
        self.key, self.callers = key, [(caller, number)]
        self.call: _BatchedCall | None = None
        self.at = 0

    def stale(self, now: float) -> bool:
        """Whether no caller waits for it any more."""
        return all(caller.gone or caller.deadline <= now for caller, _ in self.callers)


class _BatchedCall:
    """A call in progress.

    sending: `Send` has not returned; abandoned: no caller waits for it any more; interim: replies so far
    """

    def __init__(self, pending: Sequence[_PendingKey]) -> None:
        self.pending, self.sending, self.abandoned = pending, False, False
        self.interim: Sequence[Reply] = ()
        self.deadline = max(caller.deadline for one in pending for caller, _ in one.callers)
        for at, one in enumerate(pending):
            one.call, one.at = self, at

    def on_interim(self, replies: Sequence[Reply]) -> None:
        """Keep the replies so far."""
        self.interim = tuple(replies)


class RequestBatcher:
    """All requests of one service.

    size: keys in a call; wait_seconds: how long a call that is not full waits for more
    at_once: calls that this process makes at a time
    on_queued: called with each change of the number of keys that wait
    tasks: of the gateway, among them those that make calls
    """

    def __init__(
        self,
        send: Send,
        size: int,
        wait_seconds: float,
        at_once: int,
        on_queued: Callable[[int], None],
        tasks: TaskSet | None = None,
    ) -> None:
        self._send, self._size, self._wait, self._at_once = send, size, wait_seconds, at_once
        self._on_queued, self._tasks = on_queued, TaskSet() if tasks is None else tasks
        self._pending: dict[tuple[Any, ...], _PendingKey] = {}  # by key, until they have a reply
        self._callers: deque[Caller] = deque()  # those with waiting keys: each in turn fills a call
        self._waiting = 0
        self._due: asyncio.TimerHandle | None = None  # when a call that is not full is made
        self._makers: dict[asyncio.Task[None], _BatchedCall] = {}

    @property
    def idle(self) -> bool:
        """Whether no call is in progress or waits."""
        return not self._makers and not self._waiting

    async def ask(self, caller: Caller, deadline: float) -> Mapping[int, Reply | None]:
        """Request all of a caller's keys.

        Returns those without a reply by the deadline, by number, with their interim replies: None for one that was
        never sent.
        """
        caller.deadline = deadline
        if deadline <= asyncio.get_running_loop().time():
            return dict.fromkeys(caller.open)
        try:
            async with asyncio.timeout_at(deadline):
                self._add(caller, caller.open.items())
                await caller.done
                return {}
        except TimeoutError:
            return {number: self._interim(caller, number) for number in caller.open}
        finally:
            caller.gone = True
            if caller.open:
                self._abandon_stale_calls()

    def _add(self, caller: Caller, keys: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
        before = len(caller.waiting)
        for number, key in keys:
            pending = self._pending.get(key)
            if pending is not None:
                pending.callers.append((caller, number))
                continue
            self._pending[key] = pending = _PendingKey(key, caller, number)
            caller.waiting.append(pending)
        if len(caller.waiting) > before:
            if not before:
                self._callers.append(caller)
            self._count(len(caller.waiting) - before)
            self._start()

    def _start(self) -> None:
        """Make the calls that are full; set a time for one that is not."""
        while len(self._makers) < self._at_once and self._ready():
            self._start_maker()
        if self._waiting % self._size and self._wait and self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._wait, self._make_partial)

    def _ready(self) -> bool:
        """Whether a call can be made now: a full one, or any if calls do not wait to become full."""
        return self._waiting >= self._size or (self._waiting > 0 and not self._wait)

    def _make_partial(self) -> None:
        self._due = None
        if len(self._makers) < self._at_once:
            self._start_maker()

    def _start_maker(self) -> None:
        if (call := self._next_call()) is not None:
            maker = asyncio.ensure_future(self._make_calls(call))
            self._tasks.add(maker)
            self._makers[maker] = call

    async def _make_calls(self, call: _BatchedCall | None) -> None:
        """Make a call, and then others as long as keys wait."""
        maker = asyncio.current_task()
        assert maker is not None
        try:
            while call is not None:
                self._makers[maker] = call
                await self._make_call(call, maker)
                if not call.interim or call.interim[0].status in _UNSENT:
                    await asyncio.sleep(0)  # thousands of calls rejected at once must not keep other tasks waiting
                call = self._next_call() if self._due is None or self._waiting >= self._size else None
        finally:
            self._tasks.discard(maker)
            del self._makers[maker]  # not in a callback: a caller before it would wait for a maker that has ended

    async def _make_call(self, call: _BatchedCall, maker: asyncio.Task[None]) -> None:
        call.sending = True
        try:
            if not call.abandoned:
                keys = [one.key for one in call.pending]
                replies = list(zip(call.pending, await self._send(keys, call.deadline, call.on_interim), strict=True))
        except asyncio.CancelledError:
            if not call.abandoned or maker.uncancel():
                raise
        except Exception as error:  # noqa: BLE001  # a clock file was deleted, or a defect: callers would wait for ever
            self._fail(call, error)
            return
        finally:
            call.sending = False
        if call.abandoned:  # callers that have joined meanwhile request it again
            call.deadline = 0.0
            replies = list(zip(call.pending, call.interim or [_ABANDONED] * len(call.pending), strict=True))
        self._deliver(replies, call.deadline)

    def _next_call(self) -> _BatchedCall | None:
        """Take the keys of the next call: of each caller in turn, as many as there is room for."""
        taken: list[_PendingKey] = []
        dropped, now = 0, asyncio.get_running_loop().time()
        while len(taken) < self._size and self._callers:
            caller = self._callers.popleft()
            while caller.waiting and len(taken) < self._size:
                pending = caller.waiting.popleft()
                if pending.stale(now):
                    del self._pending[pending.key]
                    dropped += 1
                else:
                    taken.append(pending)
            if caller.waiting:
                self._callers.append(caller)
        self._count(-len(taken) - dropped)
        return _BatchedCall(taken) if taken else None

    def _deliver(self, replies: Sequence[tuple[_PendingKey, Reply]], deadline: float) -> None:
        """Give each caller its replies; request again what only another caller's earlier deadline has ended."""
        delivered: dict[Caller, tuple[list[int], list[Reply]]] = {}
        again: dict[Caller, list[tuple[int, tuple[Any, ...]]]] = {}
        for pending, reply in replies:
            del self._pending[pending.key]
            for caller, number in pending.callers:
                if reply.cause is Cause.DEADLINE and caller.deadline > deadline:
                    again.setdefault(caller, []).append((number, pending.key))
                    if reply.status not in _UNSENT:
                        caller.earlier[number] = reply
                    continue
                numbers, own = delivered.setdefault(caller, ([], []))
                numbers.append(number)
                own.append(reply)
        for caller, (numbers, own) in delivered.items():
            try:
                caller.take(numbers, own)
            except Exception as error:  # noqa: BLE001  # a defect: the other callers must get their replies all the same
                caller.fail(error)
        for caller, keys in again.items():
            if not caller.gone:
                self._add(caller, keys)

    def _fail(self, call: _BatchedCall, error: Exception) -> None:
        """Raise an error in all callers of a call."""
        for pending in call.pending:
            del self._pending[pending.key]
            for caller, _ in pending.callers:
                caller.fail(error)

    def _interim(self, caller: Caller, number: int) -> Reply | None:
        """Return the interim reply to a caller's key, None if it was never sent."""
        pending = self._pending.get(caller.open[number])
        if pending is not None and pending.call is not None and (caller, number) in pending.callers:
            interim = pending.call.interim
            if interim and not (number in caller.earlier and interim[pending.at].status in _UNSENT):
                return interim[pending.at]
        return caller.earlier.get(number)

    def _abandon_stale_calls(self) -> None:
        now = asyncio.get_running_loop().time()
        for maker, call in self._makers.items():
            if call.abandoned or call.deadline <= now + _SOON_SECONDS:
                continue
            if all(pending.stale(now) for pending in call.pending):
                call.abandoned = True
                if call.sending:
                    maker.cancel()

    def _count(self, change: int) -> None:
        self._waiting += change
        self._on_queued(change)


_ABANDONED = Reply.failed(Status.REJECTED, "cancelled, since no caller waited for it", Cause.DEADLINE)

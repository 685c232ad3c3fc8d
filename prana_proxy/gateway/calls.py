"""Gathers what callers ask of a service into calls: equal questions are asked once, many in one call, in turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from prana_proxy.gateway.answers import Answers, Cause, Reply
from prana_proxy.gateway.tasks import StartTask
from schemas.services import Status

_SOON_SECONDS = 0.01  # a call that ends so soon by itself is not given up, so that its outcome counts
_UNSENT = (Status.REJECTED, Status.SHORT_CIRCUITED)

Known = Callable[[Sequence[Reply]], None]
"""Told what is known of each question of a call before the call ends: what to say if its caller's time is over."""

Send = Callable[[Sequence[tuple[Any, ...]], float, Known], Awaitable[Sequence[Reply]]]
"""Makes one call: (keys, deadline on the event loop's clock, told what is known) → one reply for each key, in their
order."""


class Caller:
    """One caller's questions to a service.

    answers: takes what comes of them; numbers, keys: of the questions that are to be asked
    """

    def __init__(self, answers: Answers, numbers: Sequence[int], keys: Sequence[tuple[Any, ...]]) -> None:
        self.answers, self.deadline, self.gone = answers, 0.0, False
        self.open = dict(zip(numbers, keys, strict=True))  # what is not answered yet
        self.known: dict[int, Reply] = {}  # what came of those that are asked again
        self.waiting: deque[_Question] = deque()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, numbers: Sequence[int], replies: Sequence[Reply]) -> None:
        """Take the replies to some questions."""
        if self.gone:
            return
        if self.known:
            replies = [
                self.known.get(number, reply) if reply.status in _UNSENT else reply
                for number, reply in zip(numbers, replies, strict=True)
            ]
        self.answers.add(numbers, replies)
        for number in numbers:
            del self.open[number]
        if not self.open and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Let the caller raise an error that is nobody's answer."""
        if not self.done.done():
            self.gone = True
            self.done.set_exception(error)


class _Question:
    """A key that is asked for, or waits to be, and who wants to know. call, at: its call and its place there."""

    __slots__ = ("at", "call", "key", "wanted")

    def __init__(self, key: tuple[Any, ...], caller: Caller, number: int) -> None:
        self.key, self.wanted = key, [(caller, number)]
        self.call: _Call | None = None
        self.at = 0

    def stale(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return all(caller.gone or caller.deadline <= now for caller, _ in self.wanted)


class _Call:
    """A call that is being made.

    sending: it is out of our hands; given_up: nobody waits for it any more; known: replies so far
    """

    def __init__(self, questions: Sequence[_Question]) -> None:
        self.questions, self.sending, self.given_up = questions, False, False
        self.known: Sequence[Reply] = ()
        self.deadline = max(caller.deadline for question in questions for caller, _ in question.wanted)
        for at, question in enumerate(questions):
            question.call, question.at = self, at

    def tell(self, replies: Sequence[Reply]) -> None:
        """Take what is known so far."""
        self.known = tuple(replies)


class Calls:
    """All that is asked of one service.

    size: questions in a call; wait_seconds: how long a call that is not full waits for more
    at_once: calls that are made at a time by this process
    queued: told how the number of questions that wait has changed
    start_task: starts the tasks that make calls
    """

    def __init__(
        self,
        send: Send,
        size: int,
        wait_seconds: float,
        at_once: int,
        queued: Callable[[int], None],
        start_task: StartTask = asyncio.ensure_future,
    ) -> None:
        self._start_task = start_task
        self._send, self._size, self._wait, self._at_once = send, size, wait_seconds, at_once
        self._queued = queued
        self._questions: dict[tuple[Any, ...], _Question] = {}  # by key, until they are answered
        self._line: deque[Caller] = deque()  # who has questions waiting: each in turn fills a call
        self._waiting = 0
        self._due: asyncio.TimerHandle | None = None  # when a call that is not full leaves
        self._makers: dict[asyncio.Task[None], _Call] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is being asked."""
        return not self._makers and not self._waiting

    async def ask(self, caller: Caller, deadline: float) -> Mapping[int, Reply | None]:
        """Ask all of a caller's questions.

        Gives those that have no reply by the deadline, by number, with what is known of them: None for one that has
        never been sent.
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
            return {number: self._known(caller, number) for number in caller.open}
        finally:
            caller.gone = True
            if caller.open:
                self._give_up_what_nobody_wants()

    def _add(self, caller: Caller, questions: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
        before = len(caller.waiting)
        for number, key in questions:
            question = self._questions.get(key)
            if question is not None:
                question.wanted.append((caller, number))
                continue
            self._questions[key] = question = _Question(key, caller, number)
            caller.waiting.append(question)
        if len(caller.waiting) > before:
            if not before:
                self._line.append(caller)
            self._count(len(caller.waiting) - before)
            self._start()

    def _start(self) -> None:
        """Make the calls that are full; set a time for one that is not."""
        while len(self._makers) < self._at_once and self._full():
            self._start_maker()
        if self._waiting % self._size and self._wait and self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._wait, self._leave)

    def _full(self) -> bool:
        """Whether there is a call to make now: a full one, or one that has waited for company, if it was to."""
        return self._waiting >= self._size or (self._waiting > 0 and not self._wait)

    def _leave(self) -> None:
        self._due = None
        if len(self._makers) < self._at_once:
            self._start_maker()

    def _start_maker(self) -> None:
        if (call := self._take()) is not None:
            maker = self._start_task(self._make_calls(call))
            self._makers[maker] = call

    async def _make_calls(self, call: _Call | None) -> None:
        """Make a call, and then others as long as there is something to ask."""
        maker = asyncio.current_task()
        assert maker is not None
        try:
            while call is not None:
                self._makers[maker] = call
                await self._make_call(call, maker)
                if not call.known or call.known[0].status in _UNSENT:
                    await asyncio.sleep(0)  # what is refused at once, thousands of times, must not keep others waiting
                call = self._take() if self._due is None or self._waiting >= self._size else None
        finally:
            del self._makers[maker]  # not by a callback: who asks before it would wait for a maker that has ended

    async def _make_call(self, call: _Call, maker: asyncio.Task[None]) -> None:
        call.sending = True
        try:
            if not call.given_up:
                keys = [question.key for question in call.questions]
                replies = list(zip(call.questions, await self._send(keys, call.deadline, call.tell), strict=True))
        except asyncio.CancelledError:
            if not call.given_up or maker.uncancel():
                raise
        except Exception as error:  # noqa: BLE001  # a clock that is gone, or a defect: who asked would wait for ever
            self._fail(call, error)
            return
        finally:
            call.sending = False
        if call.given_up:  # who has come meanwhile asks again
            call.deadline = 0.0
            replies = list(zip(call.questions, call.known or [_GIVEN_UP] * len(call.questions), strict=True))
        self._tell(replies, call.deadline)

    def _take(self) -> _Call | None:
        """Take the questions of the next call: of each caller in turn, as many as there is room for."""
        taken: list[_Question] = []
        dropped, now = 0, asyncio.get_running_loop().time()
        while len(taken) < self._size and self._line:
            caller = self._line.popleft()
            while caller.waiting and len(taken) < self._size:
                question = caller.waiting.popleft()
                if question.stale(now):
                    del self._questions[question.key]
                    dropped += 1
                else:
                    taken.append(question)
            if caller.waiting:
                self._line.append(caller)
        self._count(-len(taken) - dropped)
        return _Call(taken) if taken else None

    def _tell(self, replies: Sequence[tuple[_Question, Reply]], deadline: float) -> None:
        """Give each caller its replies; ask again for one whose time goes on after a deadline that was another's."""
        told: dict[Caller, tuple[list[int], list[Reply]]] = {}
        again: dict[Caller, list[tuple[int, tuple[Any, ...]]]] = {}
        for question, reply in replies:
            del self._questions[question.key]
            for caller, number in question.wanted:
                if reply.cause is Cause.DEADLINE and caller.deadline > deadline:
                    again.setdefault(caller, []).append((number, question.key))
                    if reply.status not in _UNSENT:
                        caller.known[number] = reply
                    continue
                numbers, given = told.setdefault(caller, ([], []))
                numbers.append(number)
                given.append(reply)
        for caller, (numbers, given) in told.items():
            try:
                caller.take(numbers, given)
            except Exception as error:  # noqa: BLE001  # a defect: the others must get their replies all the same
                caller.fail(error)
        for caller, questions in again.items():
            if not caller.gone:
                self._add(caller, questions)

    def _fail(self, call: _Call, error: Exception) -> None:
        """Tell callers of an error that is nobody's answer."""
        for question in call.questions:
            del self._questions[question.key]
            for caller, _ in question.wanted:
                caller.fail(error)

    def _known(self, caller: Caller, number: int) -> Reply | None:
        """Give what is known of a caller's question, None if it has never been sent."""
        question = self._questions.get(caller.open[number])
        if question is not None and question.call is not None and (caller, number) in question.wanted:
            known = question.call.known
            if known and not (number in caller.known and known[question.at].status in _UNSENT):
                return known[question.at]
        return caller.known.get(number)

    def _give_up_what_nobody_wants(self) -> None:
        now = asyncio.get_running_loop().time()
        for maker, call in self._makers.items():
            if call.given_up or call.deadline <= now + _SOON_SECONDS:
                continue
            if all(question.stale(now) for question in call.questions):
                call.given_up = True
                if call.sending:
                    maker.cancel()

    def _count(self, change: int) -> None:
        self._waiting += change
        self._queued(change)


_GIVEN_UP = Reply.failed(Status.REJECTED, "given up, since nobody waited for it", Cause.DEADLINE)

"""Gathers what callers ask of a service into calls: equal questions are asked once, many in one call, in turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from prana_proxy.answers import Answers, Cause, Reply
from schemas.errors import DeloreanError
from schemas.services import Status

Send = Callable[[Sequence[tuple[Any, ...]], float], Awaitable[Sequence[Reply]]]
"""Makes one call: (keys, deadline on the event loop's clock) → one reply for each key, in their order."""


class Caller:
    """One caller's questions to a service.

    answers: takes what comes of them; numbers, keys: of the questions that are to be asked
    """

    def __init__(self, answers: Answers, numbers: Sequence[int], keys: Sequence[tuple[Any, ...]]) -> None:
        self.answers, self.deadline, self.gone = answers, 0.0, False
        self.open = dict(zip(numbers, keys, strict=True))  # what is not answered yet
        self.waiting: deque[_Question] = deque()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, numbers: Sequence[int], replies: Sequence[Reply]) -> None:
        """Take the replies to some questions."""
        if self.gone:
            return
        self.answers.add(numbers, replies)
        for number in numbers:
            del self.open[number]
        if not self.open and not self.done.done():
            self.done.set_result(None)


class _Question:
    """A key that is asked for, or waits to be, and who wants to know. asked: it is on its way."""

    __slots__ = ("asked", "key", "wanted")

    def __init__(self, key: tuple[Any, ...], caller: Caller, number: int) -> None:
        self.key, self.wanted, self.asked = key, [(caller, number)], False

    def stale(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return all(caller.gone or caller.deadline <= now for caller, _ in self.wanted)


class _Call:
    """A call that is being made. given_up: nobody waits for it any more."""

    def __init__(self, questions: Sequence[_Question]) -> None:
        self.questions, self.given_up = questions, False
        self.deadline = max(caller.deadline for question in questions for caller, _ in question.wanted)


class Calls:
    """All that is asked of one service.

    size: questions in a call; wait_seconds: how long a call that is not full waits for more
    at_once: calls that are made at a time by this process
    queued: told how the number of questions that wait has changed
    """

    def __init__(self, send: Send, size: int, wait_seconds: float, at_once: int, queued: Callable[[int], None]) -> None:
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

    async def ask(self, caller: Caller, deadline: float) -> None:
        """Ask all of a caller's questions; what has no reply by the deadline gets one that says so."""
        caller.deadline = deadline
        try:
            if deadline > asyncio.get_running_loop().time():
                async with asyncio.timeout_at(deadline):
                    self._add(caller, caller.open.items())
                    await caller.done
            else:
                self._too_late(caller)
        except TimeoutError:
            self._too_late(caller)
        finally:
            caller.gone = True
            if caller.done.cancelled():
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
            self._make()
        if self._waiting % self._size and self._wait and self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._wait, self._leave)

    def _full(self) -> bool:
        """Whether there is a call to make now: a full one, or one that has waited for company, if it was to."""
        return self._waiting >= self._size or (self._waiting > 0 and not self._wait)

    def _leave(self) -> None:
        self._due = None
        if len(self._makers) < self._at_once:
            self._make()

    def _make(self) -> None:
        if questions := self._take():
            maker = asyncio.ensure_future(self._make_calls(questions))
            self._makers[maker] = _Call(questions)
            maker.add_done_callback(self._makers.pop)

    async def _make_calls(self, questions: Sequence[_Question]) -> None:
        """Make a call, and then others as long as there is something to ask."""
        maker = asyncio.current_task()
        assert maker is not None
        while questions:
            self._makers[maker] = call = _Call(questions)
            try:
                replies: Sequence[Reply] = await self._send([question.key for question in questions], call.deadline)
            except asyncio.CancelledError:
                if not call.given_up:
                    raise
                maker.uncancel()
                call.deadline, replies = 0.0, [_NOT_ASKED] * len(questions)  # who has come meanwhile asks again
            except DeloreanError as error:  # ours, such as a clock that is gone
                self._fail(call, error)
                replies = ()
            if replies:
                self._tell(call, replies)
            questions = self._take() if self._due is None or self._waiting >= self._size else []

    def _take(self) -> list[_Question]:
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
                    question.asked = True
                    taken.append(question)
            if caller.waiting:
                self._line.append(caller)
        self._count(-len(taken) - dropped)
        return taken

    def _tell(self, call: _Call, replies: Sequence[Reply]) -> None:
        """Give each caller its replies; ask again for one whose time goes on after a deadline that was another's."""
        told: dict[Caller, tuple[list[int], list[Reply]]] = {}
        again: dict[Caller, list[tuple[int, tuple[Any, ...]]]] = {}
        for question, reply in zip(call.questions, replies, strict=True):
            del self._questions[question.key]
            for caller, number in question.wanted:
                if reply.cause is Cause.DEADLINE and caller.deadline > call.deadline:
                    again.setdefault(caller, []).append((number, question.key))
                    continue
                numbers, given = told.setdefault(caller, ([], []))
                numbers.append(number)
                given.append(reply)
        for caller, (numbers, given) in told.items():
            caller.take(numbers, given)
        for caller, questions in again.items():
            if not caller.gone:
                self._add(caller, questions)

    def _fail(self, call: _Call, error: DeloreanError) -> None:
        """Tell callers of an error that is nobody's answer."""
        for question in call.questions:
            del self._questions[question.key]
            for caller, _ in question.wanted:
                if not caller.done.done():
                    caller.done.set_exception(error)

    def _too_late(self, caller: Caller) -> None:
        asked = [(question := self._questions.get(key)) is not None and question.asked for key in caller.open.values()]
        caller.take(list(caller.open), [_NO_ANSWER if was_asked else _NOT_ASKED for was_asked in asked])

    def _give_up_what_nobody_wants(self) -> None:
        now = asyncio.get_running_loop().time()
        for maker, call in self._makers.items():
            if not call.given_up and all(question.stale(now) for question in call.questions):
                call.given_up = True
                maker.cancel()

    def _count(self, change: int) -> None:
        self._waiting += change
        self._queued(change)


_NO_ANSWER = Reply.failed(Status.TIMEOUT, "no answer before the caller's deadline", Cause.DEADLINE)
_NOT_ASKED = Reply.failed(
    Status.REJECTED,
    "not asked: no call was free within the service's limits before the caller's deadline",
    Cause.DEADLINE,
)

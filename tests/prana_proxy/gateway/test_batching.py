"""Gathering questions into calls, on a clock of its own: callers come, wait, share, leave, and nothing stays behind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_virtually

from prana_proxy.gateway.answers import Answers, Cause, Reply
from prana_proxy.gateway.batching import Caller, OnInterim, RequestBatcher
from schemas.data_keys import context_variable, service_element
from schemas.errors import ConfigError, DeloreanError
from schemas.services import Service, Status

Now = Callable[[], float]
SERVICE = Service("s", service_element("e", pa.int64()), (context_variable("k", "int64"),))
SOON = 0.011  # a call that ends so soon by itself is let end
LATE = Reply.failed(Status.TIMEOUT, "late", Cause.DEADLINE)
REJECTED = Reply.failed(Status.REJECTED, "rejected", Cause.DEADLINE)
REFUSED = Reply.failed(Status.SHORT_CIRCUITED, "refused")


class RecordedAnswers(Answers):
    """Answers that know how often each was given, and when last."""

    def __init__(self, count: int, now: Now) -> None:
        super().__init__(SERVICE, count)
        self.now, self.times = now, dict[int, float]()
        self.replies: dict[int, list[Reply]] = defaultdict(list)

    def add(self, keys: Sequence[int], replies: Sequence[Reply]) -> None:
        for key, reply in zip(keys, replies, strict=True):
            self.replies[key].append(reply)
            self.times[key] = self.now()
        super().add(keys, replies)


@dataclass
class Call:
    """A call as the service sees it. sent: when it really went out."""

    keys: list[int]
    began: float
    sent: float | None = None
    ended: float | None = None
    cancelled: bool = False
    failed: bool = False


@dataclass
class World:
    """A guarded service that does what chance says, as a guard would: it ends at the deadline."""

    now: Now
    chance: random.Random
    calls: list[Call] = field(default_factory=list)
    queued: int = 0
    what: str = "anything"

    def count(self, change: int) -> None:
        self.queued += change
        assert self.queued >= 0

    @property
    def in_flight(self) -> list[Call]:
        return [call for call in self.calls if call.ended is None]

    async def send(self, keys: Sequence[tuple[Any, ...]], deadline: float, on_interim: OnInterim) -> Sequence[Reply]:
        call = Call([key[0] for key in keys], self.now())
        assert not any(set(other.keys) & set(call.keys) for other in self.in_flight), "asked twice at a time"
        self.calls.append(call)
        try:
            return await self.behave(call, deadline, on_interim)
        except asyncio.CancelledError:
            call.cancelled = True
            raise
        finally:
            call.ended = self.now()

    async def behave(self, call: Call, deadline: float, on_interim: OnInterim) -> Sequence[Reply]:
        kinds = ["ok", "ok", "ok", "refused", "rejected", "hangs", "fails"]
        kind = self.chance.choice(kinds) if self.what == "anything" else self.what
        if kind == "refused":
            return [REFUSED] * len(call.keys)
        if kind == "rejected":
            await asyncio.sleep(self.chance.choice([0.0, max(0.0, deadline - self.now())]))
            return [REJECTED] * len(call.keys)
        await asyncio.sleep(self.chance.choice([0.0, 0.0, 0.004]) if self.what == "anything" else 0.0)
        if self.now() >= deadline:
            return [REJECTED] * len(call.keys)
        call.sent = self.now()
        on_interim([LATE] * len(call.keys))
        try:
            async with asyncio.timeout_at(deadline):
                varying = self.chance.choice([0.0, 1.0, 3.0]) if self.what == "anything" else 1.0
                await asyncio.sleep(3_600 if kind == "hangs" else varying * 0.01)
        except TimeoutError:
            return [LATE] * len(call.keys)
        if kind == "fails":
            call.failed = True
            raise ConfigError("the clock is gone")
        return [Reply(Status.OK, key, 1) for key in call.keys]


@dataclass
class Visit:
    """One caller's questions and what came of them."""

    comes: float
    keys: list[int]
    budget: float
    leaves: float | None
    began: float = 0.0
    ended: float = 0.0
    cancelled: bool = False
    error: DeloreanError | None = None
    given: dict[int, Reply | None] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)

    async def ask(self, world: World, calls: RequestBatcher) -> None:
        await asyncio.sleep(self.comes)
        self.began = world.now()
        answers = RecordedAnswers(len(self.keys), world.now)
        caller = Caller(answers, range(len(self.keys)), [(key,) for key in self.keys])
        try:
            late = await calls.ask(caller, self.began + self.budget)
            assert sorted([*late, *answers.replies]) == list(range(len(self.keys)))
            assert all(len(replies) == 1 for replies in answers.replies.values())
            replies = {number: one for number, (one,) in answers.replies.items()}
            self.given = {self.keys[number]: reply for number, reply in {**replies, **late}.items()}
            self.times = {self.keys[number]: time for number, time in answers.times.items()}
        except ConfigError as error:
            self.error = error
        finally:
            self.ended = world.now()


VISITS = st.lists(
    st.builds(
        Visit,
        comes=st.sampled_from([0.0, 0.0, 0.0005, 0.003, 0.01, 0.02]),
        keys=st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True),
        budget=st.sampled_from([0.0, 0.001, 0.01, 0.013, 0.05, 0.2, 60.0]),
        leaves=st.sampled_from([None, None, None, 0.0, 0.0005, 0.005, 0.02]),
    ),
    min_size=1,
    max_size=12,
)


def simulate(
    visits: Sequence[Visit], size: int, wait: float, at_once: int, seed: int = 0, what: str = "anything"
) -> World:
    async def work(now: Now) -> World:
        world = World(now, random.Random(seed), what=what)
        calls = RequestBatcher(world.send, size, wait, at_once, world.count)

        async def visit(one: Visit) -> None:
            task = asyncio.ensure_future(one.ask(world, calls))
            if one.leaves is not None:
                await asyncio.sleep(one.comes + one.leaves)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            one.cancelled = task.cancelled()
            assert one.cancelled or task.exception() is None

        await asyncio.gather(*(visit(one) for one in visits))
        for _ in range(1000):  # calls that are given up, and a due that finds nothing
            if calls.idle and not world.in_flight:
                break
            await asyncio.sleep(0.01)
        assert calls.idle
        assert (calls._questions, list(calls._line), calls._makers, world.queued) == ({}, [], {}, 0)
        return world

    return run_virtually(work)


@settings(max_examples=300, deadline=None)
@given(
    visits=VISITS,
    size=st.sampled_from([1, 1, 3, 10]),
    wait=st.sampled_from([0.0, 0.002]),
    at_once=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_each_question_gets_one_reply_that_is_true_and_nothing_stays_behind(
    visits: list[Visit], size: int, wait: float, at_once: int, seed: int
) -> None:
    world = simulate(visits, size, wait, at_once, seed)
    assert all(len(call.keys) <= size for call in world.calls)
    for call in world.calls:
        others = [one for one in world.calls if one.began <= call.began < (one.ended or 0.0)]
        assert len(others) <= at_once
    for visit in visits:
        if visit.cancelled or not visit.budget:
            assert not any(visit.given.values())
            continue
        assert visit.ended <= visit.began + visit.budget + 0.001
        if visit.error is not None:
            assert any(call.failed and set(call.keys) & set(visit.keys) for call in world.calls)
            continue
        for key, reply in visit.given.items():
            until = visit.times.get(key, visit.ended)
            sent = [
                call
                for call in world.calls
                if key in call.keys and call.sent is not None and call.sent <= until and call.ended >= visit.began
            ]
            if reply is None or reply.status in (Status.REJECTED, Status.SHORT_CIRCUITED):
                assert not sent, "said never to have been asked"
            else:
                assert sent
            if reply is not None and reply.status is Status.OK:
                assert reply.value == key
            if reply is None:
                assert visit.ended >= visit.began + visit.budget
    for call in world.calls:
        wanted = [min(one.ended, one.began + one.budget) for one in visits if set(one.keys) & set(call.keys)]
        assert call.ended is not None
        assert call.ended <= max(wanted) + SOON, "went on though nobody waited"
        alive = [one for one in visits if set(one.keys) & set(call.keys) and one.began <= call.began < one.ended]
        assert alive, "made for nobody"


@settings(max_examples=200, deadline=None)
@given(
    visits=VISITS,
    size=st.sampled_from([1, 3, 10]),
    wait=st.sampled_from([0.0, 0.002]),
    at_once=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_whoever_has_time_gets_an_answer_whatever_others_do(
    visits: list[Visit], size: int, wait: float, at_once: int, seed: int
) -> None:
    simulate(visits, size, wait, at_once, seed, what="ok")
    for visit in visits:
        if visit.budget == 60.0 and not visit.cancelled:
            assert {key: reply.value for key, reply in visit.given.items() if reply} == {key: key for key in visit.keys}


def test_a_reply_that_one_caller_cannot_take_fails_that_caller_and_no_other() -> None:
    class Broken(RecordedAnswers):
        def add(self, keys: Sequence[int], replies: Sequence[Reply]) -> None:
            raise ConfigError("a value that does not become Arrow")

    async def work(now: Now) -> None:
        world = World(now, random.Random(0), what="ok")
        calls = RequestBatcher(world.send, 3, 0.002, 1, world.count)
        broken, well = (Caller(kind(1, now), [0], [(key,)]) for key, kind in ((1, Broken), (2, RecordedAnswers)))
        outcomes = await asyncio.gather(
            *(calls.ask(one, now() + 60.0) for one in (broken, well)), return_exceptions=True
        )
        assert isinstance(outcomes[0], ConfigError)
        assert outcomes[1] == {}
        assert now() < 1_001.0
        await asyncio.sleep(0.1)
        assert calls.idle

    run_virtually(work)


def test_equal_questions_in_flight_are_asked_once() -> None:
    visits = [Visit(i * 0.001, [1, 2, 3], 60.0, None) for i in range(8)]
    world = simulate(visits, 1, 0.0, 3, what="ok", seed=2)
    assert Counter(call.keys[0] for call in world.calls) == {1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("what", ["ok", "hangs"])
def test_a_caller_that_leaves_takes_nothing_from_another_and_the_last_takes_the_call_along(what: str) -> None:
    visits = [Visit(0.0, [1], 60.0, 0.001), Visit(0.0005, [1], 5.0, None)]
    world = simulate(visits, 1, 0.0, 1, seed=8, what=what)
    assert [call.cancelled for call in world.calls] == [what == "hangs"]
    assert (visits[1].given[1] or LATE).status is (Status.OK if what == "ok" else Status.TIMEOUT)
    world = simulate([Visit(0.0, [1], 60.0, 0.5), Visit(0.0, [1], 60.0, 0.7)], 1, 0.0, 1, what="hangs")
    assert [(call.cancelled, round((call.ended or 0.0) - call.began, 3)) for call in world.calls] == [(True, 0.7)]


def test_a_call_that_is_not_full_waits_for_company_but_not_for_long() -> None:
    visits = [Visit(0.0, [1, 2], 60.0, None), Visit(0.0015, [3], 60.0, None), Visit(0.0025, [4], 60.0, None)]
    world = simulate(visits, 10, 0.002, 5, what="ok")
    assert [sorted(call.keys) for call in world.calls] == [[1, 2, 3], [4]]
    assert [round(call.began - visits[0].began, 4) for call in world.calls] == [0.002, 0.0045]


def test_a_full_call_leaves_at_once_and_what_is_left_waits_for_company() -> None:
    visits = [Visit(0.0, list(range(7)), 60.0, None)]
    world = simulate(visits, 3, 0.002, 5, what="ok")
    assert [(call.keys, round(call.began - visits[0].began, 4)) for call in world.calls] == [
        ([0, 1, 2], 0.0),
        ([3, 4, 5], 0.0),
        ([6], 0.002),
    ]


@pytest.mark.parametrize(("size", "wait"), [(1, 0.0), (50, 0.002)])
def test_a_caller_with_thousands_of_questions_does_not_starve_one_with_one(size: int, wait: float) -> None:
    many, one = Visit(0.0, list(range(5_000)), 3_600.0, None), Visit(0.1, [-1], 3_600.0, None)
    simulate([many, one], size, wait, 2, what="ok")
    assert one.ended - one.began <= 4 * 0.03  # the calls in flight, and then its own
    assert many.ended > one.ended


def test_refusals_by_the_thousand_let_other_work_run() -> None:
    async def work(now: Now) -> int:
        world, turns = World(now, random.Random(0), what="refused"), 0
        calls = RequestBatcher(world.send, 1, 0.0, 2, world.count)
        visit = asyncio.ensure_future(Visit(0.0, list(range(1_000)), 60.0, None).ask(world, calls))
        while not visit.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert run_virtually(work) >= 400


@pytest.mark.parametrize("turns", range(12))
def test_a_question_that_comes_at_any_turn_of_the_loop_while_a_call_ends_is_asked_at_once(turns: int) -> None:
    async def work(now: Now) -> float:
        answered = asyncio.get_running_loop().create_future()

        async def send(keys: Sequence[tuple[Any, ...]], _: float, __: OnInterim) -> Sequence[Reply]:
            await answered
            return [Reply(Status.OK, key[0], 1) for key in keys]

        calls = RequestBatcher(send, 1, 0.0, 1, lambda _: None)

        async def ask(key: int) -> None:
            caller = Caller(RecordedAnswers(1, now), [0], [(key,)])
            assert await calls.ask(caller, now() + 60.0) == {}

        first = asyncio.ensure_future(ask(1))
        await asyncio.sleep(0.1)
        answered.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        began = now()
        await ask(2)
        await first
        return now() - began

    assert run_virtually(work) < 0.001

"""Limits on a clock of their own, against lists of all that happened."""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from virtual_time import START, run_virtually

from prana_proxy.gateway.limits import _FULL_SHARE, _MARGIN_SECONDS, ConcurrencyLimit, Limits, RateLimit
from prana_proxy.gateway.shared_counters import MOST_CALLS_PER_SECOND, ProcessField, ServiceField, SharedCounters

Now = Callable[[], float]


@pytest.fixture
def counters() -> Iterator[SharedCounters]:
    counters = SharedCounters()
    yield counters
    counters.close()


def never() -> bool:
    return False


def most_within(seconds: float, times: Sequence[float]) -> int:
    """Count the most times in any half-open interval so long."""
    times, most, first = sorted(times), 0, 0
    for last, time in enumerate(times):
        while times[first] <= time - seconds + 1e-9:
            first += 1
        most = max(most, last - first + 1)
    return most


Service = Callable[[random.Random, float], tuple[float, float]]
"""Says how long a call takes to arrive and to be answered: (chance, seconds since the start) → both in seconds."""


def any_service(chance: random.Random, _: float) -> tuple[float, float]:
    latency = chance.choice([0.0, 0.001, chance.uniform(0, 0.08)])
    return chance.choice([0.0, 1.0, chance.random()]) * min(latency, _MARGIN_SECONDS), latency


def service_that_takes(latency: float) -> Service:
    return lambda chance, _: (chance.random() * min(latency, _MARGIN_SECONDS), latency)


def stalling_service(_: random.Random, at: float) -> tuple[float, float]:
    """Every five seconds the machine stands still, for longer and longer."""
    stall = 5.0 - at % 5.0 if at > 5.0 and at % 5.0 > 4.7 + 10 / (40 + at) else 0.0
    return stall, stall + 0.02


@dataclass
class World:
    """A service that calls reach when they like: when each was sent, and when it arrived."""

    rate: RateLimit
    now: Now
    seed: int
    service: Service
    sent: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)

    async def call_again_and_again(self, caller: int, until: float) -> None:
        chance = random.Random(f"{self.seed} {caller}")
        while self.now() < until and (turn := await self.rate.take(until, never)):
            self.sent.append(self.now())
            travel, latency = self.service(chance, self.now() - START)
            self.arrived.append(self.now() + travel)
            await asyncio.sleep(latency)
            self.rate.answered(turn)


def simulate(
    counters: SharedCounters, limits: Limits, seconds: float, callers: int, seed: int, service: Service = any_service
) -> World:
    """Let callers call as often as they may."""

    async def work(now: Now) -> World:
        world = World(RateLimit(limits, counters.page("s"), now), now, seed, service)
        await asyncio.gather(*(world.call_again_and_again(i, now() + seconds) for i in range(callers)))
        return world

    return run_virtually(work)


@settings(max_examples=100, deadline=None)
@given(
    per_second=st.sampled_from([0.5, 1.0, 1.5, 2.5, 7.0, 50.0, 120.5, 333.0]),
    burst=st.sampled_from([None, 1, 2, 5, 40]),
    callers=st.integers(1, 60),
    seed=st.integers(0, 1_000),
)
def test_no_second_of_the_service_s_sees_more_and_nearly_all_that_is_allowed_is_used(
    per_second: float, burst: int | None, callers: int, seed: int
) -> None:
    counters, most = SharedCounters(), math.ceil(per_second)
    seconds = max(4.0, 12 / per_second)
    world = simulate(counters, Limits(100, per_second, burst), seconds, callers, seed)
    counters.close()
    assert most_within(1.0, world.arrived) <= most
    assert most_within(most / per_second, world.arrived) <= most
    allowed = max(1, int(per_second / 10)) if burst is None else burst
    ahead = [i - time * per_second for i, time in enumerate(world.sent)]
    least = accumulate(ahead, min)  # so from any call on: no more than the burst and what has come due since
    assert all(more <= allowed - 1 + before + 1e-6 for more, before in zip(ahead, least, strict=True))
    if callers > 0.1 * per_second:  # a caller makes ten calls a second at least
        assert len(world.sent) >= 0.95 * per_second * seconds - 1


@pytest.mark.parametrize("latency", [0.02, 0.04, 0.05, 0.06, 0.2, 0.8])
def test_however_slow_a_service_is_nearly_all_that_is_allowed_is_used(counters: SharedCounters, latency: float) -> None:
    world = simulate(counters, Limits(200, 100.0), 20.0, 120, seed=2, service=service_that_takes(latency))
    assert most_within(1.0, world.arrived) <= 100
    assert len(world.sent) >= 0.95 * 100 * 20


def test_where_answers_come_soon_no_stall_lets_a_call_too_many_arrive(counters: SharedCounters) -> None:
    world = simulate(counters, Limits(200, 200.0), 40.0, 100, seed=3, service=stalling_service)
    late = [arrived - sent for sent, arrived in zip(world.sent, world.arrived, strict=True) if arrived > sent + 0.1]
    assert len(late) > 50
    assert most_within(1.0, world.arrived) <= 200
    assert len(world.sent) >= 0.95 * 200 * 40


@pytest.mark.parametrize("per_second", [0.5, 1.5, 2.5])
def test_a_rate_that_is_no_whole_number_is_kept_on_the_long_run(counters: SharedCounters, per_second: float) -> None:
    world = simulate(counters, Limits(100, per_second), 1_000.0, 5, seed=1)
    assert 0.95 * per_second * 1_000 <= len(world.arrived) <= per_second * 1_000 + 1
    assert most_within(10.0, world.arrived) <= per_second * 10 + 1


def test_a_turn_that_does_not_come_in_time_is_refused_at_once(counters: SharedCounters) -> None:
    async def work(now: Now) -> tuple[list[bool], float]:
        rate = RateLimit(Limits(100, 0.5), counters.page("s"), now)
        return [await rate.take(START + 1.0, never) is not None for _ in range(3)], now()

    came, ended = run_virtually(work)
    assert came == [True, False, False]
    assert ended < START + 0.001


def test_who_came_first_is_first(counters: SharedCounters) -> None:
    async def work(now: Now) -> list[int]:
        rate, order = RateLimit(Limits(100, 10.0), counters.page("s"), now), list[int]()

        async def call(i: int) -> None:
            await rate.take(START + 30, never)
            order.append(i)

        await asyncio.gather(*(call(i) for i in range(20)))
        return order

    assert run_virtually(work) == list(range(20))


def test_a_raised_limit_wakes_who_waits_by_the_lower_one(counters: SharedCounters) -> None:
    async def work(now: Now) -> float:
        rate = RateLimit(Limits(100, 0.01), counters.page("s"), now)
        await rate.take(START + 1_000, never)
        waiting = asyncio.ensure_future(rate.take(START + 1_000, never))
        await asyncio.sleep(2.0)
        rate.limits = Limits(100, 100.0)
        assert await waiting is not None
        return now() - START

    assert run_virtually(work) <= 2.5


@pytest.mark.parametrize(("answered", "seconds"), [(0.0, 1.0), (0.03, 1.03), (0.046, 1.046), (math.inf, _FULL_SHARE)])
def test_a_call_counts_from_its_answer_or_from_when_waiting_for_it_costs_too_much(
    counters: SharedCounters, answered: float, seconds: float
) -> None:
    async def work(now: Now) -> float:
        rate = RateLimit(Limits(100, 2.0, 2), counters.page("s"), now)
        for _ in range(2):
            turn = await rate.take(START + 60, never)
            assert turn is not None
            asyncio.get_running_loop().call_later(answered, rate.answered, turn)
        await rate.take(START + 60, never)
        return now() - START

    assert run_virtually(work) == pytest.approx(seconds, abs=0.003)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.0005, 0.01, 0.03, 0.1, 0.25, 0.5, 0.97, 1.0, 3.0])),
        st.tuples(st.just("limit"), st.sampled_from([0.5, 1.5, 2.0, 3.0, 8.0, 20.0])),
        st.tuples(st.just("call"), st.integers(1, 25)),
        st.tuples(st.just("answer"), st.integers(0, 10)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, began=st.sampled_from([0, MOST_CALLS_PER_SECOND - 3]))
@example(steps=[("call", 3), ("limit", 2.0), ("answer", 1), ("wait", 1.0), ("call", 1)], began=0)  # out of order
def test_a_changed_limit_holds_for_the_calls_made_under_the_one_before(steps: list, began: int) -> None:
    """Against a list of all calls, with two processes' rates over one page, whose ring may be about to wrap."""
    counters, clock, limit = SharedCounters(), [START], 3.0
    page = counters.page("s")
    page.shared[ServiceField.RATE_HEAD] = float(began)
    rates = [RateLimit(Limits(100, limit, 100), page, lambda: clock[0]) for _ in range(2)]
    calls: list[list[float]] = []  # of each its turn, and when it must have arrived
    for step, value in steps:
        if step == "wait":
            clock[0] += value
        elif step == "limit":
            limit = value
            for rate in rates:
                rate.limits = Limits(100, limit, 100)
        elif step == "answer" and calls:
            call = calls[-1 - int(value) % len(calls)]
            rates[0].answered((int(call[0]), call[1]))
            call[2] = min(call[2], clock[0])
        for i in range(int(value) if step == "call" else 0):
            most, window = math.ceil(limit), math.ceil(limit) / limit
            room = sum(arrival + window > clock[0] + 1e-9 for _, _, arrival in calls) < most
            wait, turn = rates[i % 2]._try()
            assert not wait <= 0.0 or room
            if wait <= 0.0:
                calls.append([*turn, clock[0] + _MARGIN_SECONDS])
            else:
                assert wait <= max(window + _MARGIN_SECONDS, 1 / limit) + 1e-9
    counters.close()


@dataclass(frozen=True)
class Stay:
    """Somebody who wants a place: in which process, when, how long for, and for how long they wait."""

    process: int
    comes: float
    holds: float
    waits: float
    leaves: float | None = None  # after so long, whatever it does


STAYS = st.lists(
    st.builds(
        Stay,
        st.integers(0, 1),
        st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.013, 0.05]),
        st.sampled_from([0.0, 0.001, 0.004, 0.02]),
        st.sampled_from([0.0, 0.002, 0.01, 60.0, 60.0]),
        st.sampled_from([None, None, None, 0.0, 0.003, 0.0131]),
    ),
    max_size=25,
)


def stay(stays: Sequence[Stay], most: int, processes: int) -> list[tuple[int, str]]:
    """Let all come; give who came in, in order, and who had waited in vain. None of them may be one too many."""
    first = SharedCounters(processes)
    shared = [first] + [SharedCounters(processes, i, os.dup(first.handle or 0)) for i in range(1, processes)]
    seen: list[tuple[int, str]] = []

    async def work(now: Now) -> None:
        places = [ConcurrencyLimit(most, counters.page("s"), now) for counters in shared]
        in_flight = 0

        async def come(number: int, one: Stay) -> None:
            nonlocal in_flight
            await asyncio.sleep(one.comes)
            mine = places[one.process % processes]
            if not await mine.take(now() + one.waits):
                seen.append((number, "in vain"))
                return
            seen.append((number, "in"))
            in_flight += 1
            assert in_flight <= most
            try:
                await asyncio.sleep(one.holds)
            finally:
                in_flight -= 1
                mine.release()

        async def leave(task: asyncio.Task[None], one: Stay) -> None:
            if one.leaves is not None:
                await asyncio.sleep(one.leaves)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled() or task.exception() is None

        comers = [leave(asyncio.ensure_future(come(i, one)), one) for i, one in enumerate(stays)]
        await asyncio.gather(*comers)
        page = shared[0].page("s")
        assert [page.total(number) for number in (ProcessField.IN_FLIGHT, ProcessField.WAITING_SINCE)] == [0.0, 0.0]

    run_virtually(work)
    for counters in shared:
        counters.close()
    return seen


@settings(max_examples=150, deadline=None)
@given(stays=STAYS, most=st.integers(1, 3), processes=st.integers(1, 2))
def test_never_one_too_many_is_in_and_who_waits_long_enough_gets_in(
    stays: list[Stay], most: int, processes: int
) -> None:
    seen = dict(stay(stays, most, processes))
    for number, one in enumerate(stays):
        if one.waits == 60.0 and one.leaves is None:
            assert seen[number] == "in"
        if one.leaves is None:
            assert number in seen


def test_places_are_taken_in_the_order_in_which_their_takers_came(counters: SharedCounters) -> None:
    stays = [Stay(process=i % 2, comes=i / 1_000, holds=0.05, waits=60.0) for i in range(12)]
    assert stay(stays, 1, 1) == [(i, "in") for i in range(12)]
    assert stay(stays, 1, 2) == [(i, "in") for i in range(12)]


def test_one_who_gives_up_does_not_lose_the_place_of_the_process_in_the_line() -> None:
    # The second of the first process gives up while its first still waits: the other process, later, stays behind.
    stays = [Stay(1, 0.0, 0.1, 60), Stay(0, 0.01, 0.01, 60), Stay(0, 0.02, 0.01, 0.0799), Stay(1, 0.03, 0.01, 60)]
    assert [number for number, what in stay(stays, 1, 2) if what == "in"] == [0, 1, 3]


def test_a_lowered_limit_holds_for_those_who_wait_already(counters: SharedCounters) -> None:
    async def work(now: Now) -> list[bool]:
        places = ConcurrencyLimit(3, counters.page("s"), now)
        assert all([await places.take(now()) for _ in range(3)])
        waiting = asyncio.ensure_future(places.take(now() + 60))
        await asyncio.sleep(0.01)
        places.limit = 1
        done = []
        for _ in range(3):
            places.release()
            await asyncio.sleep(0.2)
            done.append(waiting.done())
        return done

    assert run_virtually(work) == [False, False, True]


def test_a_raised_limit_lets_in_who_waits_already(counters: SharedCounters) -> None:
    async def work(now: Now) -> bool:
        places = ConcurrencyLimit(1, counters.page("s"), now)
        assert await places.take(now())
        waiting = asyncio.ensure_future(places.take(now() + 60))
        await asyncio.sleep(0.01)
        places.limit = 2
        await asyncio.sleep(0.2)
        return waiting.done()

    assert run_virtually(work)


def test_a_place_given_back_is_taken_at_once_by_the_next_of_the_same_process(counters: SharedCounters) -> None:
    async def work(now: Now) -> float:
        places = ConcurrencyLimit(1, counters.page("s"), now)
        assert await places.take(now())
        waiting = asyncio.ensure_future(places.take(now() + 60))
        await asyncio.sleep(0.01)
        places.release()
        gave = now()
        assert await waiting
        return now() - gave

    assert run_virtually(work) < 0.001

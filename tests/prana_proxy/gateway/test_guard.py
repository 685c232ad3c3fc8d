"""The guard before a service, on a clock of its own: breaker, limits, timeout, and retries on other instances."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import START, run_virtually

from prana_proxy.gateway.admission import AdmissionControl
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.breaker import BreakerRules, BreakerState
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import Instance, open_discovery
from prana_proxy.gateway.guard import Guard, RetryBudget
from prana_proxy.gateway.instances import Instances
from prana_proxy.gateway.limits import Limits
from prana_proxy.gateway.services import Key
from prana_proxy.gateway.shared_counters import LATENCIES, ProcessField, SharedCounters
from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status

Now = Callable[[], float]
SERVICE = Service("s", service_element("e", pa.int64()), (context_variable("k", "int64"),))
CONFIG = ServiceConfig(SERVICE, "http://a:1/{k}", discovery="static://a:1,b:1")
ALONE = replace(CONFIG, discovery="static://a:1")
NO_BREAKER = BreakerRules(forced="closed")
A, B = Instance("a", 1), Instance("b", 1)
OK = Reply(Status.OK, 7, 1)
ERROR = Reply.failed(Status.ERROR, "HTTP 500")
LOST = Reply.failed(Status.ERROR, "unreachable", Cause.CONNECTION)
WRONG = Reply.failed(Status.ERROR, "HTTP 404", Cause.REQUEST)
INVALID = Reply.failed(Status.INVALID, "not an int")
NO_PATH = Reply.failed(Status.INVALID, "cannot be asked", Cause.REQUEST)
FOREVER = START + 1e6

Behave = Callable[[Instance, Sequence[Key]], Awaitable[Sequence[Reply]]]


@dataclass
class World:
    """A guard and what passes it. known: what it reported before a call's end."""

    now: Now
    guard: Guard
    controls: AdmissionControl
    instances: Instances
    log: list[tuple[float, Instance]] = field(default_factory=list)
    known: list[Sequence[Reply]] = field(default_factory=list)

    async def ask(self, *keys: int, deadline: float = FOREVER) -> Sequence[Reply]:
        return await self.guard([(key,) for key in keys or (1,)], deadline, self.known.append)

    def counted(self, number: int) -> float:
        return self.controls.page.total(number)


def simulate(config: ServiceConfig, behave: Behave, work: Callable[[World], Coroutine[Any, Any, None]]) -> World:
    counters = SharedCounters()

    async def run(now: Now) -> World:
        async def ask(instance: Instance, keys: Sequence[Key], _: float) -> Sequence[Reply]:
            world.log.append((now(), instance))
            return await behave(instance, keys)

        instances = Instances("s", open_discovery(config.discovery or ""), now)
        await instances.open()
        controls = AdmissionControl(config, counters.page("s"), now)
        world = World(now, Guard(config, ask, instances, controls), controls, instances)
        await work(world)
        while world.counted(ProcessField.OUT):
            await asyncio.sleep(config.timeout_seconds)
        for number in (ProcessField.IN_FLIGHT, ProcessField.WAITING, ProcessField.ABANDONED):
            assert world.counted(number) == 0.0
        assert world.counted(ProcessField.CALLS) == len(world.log)
        assert sum(world.counted(ProcessField.LATENCY + i) for i in range(len(LATENCIES))) == len(world.log)
        return world

    try:
        return run_virtually(run)
    finally:
        counters.close()


def always(*replies: Reply, seconds: float = 0.0) -> Behave:
    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        await asyncio.sleep(seconds)
        return list(replies) if len(replies) == len(keys) else [replies[0]] * len(keys)

    return behave


def by_instance(replies: dict[Instance, Reply]) -> Behave:
    async def behave(instance: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        return [replies[instance]] * len(keys)

    return behave


async def ask_often(world: World, times: int) -> list[Reply]:
    return [(await world.ask())[0] for _ in range(times)]


@given(
    share=st.sampled_from([0.0, 0.1, 0.25, 0.333, 1.0]),
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=40),
)
def test_never_more_retries_than_their_share_of_all_calls(share: float, steps: list[tuple[int, int]]) -> None:
    budget, calls, retries, saved = RetryBudget(share), 0, 0, Fraction(0)
    for called, wanted in steps:
        for _ in range(called):
            budget.called()
            saved = min(saved + Fraction(str(share)), Fraction(50))
        calls += called
        for _ in range(wanted):
            assert budget.spend() == (saved >= 1)
            if saved >= 1:
                saved, retries = saved - 1, retries + 1
            assert retries <= share * calls


@settings(max_examples=30, deadline=None)
@given(failing=st.lists(st.sampled_from([OK, ERROR, ERROR, LOST]), min_size=1, max_size=300))
def test_of_all_calls_at_most_a_tenth_is_made_again(failing: list[Reply]) -> None:
    replies = iter(failing)

    async def behave(instance: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        return [next(replies, OK) if instance not in tried else ERROR]

    tried: set[Instance] = set()

    async def work(world: World) -> None:
        await ask_often(world, len(failing))
        assert world.counted(ProcessField.RETRIES) == len(world.log) - len(failing)
        assert world.counted(ProcessField.RETRIES) <= len(failing) / 10

    simulate(replace(CONFIG, breaker=NO_BREAKER), behave, work)


async def save_up(world: World) -> None:
    """Make calls for one retry; the next call goes to the instance that the caller wants first."""
    await ask_often(world, 10)
    world.log.clear()
    world.controls.page.own[ProcessField.CALLS] = 0.0
    for i in range(len(LATENCIES)):
        world.controls.page.own[ProcessField.LATENCY + i] = 0.0


@pytest.mark.parametrize(
    ("first", "config", "tried"),
    [
        (ERROR, CONFIG, 2),
        (LOST, CONFIG, 2),
        (INVALID, CONFIG, 1),
        (WRONG, CONFIG, 1),
        (ERROR, ALONE, 1),
        (ERROR, replace(CONFIG, idempotent=False), 1),
        (ERROR, replace(CONFIG, retries=0), 1),
        (ERROR, replace(CONFIG, retry_share=0.0), 1),
    ],
)
def test_what_is_asked_again_and_where(first: Reply, config: ServiceConfig, tried: int) -> None:
    asked = list[Instance]()
    fail = False

    async def behave(instance: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        asked.append(instance)
        return [first if fail and len(asked) == 1 else OK]

    async def work(world: World) -> None:
        nonlocal fail
        await save_up(world)
        asked.clear()
        fail = True
        assert await world.ask() == [OK if tried == 2 else first]

        assert world.counted(ProcessField.RETRIES) == tried - 1

    simulate(config, behave, work)
    assert len(set(asked)) == len(asked) == tried


def test_a_batch_of_which_something_was_answered_is_not_asked_again() -> None:
    async def work(world: World) -> None:
        await save_up(world)
        assert await world.ask(1, 2) == [OK, ERROR]

    assert len(simulate(replace(CONFIG, batched=True), always(OK, ERROR), work).log) == 1


def test_a_retry_waits_for_a_moment_that_differs_and_ends_before_the_deadline() -> None:
    moments = set()

    async def work(world: World) -> None:
        for _ in range(30):
            await world.ask()
        for (first, _), (second, _) in pairwise(world.log):
            moments.add(round(second - first, 6))

    simulate(replace(CONFIG, retry_share=1.0, breaker=NO_BREAKER), by_instance({A: ERROR, B: ERROR}), work)
    assert len(moments) > 20
    assert max(moments) <= 0.05

    async def hurried(world: World) -> None:
        assert await world.ask(deadline=world.now()) != [ERROR]
        for _ in range(30):
            assert await world.ask(deadline=world.now() + 0.01) == [ERROR]
            assert all(time <= START + 0.011 * 31 for time, _ in world.log)

    simulate(replace(CONFIG, retry_share=1.0, breaker=NO_BREAKER), by_instance({A: ERROR, B: ERROR}), hurried)


def test_retries_take_their_turns_of_the_rate() -> None:
    config = replace(CONFIG, retry_share=1.0, breaker=NO_BREAKER, limits=Limits(20, 10.0, 10))

    async def work(world: World) -> None:
        await asyncio.gather(*(world.ask(deadline=START + 5) for _ in range(60)))
        times = [time for time, _ in world.log]
        assert len(times) >= 45
        assert all(later - sooner >= 1.0 for sooner, later in zip(times, times[10:], strict=False))

    simulate(config, always(ERROR, seconds=0.02), work)


def test_the_breaker_counts_retries_and_lets_none_through_once_it_is_open() -> None:
    async def work(world: World) -> None:
        replies = await ask_often(world, 40)
        assert len(world.log) == 20
        assert Counter(reply.status for reply in replies) == {
            Status.ERROR: 20 - world.counted(ProcessField.RETRIES),
            Status.SHORT_CIRCUITED: 40 - 20 + world.counted(ProcessField.RETRIES),
        }
        assert world.counted(ProcessField.RETRIES) in (1, 2)

    simulate(CONFIG, always(ERROR), work)


def test_a_retry_that_the_breaker_refuses_leaves_the_failure_it_was_for() -> None:
    async def behave(instance: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        return [ERROR if keys[0]["k"] else OK]

    async def work(world: World) -> None:
        await world.ask(0)  # so that of twenty calls the last is the first attempt of a question
        replies = [(await world.ask())[0] for _ in range(10)]
        assert replies == [ERROR] * 10
        assert len(world.log) == 20
        assert world.controls.breaker.state is BreakerState.OPEN

    simulate(replace(CONFIG, retry_share=1.0), behave, work)


def test_a_retry_that_the_deadline_ends_leaves_the_failure_it_was_for() -> None:
    async def behave(instance: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        first = not world_log[1:]
        await asyncio.sleep(0.0 if first else 3600.0)
        return [ERROR if first else OK]

    async def work(world: World) -> None:
        nonlocal world_log
        world_log = world.log
        assert await world.ask(deadline=START + 0.5) == [ERROR]
        assert [known[0].status for known in world.known] == [Status.TIMEOUT, Status.ERROR]

    world_log: list[Any] = []
    assert len(simulate(replace(CONFIG, retry_share=1.0), behave, work).log) == 2


@pytest.mark.parametrize(
    ("replies", "opens"),
    [
        ([OK, ERROR], False),  # one good answer of a batch is a success
        ([ERROR, WRONG], True),
        ([INVALID, INVALID], True),
        ([WRONG, WRONG], False),
        ([NO_PATH, NO_PATH], False),
        ([LOST, LOST], True),
    ],
)
def test_what_counts_as_a_failure_of_the_service(replies: list[Reply], opens: bool) -> None:
    async def work(world: World) -> None:
        for _ in range(25):
            await world.ask(1, 2)
        assert (world.controls.breaker.state is BreakerState.OPEN) == opens

    simulate(replace(ALONE, batched=True), always(*replies), work)


@pytest.mark.parametrize("patience", [0.05, 0.4, 0.6, 2.0])
@pytest.mark.parametrize(("seconds", "opens"), [(0.7, False), (1.1, True), (3600.0, True)])
def test_how_long_callers_wait_changes_nothing_of_whether_the_service_failed(
    patience: float, seconds: float, opens: bool
) -> None:
    async def work(world: World) -> None:
        for _ in range(80):
            began = world.now()
            reply = (await world.ask(deadline=began + patience))[0]
            if world.controls.breaker.state is BreakerState.OPEN:
                break
            assert world.now() <= began + patience + 1e-6
            await asyncio.sleep(max(0.0, began + 0.25 - world.now()))
            if reply.status is Status.TIMEOUT:
                expected = "no answer within 1 s" if patience > 1 else "no answer before the caller's deadline"
                assert reply.reason == expected
        assert (world.controls.breaker.state is BreakerState.OPEN) == opens

    simulate(ALONE, always(OK, seconds=seconds), work)


@pytest.mark.parametrize("at_once", [1, 2, 10, 60])
def test_a_service_that_hangs_opens_the_breaker_however_few_calls_fit_into_a_window(at_once: int) -> None:
    async def work(world: World) -> None:
        async def call_on() -> None:
            while world.controls.breaker.state is not BreakerState.OPEN:
                assert world.now() < START + 30.0
                await world.ask(deadline=world.now() + 0.5)
                await asyncio.sleep(0.05)

        await asyncio.gather(*(call_on() for _ in range(32)))

    simulate(replace(ALONE, limits=Limits(at_once), timeout_seconds=2.0), always(OK, seconds=3600.0), work)


def test_impatient_callers_leave_the_service_to_a_patient_one() -> None:
    async def work(world: World) -> None:
        statuses = Counter[str]()

        async def impatient(key: int) -> None:
            for turn in range(20):
                await world.ask(100 * turn + key, deadline=world.now() + 0.6)
                await asyncio.sleep(0.1)

        async def patient() -> None:
            for turn in range(15):
                statuses[(await world.ask(-1 - turn, deadline=world.now() + 5.0))[0].status] += 1

        await asyncio.gather(patient(), *(impatient(key) for key in range(20)))
        assert statuses == {Status.OK: 15}

    simulate(ALONE, always(OK, seconds=0.7), work)


def test_calls_that_outlive_their_callers_hold_half_of_the_places_at_most() -> None:
    async def work(world: World) -> None:
        await asyncio.gather(*(world.ask(key, deadline=START + 0.1) for key in range(10)))
        await asyncio.sleep(0)
        assert world.counted(ProcessField.LATE) == 10
        assert (
            world.counted(ProcessField.CUT)
            == world.counted(ProcessField.OUT)
            == world.counted(ProcessField.IN_FLIGHT)
            == 5
        )

    simulate(ALONE, always(OK, seconds=0.5), work)


def test_while_a_service_is_silent_one_caller_at_a_time_waits_for_it() -> None:
    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        await asyncio.sleep(3600.0 if world_now() < START + 8.0 else 0.01)
        return [OK]

    async def work(world: World) -> None:
        nonlocal world_now
        world_now = world.now
        await asyncio.gather(*(world.ask(key, deadline=START + 0.5) for key in range(10)))
        asked = [asyncio.ensure_future(world.ask(key, deadline=world.now() + 0.5)) for key in range(20)]
        done, waiting = await asyncio.wait(asked, timeout=0.01)
        assert {one.result()[0].status for one in done} == {Status.REJECTED}
        assert len(waiting) == 1
        patient = asyncio.ensure_future(world.ask(99, deadline=world.now() + 7.0))
        await asyncio.wait(waiting)
        assert not patient.done()  # seven seconds are more than anybody has waited so far
        await asyncio.sleep(8.0)
        assert (await world.ask(deadline=world.now() + 0.5)) == [OK]
        assert await asyncio.gather(*(world.ask(key, deadline=world.now() + 0.5) for key in range(5))) == [[OK]] * 5

    world_now: Now = lambda: 0.0  # noqa: E731  # until the world has begun
    simulate(replace(ALONE, timeout_seconds=30.0), behave, work)


def test_callers_with_little_patience_probe_no_more_often_than_the_open_period() -> None:
    failing = True

    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        await asyncio.sleep(0.0 if failing else 3600.0)
        return [ERROR]

    async def work(world: World) -> None:
        nonlocal failing
        await ask_often(world, 20)
        failing = False
        while world.now() < START + 60.0:
            await world.ask(deadline=world.now() + 0.1)
            await asyncio.sleep(0.01)
        probes = [time for time, _ in world.log[20:]]
        assert all(later - sooner >= 5.0 for sooner, later in pairwise(probes))
        assert len(probes) >= 8

    simulate(replace(ALONE, timeout_seconds=2.0), behave, work)


def test_a_probe_that_answers_after_its_caller_has_left_closes_the_breaker() -> None:
    failing = True

    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        await asyncio.sleep(0.0 if failing else 0.7)
        return [ERROR if failing else OK]

    async def work(world: World) -> None:
        nonlocal failing
        await ask_often(world, 20)
        failing = False
        await asyncio.sleep(5.0)
        assert (await world.ask(deadline=world.now() + 0.1))[0].status is Status.TIMEOUT
        assert world.controls.breaker.state is BreakerState.HALF_OPEN
        await asyncio.sleep(0.7)
        assert world.controls.breaker.state is BreakerState.CLOSED

    simulate(ALONE, behave, work)


def test_what_cannot_be_stopped_counts_when_its_time_is_over_and_keeps_its_place() -> None:
    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        ends = asyncio.get_running_loop().time() + 60.0
        while (left := ends - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:  # as a thread does not hear of it
                continue
        return [OK]

    async def work(world: World) -> None:
        replies = await asyncio.gather(*(world.ask(key) for key in range(20)))
        assert {reply.reason for (reply,) in replies} == {"no answer within 1 s"}
        assert world.now() == pytest.approx(START + 1.0)
        assert world.controls.breaker.state is BreakerState.OPEN
        assert world.counted(ProcessField.OUT) == world.counted(ProcessField.IN_FLIGHT) == 20
        await asyncio.sleep(60.0)

    simulate(replace(ALONE, limits=Limits(20)), behave, work)


@pytest.mark.parametrize(
    ("reply", "state"),
    [(OK, BreakerState.CLOSED), (WRONG, BreakerState.CLOSED), (ERROR, BreakerState.OPEN), (NO_PATH, BreakerState.OPEN)],
)
def test_what_a_probe_s_outcome_does(reply: Reply, state: BreakerState) -> None:
    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        return [reply if len(world_log) > 20 else ERROR]

    world_log: list[Any] = []

    async def work(world: World) -> None:
        nonlocal world_log
        world_log = world.log
        await ask_often(world, 20)
        await asyncio.sleep(5.0)
        assert await world.ask() == [reply]
        assert world.controls.breaker.state is state
        assert world.controls.breaker.refuses == (reply is ERROR)  # one that was not sent lets another try at once

    simulate(ALONE, behave, work)


def test_a_probe_goes_on_when_its_caller_hangs_up() -> None:
    seconds = 0.0

    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        await asyncio.sleep(seconds)
        return [OK if seconds else ERROR]

    async def work(world: World) -> None:
        nonlocal seconds
        await ask_often(world, 20)
        await asyncio.sleep(5.0)
        seconds = 0.5
        probe = asyncio.ensure_future(world.ask())
        await asyncio.sleep(0.1)
        assert (await world.ask())[0].status is Status.SHORT_CIRCUITED
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert (await world.ask())[0].status is Status.SHORT_CIRCUITED
        await asyncio.sleep(0.5)
        assert world.controls.breaker.state is BreakerState.CLOSED
        assert await world.ask() == [OK]

    simulate(replace(ALONE, limits=Limits(2)), behave, work)


def test_what_waits_when_the_breaker_opens_is_not_sent() -> None:
    async def work(world: World) -> None:
        asked = await asyncio.gather(*(world.ask() for _ in range(60)))
        assert len(world.log) == 20
        assert Counter(reply.status for (reply,) in asked) == {Status.ERROR: 20, Status.SHORT_CIRCUITED: 40}
        assert world.now() < START + 1.6  # nobody waits for a turn that would be in vain

    simulate(replace(ALONE, limits=Limits(40, 20.0, 1)), always(ERROR), work)


def test_a_breaker_forced_open_holds_for_what_waits_already() -> None:
    async def work(world: World) -> None:
        asked = [asyncio.ensure_future(world.ask()) for _ in range(10)]
        await asyncio.sleep(0.5)
        world.controls.configure(replace(ALONE, breaker=BreakerRules(forced="open")))
        statuses = Counter(reply.status for (reply,) in await asyncio.gather(*asked))
        assert statuses == {Status.OK: 2, Status.SHORT_CIRCUITED: 8}

    assert len(simulate(replace(ALONE, limits=Limits(2)), always(OK, seconds=0.9), work).log) == 2


def test_an_open_breaker_refuses_without_waiting_for_a_place() -> None:
    async def work(world: World) -> None:
        holder = asyncio.ensure_future(world.ask())
        await asyncio.sleep(0.1)
        world.controls.configure(replace(ALONE, limits=Limits(1), breaker=BreakerRules(forced="open")))
        assert (await world.ask())[0].status is Status.SHORT_CIRCUITED
        assert not holder.done()
        await holder

    simulate(replace(ALONE, limits=Limits(1)), always(OK, seconds=0.9), work)


def test_other_limits_hold_for_what_waits_already() -> None:
    async def work(world: World) -> None:
        asked = [asyncio.ensure_future(world.ask()) for _ in range(9)]
        await asyncio.sleep(0.5)
        world.controls.configure(replace(ALONE, limits=Limits(3)))
        await asyncio.sleep(0.1)
        assert world.counted(ProcessField.IN_FLIGHT) == 3
        world.controls.configure(replace(ALONE, limits=Limits(9, 1.0)))
        await asyncio.gather(*asked)
        times = [time for time, _ in world.log]
        assert all(later - sooner > 0.99 for sooner, later in pairwise(times[3:]))

    simulate(replace(ALONE, limits=Limits(1), timeout_seconds=9), always(OK, seconds=0.9), work)


def test_an_answer_at_once_makes_its_turn_free_in_a_second() -> None:
    async def work(world: World) -> None:
        await ask_often(world, 3)
        assert world.log[2][0] == pytest.approx(START + 1.0, abs=0.001)

    simulate(replace(ALONE, limits=Limits(1, 2.0, 2)), always(OK), work)


def test_without_a_place_or_a_turn_in_time_a_call_is_rejected_and_never_sent() -> None:
    async def work(world: World) -> None:
        asked = await asyncio.gather(*(world.ask(deadline=START + 0.5) for _ in range(6)))
        assert [reply.status for (reply,) in asked] == [Status.TIMEOUT] * 2 + [Status.REJECTED] * 4
        reason = "not sent: its limits, 3 at a time, 4 a second, left no call before the caller's deadline"
        assert {reply.reason for (reply,) in asked[2:]} == {reason}
        assert len(world.known) == 2  # for those that were sent

    simulate(replace(ALONE, limits=Limits(3, 4.0)), always(OK, seconds=3600), work)


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async def work(world: World) -> None:
        assert [reply.status for reply in await world.ask(1, 2, deadline=START)] == [Status.REJECTED] * 2

    assert simulate(ALONE, always(OK), work).log == []


def test_without_instances_a_call_fails_at_once_and_the_breaker_spares_nobody() -> None:
    async def work(world: World) -> None:
        known = dict(world.instances._current)
        world.instances._current.clear()
        replies = await ask_often(world, 30)
        assert {reply.status for reply in replies} == {Status.ERROR}
        assert (replies[0].reason or "").startswith("no instance")
        assert world.controls.breaker.state is BreakerState.CLOSED
        assert world.now() < START + 0.001  # without a turn of the rate
        world.instances._current.update(known)
        await world.ask()
        assert world.counted(ProcessField.RETRIES) == 0  # calls that were not sent save up no retry

    assert len(simulate(replace(CONFIG, limits=Limits(3, 1.0)), always(ERROR), work).log) == 1


def test_calls_are_counted_by_how_long_they_took_also_cancelled_ones() -> None:
    async def work(world: World) -> None:
        for seconds in (0.0, 0.002, 0.3, 20.0):
            call = asyncio.ensure_future(world.ask(int(seconds * 1000)))
            await asyncio.sleep(40.0 if seconds < 20 else 6.0)
            call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        found = {LATENCIES[i]: n for i in range(len(LATENCIES)) if (n := world.counted(ProcessField.LATENCY + i))}
        assert found == {0.001: 1, 0.0025: 1, 0.5: 1, 10.0: 1}
        assert world.counted(ProcessField.SECONDS) == pytest.approx(0.002 + 0.3 + 6.0)

    async def behave(_: Instance, keys: Sequence[Key]) -> Sequence[Reply]:
        await asyncio.sleep(keys[0]["k"] / 1000)
        return [OK]

    simulate(replace(ALONE, timeout_seconds=60.0), behave, work)


def test_an_instance_that_cannot_be_reached_three_times_rests() -> None:
    async def work(world: World) -> None:
        await ask_often(world, 30)
        assert Counter(instance for _, instance in world.log) == {A: 3, B: 27}

    config = replace(CONFIG, retries=0, breaker=NO_BREAKER)
    simulate(config, by_instance({A: LOST, B: OK}), work)

"""Instances are chosen by their load, rest by Ribbon's rule, and are those that the registry named last."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prana_proxy import supervised
from prana_proxy.gateway.discovery import Discovery, DiscoveryResult, Instance
from prana_proxy.gateway.instances import Instances
from schemas.errors import ServiceError

NAMES = [Instance(f"10.0.0.{i}", 8001) for i in range(1, 6)]
A, B, C = NAMES[:3]


class Registry(Discovery):
    """Answers with a chosen list of instances, or an error."""

    schemes = ()

    def __init__(self, *instances: Instance, fresh_seconds: float = math.inf) -> None:
        self.answer: DiscoveryResult | Exception = DiscoveryResult(instances, fresh_seconds, "nobody is there")
        self.hangs = self.closed = False
        self.asked = 0

    def knows(self, *instances: Instance) -> None:
        self.answer = DiscoveryResult(instances, 30.0, "nobody is there")

    async def find(self) -> DiscoveryResult:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        self.closed = True


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def looked_up(*instances: Instance, now: Clock | None = None) -> Instances:
    found = Instances("history", Registry(*instances), now or Clock())
    asyncio.run(found.look_up())
    return found


def fail(instances: Instances, which: Instance, times: int) -> None:
    for _ in range(times):
        instances.unreachable(which)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("first", [True, False], ids=["at the first look-up", "later"])
def test_a_driver_whose_answer_breaks_a_look_up_is_asked_again_and_its_failure_counted(
    monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    broken = DiscoveryResult(None, 0.01, "")  # type: ignore[arg-type]  # as a driver with a defect gives it

    async def work() -> int:
        registry = Registry(A, fresh_seconds=0.01)
        well, before = registry.answer, supervised.failures()
        instances = Instances("history", registry)
        registry.answer = broken if first else well
        await instances.open()
        registry.answer = broken
        await until(lambda: supervised.failures() > before)
        assert "instances of history" in supervised.failing()
        registry.answer = DiscoveryResult((B,), 0.01, "")
        await until(lambda: B in instances.current and "instances of history" not in supervised.failing())
        await instances.close()
        return supervised.failures() - before

    monkeypatch.setattr(supervised, "_FIRST_PAUSE", 0.01)
    assert asyncio.run(work()) >= 1


class Choosing(RuleBasedStateMachine):
    """Whatever happens, in any order, choices are those of the rules as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.registry = Registry()
        self.instances = Instances("history", self.registry, self.clock)
        self.loop = asyncio.new_event_loop()
        self.calls: list[tuple[Instance, AbstractContextManager[None]]] = []
        self.known: set[Instance] = set()
        self.missing: set[Instance] = set()
        self.named_at: dict[Instance, float] = {}
        self.failures: Counter[Instance] = Counter()
        self.failed_at: dict[Instance, float] = {}
        self.chosen_at: Counter[Instance] = Counter()
        self.choices = 0

    def teardown(self) -> None:
        self.loop.close()

    def in_flight(self, which: Instance) -> int:
        return sum(instance == which for instance, _ in self.calls)

    def rests(self, which: Instance) -> bool:
        failures = self.failures[which]
        if failures < 3:
            return False
        return self.clock.now < self.failed_at[which] + {3: 10, 4: 20}.get(failures, 30)

    def remembered(self, which: Instance) -> bool:
        return which in self.known or self.in_flight(which) > 0

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def registry_names(self, names: set[Instance]) -> None:
        self.registry.knows(*names)
        self.loop.run_until_complete(self.instances.look_up())
        doubtful = 2 * len(names) < len(self.known)
        kept = {one for one in self.known if doubtful and self.clock.now - self.named_at[one] <= 300.0}
        self.known, self.missing = names | kept, kept - names
        self.named_at.update(dict.fromkeys(names, self.clock.now))
        self.forget_the_unknown()

    def forget_the_unknown(self) -> None:
        for gone in set(NAMES) - self.known:
            if not self.in_flight(gone):
                self.failures[gone] = self.chosen_at[gone] = 0

    @rule()
    def registry_is_gone(self) -> None:
        self.registry.answer = ServiceError("gone")
        self.loop.run_until_complete(self.instances.look_up())

    @rule(but=st.just(()) | st.sets(st.sampled_from(NAMES), max_size=2), calls=st.booleans())
    def choose(self, but: Collection[Instance], calls: bool) -> None:
        chosen = self.instances.choose(but)
        candidates = {one for one in self.known if one not in but and not self.rests(one)}
        if not candidates and not but:
            candidates = self.known
        if not candidates:
            assert chosen is None
            return
        assert chosen in candidates
        assert chosen == min(candidates, key=lambda one: (self.in_flight(one), self.chosen_at[one])) or (
            self.chosen_at[chosen] == 0  # of those never chosen any will do
            and self.in_flight(chosen) == min(map(self.in_flight, candidates))
        )
        self.choices += 1
        self.chosen_at[chosen] = self.choices
        if calls:
            call = self.instances.call(chosen)
            call.__enter__()
            self.calls.append((chosen, call))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def call_ends(self, data: st.DataObject) -> None:
        _, call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        call.__exit__(None, None, None)

    @rule(which=st.sampled_from(NAMES), times=st.integers(1, 4))
    def unreachable(self, which: Instance, times: int) -> None:
        fail(self.instances, which, times)
        if self.remembered(which):
            self.failures[which] += times
            self.failed_at[which] = self.clock.now
        if which in self.missing and self.missing != self.known:
            self.known.discard(which)
            self.missing.discard(which)
            self.forget_the_unknown()

    @rule(which=st.sampled_from(NAMES))
    def reached(self, which: Instance) -> None:
        self.instances.reached(which)
        self.failures[which] = 0

    @rule(seconds=st.sampled_from([0.25, 9.75, 10.0, 19.75, 30.0, 300.0]))  # sums of these are exact
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def known_are_those_named_last_or_missed_for_a_while(self) -> None:
        assert set(self.instances.current) == self.known
        assert (self.instances.problem is None) == bool(self.known)


TestChoosing = Choosing.TestCase
TestChoosing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(count=st.integers(1, 5), choices=st.integers(1, 60))
def test_equal_loads_take_turns(count: int, choices: int) -> None:
    instances = looked_up(*NAMES[:count])
    chosen = Counter(instances.choose() for _ in range(choices))
    assert max(chosen.values()) - min(chosen.get(name, 0) for name in NAMES[:count]) <= 1


@given(ends=st.lists(st.integers(0, 9), max_size=60))
def test_a_call_always_goes_to_where_the_fewest_are_in_flight(ends: list[int]) -> None:
    instances = looked_up(A, B, C)
    calls: list[tuple[Instance, ExitStack]] = []
    for end in ends:
        loads = Counter(instance for instance, _ in calls)
        chosen = instances.choose()
        assert chosen is not None
        assert loads[chosen] == min(loads[name] for name in (A, B, C))
        calls.append((chosen, ExitStack()))
        calls[-1][1].enter_context(instances.call(chosen))
        if end < len(calls):
            calls.pop(end)[1].close()


def test_a_call_that_fails_is_in_flight_no_more() -> None:
    instances = looked_up(A, B)
    with suppress(ServiceError), instances.call(A):
        assert [instances.choose(), instances.choose()] == [B, B]
        raise ServiceError("no answer")
    assert {instances.choose(), instances.choose()} == {A, B}


@pytest.mark.parametrize(
    ("failures", "rest"), [(1, 0.0), (2, 0.0), (3, 10.0), (4, 20.0), (5, 30.0), (6, 30.0), (2_000, 30.0)]
)
def test_it_rests_after_three_failures_in_a_row(failures: int, rest: float) -> None:
    clock = Clock()
    instances = looked_up(A, B, now=clock)
    fail(instances, A, failures)
    clock.now += rest - 0.001
    assert ({instances.choose() for _ in range(4)} == {A, B}) == (rest == 0.0)
    clock.now += 0.001
    assert {instances.choose() for _ in range(4)} == {A, B}


def test_a_rest_counts_from_the_last_failure() -> None:
    clock = Clock()
    instances = looked_up(A, B, now=clock)
    fail(instances, A, 2)
    clock.now += 100
    fail(instances, A, 1)
    clock.now += 9.5
    assert instances.choose(but=[B]) is None
    fail(instances, A, 1)
    clock.now += 19.5
    assert instances.choose(but=[B]) is None
    clock.now += 0.5
    assert instances.choose(but=[B]) == A


def test_one_success_forgets_all_failures() -> None:
    instances = looked_up(A, B)
    fail(instances, A, 7)
    instances.reached(A)
    fail(instances, A, 2)
    assert {instances.choose() for _ in range(4)} == {A, B}


def test_when_all_rest_the_least_loaded_is_called_but_never_by_a_retry() -> None:
    instances = looked_up(A, B)
    fail(instances, A, 3)
    fail(instances, B, 3)
    with instances.call(A):
        assert [instances.choose(), instances.choose()] == [B, B]
        assert instances.choose(but=[A]) is None


def test_a_retry_never_goes_to_the_same_instance() -> None:
    assert looked_up(A).choose(but=[A]) is None
    assert {looked_up(A, B, C).choose(but=[A, C]) for _ in range(4)} == {B}


def test_an_instance_that_vanished_is_chosen_no_more_and_keeps_its_calls_if_it_returns() -> None:
    registry = Registry(A, B)
    instances = Instances("history", registry, Clock())

    async def scenario() -> None:
        await instances.look_up()
        with instances.call(A), instances.call(A):
            registry.knows(B)
            await instances.look_up()
            assert {instances.choose() for _ in range(4)} == {B}
            registry.knows(A, B)
            await instances.look_up()
            with instances.call(B):
                assert {instances.choose() for _ in range(4)} == {B}

    asyncio.run(scenario())


def test_counters_survive_a_look_up() -> None:
    instances = looked_up(A, B)
    fail(instances, A, 3)
    asyncio.run(instances.look_up())
    assert {instances.choose() for _ in range(4)} == {B}


def test_what_is_known_serves_on_while_the_registry_is_gone_which_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = Registry(A)
    instances = Instances("history", registry)
    caplog.set_level(logging.INFO, "prana_proxy.gateway.instances")

    async def scenario() -> None:
        await instances.look_up()
        assert caplog.messages == []
        registry.answer = ServiceError("no registry answers")
        for _ in range(3):
            await instances.look_up()
        assert (instances.choose(), instances.problem) == (A, None)
        registry.knows(A, B)
        for _ in range(3):
            await instances.look_up()
        assert set(instances.current) == {A, B}

    asyncio.run(scenario())
    assert caplog.messages == [
        "service 'history': instances: no registry answers; the last known 1 stay in use",
        "service 'history': instances can be looked up again: 2",
    ]


def test_without_instances_it_says_why() -> None:
    registry, clock = Registry(A), Clock()
    instances = Instances("history", registry, clock)

    async def scenario() -> None:
        assert instances.choose() is None
        assert instances.problem == "no instance: they have not been looked up yet"
        registry.answer = ServiceError("no registry answers")
        await instances.look_up()
        assert instances.problem == "no instance: no registry answers"
        registry.knows(A)
        await instances.look_up()
        assert instances.problem is None
        registry.knows()
        clock.now += 301
        await instances.look_up()
        assert (instances.choose(), instances.problem) == (None, "no instance: nobody is there")

    asyncio.run(scenario())


@pytest.mark.parametrize("trouble", [ServiceError("gone"), RuntimeError("a defect"), None])
def test_opening_never_fails_and_goes_on_trying(trouble: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prana_proxy.gateway.instances._RETRY_SECONDS", 0.01)
    registry = Registry()
    registry.answer = trouble or registry.answer
    instances = Instances("history", registry)

    async def scenario() -> None:
        await instances.open()
        assert instances.problem is not None
        await until(lambda: registry.asked > 2)
        registry.knows(A)
        await until(lambda: instances.current == (A,))
        await instances.close()

    asyncio.run(scenario())
    assert registry.closed


def test_a_registry_that_hangs_is_given_up_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prana_proxy.gateway.instances._LOOK_UP_SECONDS", 0.01)
    monkeypatch.setattr("prana_proxy.gateway.instances._RETRY_SECONDS", 0.01)
    registry = Registry(A)
    registry.hangs = True
    instances = Instances("history", registry)

    async def scenario() -> None:
        await instances.open()
        assert instances.problem == "no instance: no answer within 0.01 s"
        registry.hangs = False
        await until(lambda: instances.current == (A,))
        await instances.close()

    asyncio.run(scenario())


def test_it_looks_up_again_as_often_as_the_answer_says_until_it_is_closed() -> None:
    registry = Registry(A, fresh_seconds=0.01)
    instances = Instances("history", registry)

    async def scenario() -> None:
        await instances.open()
        await until(lambda: registry.asked > 3)
        await instances.close()
        assert len(asyncio.all_tasks()) == 1  # this one

    asyncio.run(scenario())
    assert registry.closed


def test_a_look_up_under_way_does_not_hold_up_its_end() -> None:
    registry = Registry(A, fresh_seconds=0.01)
    instances = Instances("history", registry)

    async def scenario() -> None:
        await instances.open()
        registry.hangs = True
        await until(lambda: registry.asked > 1)
        async with asyncio.timeout(5):
            await instances.close()

    asyncio.run(scenario())
    assert registry.closed


def test_what_never_ages_is_looked_up_once() -> None:
    registry = Registry(A)
    instances = Instances("history", registry)

    async def scenario() -> None:
        await instances.open()
        assert len(asyncio.all_tasks()) == 1  # this one
        await instances.close()

    asyncio.run(scenario())
    assert registry.asked == 1


def test_an_emptied_registry_drops_no_instance_for_five_minutes_and_is_asked_again_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, clock = Registry(A, B), Clock()
    instances = Instances("history", registry, clock)

    async def scenario() -> None:
        await instances.look_up()
        registry.knows()
        for seconds in (0, 150, 150):
            clock.now += seconds
            assert await instances.look_up() == 2.0
            fail(instances, A, 1)  # which drops nobody while no other is named
            assert set(instances.current) == {A, B}
        clock.now += 1
        await instances.look_up()
        assert instances.problem == "no instance: nobody is there"
        registry.knows(B)
        assert await instances.look_up() == 30.0
        assert instances.current == (B,)

    asyncio.run(scenario())
    assert caplog.messages[0] == "service 'history': instances: nobody is there; the last known 2 stay in use"


def test_a_registry_that_suddenly_names_few_is_doubted_until_the_others_cannot_be_reached() -> None:
    registry, clock = Registry(*NAMES), Clock()
    instances = Instances("history", registry, clock)

    async def scenario() -> None:
        await instances.look_up()
        registry.knows(A)
        assert await instances.look_up() == 2.0
        assert set(instances.current) == set(NAMES)
        fail(instances, B, 1)
        fail(instances, A, 1)
        assert set(instances.current) == set(NAMES) - {B}
        clock.now += 301
        assert await instances.look_up() == 30.0
        assert instances.current == (A,)

    asyncio.run(scenario())


def test_a_registry_that_names_half_of_them_or_as_many_others_is_believed() -> None:
    registry = Registry(*NAMES[:4])
    instances = Instances("history", registry, Clock())

    async def scenario() -> None:
        await instances.look_up()
        for names in (NAMES[:2], NAMES[3:], NAMES[2:3]):
            registry.knows(*names)
            await instances.look_up()
            assert set(instances.current) == set(names)

    asyncio.run(scenario())


def test_what_the_registry_withdraws_by_name_is_dropped_at_once() -> None:
    registry = Registry(*NAMES)
    instances = Instances("history", registry, Clock())

    async def scenario() -> None:
        await instances.look_up()
        registry.answer = DiscoveryResult((), 30.0, "none is well", frozenset(NAMES[1:]))
        await instances.look_up()
        assert instances.current == (A,)
        registry.answer = DiscoveryResult((), 30.0, "none is well", frozenset(NAMES))
        await instances.look_up()
        assert instances.problem == "no instance: none is well"

    asyncio.run(scenario())

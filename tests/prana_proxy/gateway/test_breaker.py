"""The breaker by Hystrix's rules: two processes' breakers over one page, against a naive model, on their own clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from prana_proxy.gateway.breaker import Breaker, BreakerRules, BreakerState
from prana_proxy.gateway.shared_counters import SharedCounters

RULES = BreakerRules()
PROBE_SECONDS = 7.0


@dataclass
class Clock:
    seconds: float = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Model:
    """The rules as they are written: each outcome is kept with its time, nothing is summed up.

    turn: counts the changes of state; prober: the process whose call tries
    run: outcomes since the last success, each with its beginning, its end and whether it is known to have failed
    """

    state: str = "closed"
    turn: int = 0
    since: float = 0.0
    prober: int | None = None
    forced: str | None = None
    outcomes: list[tuple[float, bool]] = field(default_factory=list)
    run: list[tuple[float, float, bool]] = field(default_factory=list)

    def change(self, state: str, now: float) -> None:
        self.state, self.turn, self.since, self.prober = state, self.turn + 1, now, None
        if state == "closed":
            self.outcomes, self.run = [], []

    def may_enter(self, now: float) -> bool:
        if self.forced:
            return self.forced == "closed"
        lost = PROBE_SECONDS + 1 if self.state == "half_open" and self.prober is not None else 0
        return self.state == "closed" or now >= self.since + max(5, lost)

    def admit(self, process: int, now: float) -> int | None:
        """Give the turn in which the call began; -1 for one that counts for nothing."""
        if not self.may_enter(now):
            return None
        if self.forced:
            return -1
        if self.state != "closed":
            self.change("half_open", now)
            self.prober = process
        return self.turn

    def tell(self, turn: int, outcome: str, now: float, seconds: float) -> None:
        if turn != self.turn:
            return
        if self.state == "half_open":
            self.change("closed" if outcome in ("succeeded", "refused") else "open", now)
            if outcome == "withdrawn":
                self.since = now - 5
        elif outcome in ("succeeded", "failed"):
            self.outcomes.append((now, outcome == "failed"))
            last = [failed for at, failed in self.outcomes if int(at) > int(now) - 10]
            if len(last) >= 20 and sum(last) >= len(last) / 2:
                self.change("open", now)
        if self.state == "closed" and outcome in ("succeeded", "failed", "cut"):
            self.go_on(outcome, now - (seconds if outcome == "failed" else 0.0), now)

    def go_on(self, outcome: str, began: float, now: float) -> None:
        if outcome == "succeeded" or (self.run and began - self.run[-1][1] >= 10):
            self.run = []
        if outcome == "succeeded":
            return
        self.run.append((began, now, outcome == "failed"))
        failed = sum(known for _, _, known in self.run)
        if failed >= 5 and (len(self.run) >= 20 or now - min(began for began, _, _ in self.run) >= 10):
            self.change("open", now)


@dataclass
class Permit:
    process: int
    life: int  # of the process
    permit: int
    turn: int


PROCESSES = st.integers(0, 1)
OUTCOMES = st.sampled_from(["succeeded", "failed", "failed", "refused", "abandoned", "withdrawn", "cut", "cut"])


class BreakerMachine(RuleBasedStateMachine):
    """Calls begin and end in any order and in either process, while time goes on and processes die."""

    permits = Bundle("permits")

    @initialize(began=st.sampled_from([0.0, 0.25, 1_000.0, 86_400.75]))
    def begin(self, began: float) -> None:
        first = SharedCounters(2, 0)
        assert first.handle is not None
        self.shared = [first, SharedCounters(2, 1, os.dup(first.handle))]
        self.clock, self.model, self.lives = Clock(began), Model(), [0, 0]
        self.breakers = [Breaker(RULES, counters.page("s"), self.clock, PROBE_SECONDS) for counters in self.shared]

    def teardown(self) -> None:
        for counters in getattr(self, "shared", ()):
            counters.close()

    @rule(seconds=st.sampled_from([0.25, 0.75, 1.0, 3.5, 4.75, 5.0, 9.0, 10.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule(target=permits, process=PROCESSES)
    def call(self, process: int) -> object:
        permit = self.admit(process)
        return multiple() if permit is None else permit

    @rule(permit=consumes(permits), outcome=OUTCOMES, seconds=st.sampled_from([0.0, 2.0, 30.0]))
    def end(self, permit: Permit, outcome: str, seconds: float) -> None:
        if permit.life == self.lives[permit.process]:
            self.tell(permit, outcome, seconds)

    @rule(process=PROCESSES, pause=st.sampled_from([0.25, 0.5, 2.0, 9.75, 10.0]), cut=st.integers(0, 3))
    def hang(self, process: int, pause: float, cut: int) -> None:
        for _ in range(6):
            self.wait(pause)
            self.call_often(process, ["failed"] + ["cut"] * cut)

    @rule(process=PROCESSES, seconds=st.sampled_from([0.0, 4.75, 5.0]))
    def trip(self, process: int, seconds: float) -> None:
        self.call_often(process, ["failed"] * 20)
        self.wait(seconds)

    @rule(process=PROCESSES, outcomes=st.lists(OUTCOMES, min_size=5, max_size=20))
    def call_often(self, process: int, outcomes: list[str]) -> None:
        for outcome in outcomes:
            if permit := self.admit(process):
                self.tell(permit, outcome)

    @rule(process=PROCESSES)
    def die(self, process: int) -> None:
        self.lives[process] += 1
        self.shared[1 - process].forget(process)
        self.shared[process].release("s")  # in its place another process begins, and uses the page again
        self.shared[process].page("s")
        if self.model.prober == process:
            self.model.prober = None

    @rule(forced=st.sampled_from([None, None, "open", "closed"]))
    def force(self, forced: Literal["open", "closed"] | None) -> None:
        self.model.forced = forced
        for breaker in self.breakers:
            breaker.rules = replace(RULES, forced=forced)

    @invariant()
    def both_see_what_the_model_says(self) -> None:
        for breaker in getattr(self, "breakers", ()):
            assert breaker.state == (self.model.forced or self.model.state)
            assert breaker.refuses == (not self.model.may_enter(self.clock.seconds))

    def admit(self, process: int) -> Permit | None:
        permit, turn = self.breakers[process].admit(), self.model.admit(process, self.clock.seconds)
        assert (permit is None) == (turn is None)
        return None if permit is None or turn is None else Permit(process, self.lives[process], permit, turn)

    def tell(self, permit: Permit, outcome: str, seconds: float = 0.0) -> None:
        more = (seconds,) if outcome == "failed" else ()
        getattr(self.breakers[permit.process], outcome)(permit.permit, *more)
        self.model.tell(permit.turn, outcome, self.clock.seconds, seconds)


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters() -> Iterator[SharedCounters]:
    counters = SharedCounters()
    yield counters
    counters.close()


@pytest.fixture
def breaker(counters: SharedCounters, clock: Clock) -> Breaker:
    return Breaker(RULES, counters.page("s"), clock)


def run(breaker: Breaker, failed: int, succeeded: int = 0) -> None:
    for outcome in (breaker.failed,) * failed + (breaker.succeeded,) * succeeded:
        permit = breaker.admit()
        assert permit is not None
        outcome(permit)


@pytest.mark.parametrize(("failed", "succeeded", "state"), [(19, 0, "closed"), (10, 11, "closed"), (9, 11, "closed")])
def test_it_stays_closed_below_twenty_calls_and_below_half_of_them_failed(
    breaker: Breaker, failed: int, succeeded: int, state: str
) -> None:
    run(breaker, 0, succeeded)
    run(breaker, failed)
    assert breaker.state == state


def test_it_opens_at_twenty_calls_of_which_half_failed_whichever_comes_last(breaker: Breaker, clock: Clock) -> None:
    run(breaker, 10, 9)
    assert breaker.state is BreakerState.CLOSED
    run(breaker, 0, 1)
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit() is None


def test_calls_count_for_the_bucket_they_fall_in_and_nine_before(breaker: Breaker, clock: Clock) -> None:
    run(breaker, 19)
    clock.seconds += 10.0
    run(breaker, 19)  # the first ones have just left the window
    assert breaker.state is BreakerState.CLOSED
    clock.seconds += 9.75
    run(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_it_sleeps_five_seconds_then_lets_exactly_one_call_try(breaker: Breaker, clock: Clock) -> None:
    run(breaker, 20)
    clock.seconds += 4.999
    assert breaker.refuses
    assert breaker.admit() is None
    clock.seconds += 0.001
    assert not breaker.refuses
    assert [breaker.admit() is None for _ in range(5)] == [False, True, True, True, True]
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_success_closes_it_and_forgets_the_past(breaker: Breaker, clock: Clock) -> None:
    run(breaker, 20)
    clock.seconds += 5.0
    run(breaker, 0, 1)
    assert breaker.state is BreakerState.CLOSED
    run(breaker, 19)
    assert breaker.state is BreakerState.CLOSED


def test_what_was_sent_before_it_opened_changes_nothing_later(breaker: Breaker, clock: Clock) -> None:
    late = [permit for _ in range(40) if (permit := breaker.admit()) is not None]
    run(breaker, 20)
    clock.seconds += 4.0
    for permit in late[:20]:
        breaker.failed(permit)  # does not lengthen the sleep
    clock.seconds += 1.0
    run(breaker, 0, 1)
    for permit in late[20:]:
        breaker.failed(permit)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(("before", "after"), [(10.0, 100.0), (100.0, 10.0), (10.0, 7.0)])
def test_another_window_counts_the_calls_that_lie_in_it(
    breaker: Breaker, clock: Clock, before: float, after: float
) -> None:
    breaker.rules = replace(RULES, window_seconds=before)
    run(breaker, 19)
    clock.seconds += 2 * max(before, after)
    breaker.rules = replace(RULES, window_seconds=after)
    run(breaker, 19)  # those before are past in any window
    assert breaker.state is BreakerState.CLOSED
    run(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_it_opens_when_few_calls_all_fail_for_a_whole_window(breaker: Breaker, clock: Clock) -> None:
    # Hanging calls hold the service's only place for 2.5 s each: no window will ever contain twenty.
    for call in range(5):
        permit = breaker.admit()
        assert permit is not None, call
        clock.seconds += 2.5
        breaker.failed(permit, 2.5)
    assert breaker.state is BreakerState.OPEN


def test_one_success_among_few_calls_keeps_it_closed(breaker: Breaker, clock: Clock) -> None:
    for call in range(20):
        permit = breaker.admit()
        assert permit is not None
        clock.seconds += 2.5
        breaker.failed(permit, 2.5) if call % 4 else breaker.succeeded(permit)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(("failed", "cut", "state"), [(4, 16, "closed"), (5, 14, "closed"), (5, 15, "open")])
def test_calls_that_were_cut_count_beside_five_that_failed_when_none_succeeded(
    breaker: Breaker, failed: int, cut: int, state: str
) -> None:
    for _ in range(cut):
        permit = breaker.admit()
        assert permit is not None
        breaker.cut(permit)
    run(breaker, failed)
    assert breaker.state == state


def test_calls_that_were_cut_never_open_it_while_others_succeed(breaker: Breaker, clock: Clock) -> None:
    for _ in range(20):
        for _ in range(19):
            permit = breaker.admit()
            assert permit is not None
            breaker.cut(permit)
        run(breaker, 0, 1)
        clock.seconds += 0.5
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("outcome", ["cut", "abandoned", "failed"])
def test_a_probe_without_a_success_is_followed_by_another_only_after_the_open_period(
    breaker: Breaker, clock: Clock, outcome: str
) -> None:
    run(breaker, 20)
    clock.seconds += 5.0
    probe = breaker.admit()
    assert probe is not None
    getattr(breaker, outcome)(probe)
    clock.seconds += 4.75
    assert breaker.admit() is None
    clock.seconds += 0.25
    assert breaker.admit() is not None


def test_a_probe_that_was_never_sent_lets_another_call_try_at_once(breaker: Breaker, clock: Clock) -> None:
    run(breaker, 20)
    clock.seconds += 5.0
    probe = breaker.admit()
    assert probe is not None
    breaker.withdrawn(probe)
    assert breaker.admit() is not None


def test_a_probe_whose_process_stands_still_is_lost_after_the_longest_that_a_call_may_take(
    counters: SharedCounters, clock: Clock
) -> None:
    breaker = Breaker(RULES, counters.page("s"), clock, probe_seconds=7.0)
    run(breaker, 20)
    clock.seconds += 5.0
    lost = breaker.admit()
    assert lost is not None
    clock.seconds += 7.75
    assert breaker.admit() is None
    clock.seconds += 0.25
    assert breaker.admit() is not None
    breaker.succeeded(lost)  # it comes to nothing
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_process_that_dies_again_and_again_with_its_probe_does_not_probe_more_often(
    counters: SharedCounters, clock: Clock
) -> None:
    breaker, probes = Breaker(RULES, counters.page("s"), clock), 0
    run(breaker, 20)
    for _ in range(100):
        clock.seconds += 0.25
        probes += breaker.admit() is not None
        counters.forget(0)
    assert probes == 5


def test_a_breaker_that_is_no_longer_forced_knows_what_it_knew(breaker: Breaker) -> None:
    run(breaker, 19)
    breaker.rules = replace(RULES, forced="closed")
    run(breaker, 100)
    breaker.rules = RULES
    assert breaker.state is BreakerState.CLOSED
    run(breaker, 1)
    assert breaker.state is BreakerState.OPEN

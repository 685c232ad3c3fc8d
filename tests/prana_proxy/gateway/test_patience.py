"""Budget, timeout, abandonment, probes, retries and queues together: a service's callers as a state machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from virtual_time import VirtualLoop

from prana_proxy.gateway.admission import AdmissionControl
from prana_proxy.gateway.answers import Answers, Reply
from prana_proxy.gateway.batching import Caller, RequestBatcher
from prana_proxy.gateway.breaker import BreakerState
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import Instance, open_discovery
from prana_proxy.gateway.guard import Guard
from prana_proxy.gateway.instances import Instances
from prana_proxy.gateway.limits import Limits
from prana_proxy.gateway.services import Key
from prana_proxy.gateway.shared_counters import ProcessField, SharedCounters
from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status

TIMEOUT, SLEEP = 1.0, 5.0
SERVICE = Service("s", service_element("e", pa.int64()), (context_variable("k", "int64"),))
CONFIG = ServiceConfig(SERVICE, "http://a:1/{k}", discovery="static://a:1,b:1", timeout_seconds=TIMEOUT)
BEHAVIOURS = {"ok": 0.01, "slow": 0.7, "late": 1.1, "hang": 3600.0, "error": 0.02}
BUDGETS = st.sampled_from([0.02, 0.3, 0.6, 0.9, 5.0])
EPSILON = 1e-4  # turns of the virtual loop take time


@dataclass
class Request:
    """What the service sees. probe: whether the breaker was not closed when it was sent."""

    sent_at: float
    behaviour: str
    probe: bool
    ended_at: float | None = None

    def failed(self, now: float) -> bool:
        """Whether it has failed by now: by the service's doing, whatever its caller's patience."""
        if self.behaviour in ("ok", "slow"):
            return False
        ends = self.sent_at + min(TIMEOUT, BEHAVIOURS[self.behaviour])
        return now + EPSILON >= ends and (self.ended_at is None or self.ended_at + EPSILON >= ends)


@dataclass(eq=False)
class Visit:
    """One caller and its question."""

    deadline: float
    task: asyncio.Task[None]
    hung_up: bool = False


@dataclass
class Served:
    """What the service has been sent, and how it behaves."""

    behaviour: str = "ok"
    requests: list[Request] = field(default_factory=list)
    closed_at: int = 0  # requests that had been sent when the breaker was closed last


class PatienceMachine(RuleBasedStateMachine):
    """Callers come with any patience, hang up and wait, while the service changes."""

    @initialize(at_once=st.sampled_from([1, 2, 3, 10]), idempotent=st.booleans())
    def begin(self, at_once: int, idempotent: bool) -> None:
        self.loop, self.counters, self.served, self.at_once = VirtualLoop(), SharedCounters(), Served(), at_once
        config = replace(CONFIG, limits=Limits(at_once), idempotent=idempotent, retry_share=1.0)
        instances = Instances("s", open_discovery(CONFIG.discovery or ""), self.loop.time)
        self.loop.run_until_complete(instances.open())
        self.controls = AdmissionControl(config, self.counters.page("s"), self.loop.time)
        self.calls = RequestBatcher(
            Guard(config, self.serve, instances, self.controls), 1, 0.0, at_once, lambda _: None
        )
        self.visits: list[Visit] = []
        self.questions = 0

    async def serve(self, _: Instance, keys: Sequence[Key], __: float) -> Sequence[Reply]:
        state, now = self.controls.breaker.state, self.loop.time()
        request = Request(now, self.served.behaviour, state is not BreakerState.CLOSED)
        self.check_probe(request)
        self.served.requests.append(request)
        try:
            await asyncio.sleep(BEHAVIOURS[request.behaviour])
        finally:
            request.ended_at = self.loop.time()
        reply = Reply.failed(Status.ERROR, "HTTP 500") if request.behaviour == "error" else Reply(Status.OK, 7, 1)
        return [reply] * len(keys)

    def check_probe(self, request: Request) -> None:
        if not request.probe:
            return
        assert not any(other.probe and other.ended_at is None for other in self.served.requests)
        earlier = [other for other in self.served.requests[self.served.closed_at :] if other.probe]
        assert all(request.sent_at >= other.sent_at + SLEEP - EPSILON for other in earlier), "probed too often"

    def call(self, budget: float) -> Visit:
        self.questions += 1
        deadline = self.loop.time() + budget
        answers = Answers(SERVICE, 1)
        key = (self.questions,)

        async def ask() -> None:
            await self.calls.ask(Caller(answers, [0], [key]), deadline)

        visit = Visit(deadline, self.loop.create_task(ask()))
        self.visits.append(visit)
        return visit

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        if self.controls.breaker.state is BreakerState.CLOSED:
            self.served.closed_at = len(self.served.requests)
        self.visits = [visit for visit in self.visits if not visit.task.done()]

    @rule(behaviour=st.sampled_from(sorted(BEHAVIOURS)))
    def change(self, behaviour: str) -> None:
        self.served.behaviour = behaviour

    @rule(callers=st.integers(1, 12), budget=BUDGETS, seconds=st.sampled_from([0.0, 0.01, 0.3]))
    def ask(self, callers: int, budget: float, seconds: float) -> None:
        for _ in range(callers):
            self.call(budget)
        self.run(seconds)

    @rule(budget=BUDGETS, times=st.integers(5, 40), pause=st.sampled_from([0.05, 0.25]))
    def ask_often(self, budget: float, times: int, pause: float) -> None:
        for _ in range(times):
            self.call(budget)
            self.run(pause)
            self.nothing_is_held_beyond_the_limits()

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.0, 4.9, 5.1, 20.0]))
    def wait(self, seconds: float) -> None:
        self.run(seconds)

    @rule(which=st.integers(0, 20))
    def hang_up(self, which: int) -> None:
        if self.visits:
            visit = self.visits[which % len(self.visits)]
            visit.hung_up = True
            visit.task.cancel()
            self.run(0.01)

    @invariant()
    def nothing_is_held_beyond_the_limits(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.run(0.0)
        under_way = [request for request in self.served.requests if request.ended_at is None]
        page, now = self.controls.page, self.loop.time()
        assert len(under_way) <= page.total(ProcessField.IN_FLIGHT) <= self.at_once
        assert page.total(ProcessField.ABANDONED) <= (self.at_once + 1) // 2 + 1  # a probe may be one more
        assert all(now <= request.sent_at + TIMEOUT + EPSILON for request in under_way)
        assert all(now <= visit.deadline + EPSILON for visit in self.visits), "waited beyond its deadline"

    @invariant()
    def only_a_service_that_fails_is_left_alone(self) -> None:
        if hasattr(self, "loop") and self.controls.breaker.state is not BreakerState.CLOSED:
            failed = [request for request in self.served.requests if request.failed(self.loop.time())]
            assert len(failed) >= 5

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.served.behaviour = "hang"
        self.wait(10.1)  # what was well before leaves the window
        self.ask_often(0.3, 80, 0.25)
        assert self.controls.breaker.state is not BreakerState.CLOSED, "a hanging service is asked on and on"
        self.served.behaviour = "ok"
        self.wait(SLEEP + TIMEOUT)
        self.ask(1, 0.02, 0.3)
        assert self.controls.breaker.state is BreakerState.CLOSED
        assert all(
            self.controls.page.total(number) == 0.0
            for number in (ProcessField.OUT, ProcessField.ABANDONED, ProcessField.WAITING)
        )
        assert self.controls.page.total(ProcessField.IN_FLIGHT) == 0.0
        assert self.calls.idle
        self.counters.close()
        self.loop.close()


PatienceMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestPatience = PatienceMachine.TestCase

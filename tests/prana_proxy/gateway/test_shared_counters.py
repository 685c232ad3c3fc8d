"""What several real processes know together, and what stays of one that dies or stops."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prana_proxy.gateway import shared_counters as counters_module
from prana_proxy.gateway.shared_counters import (
    IN_PROGRESS,
    MOST_PROCESSES,
    MOST_SERVICES,
    ProcessField,
    ServiceField,
    SharedCounters,
)
from schemas.errors import ConfigError

CONNECTIONS = 4  # of each process: so many it does at a time
TAKER = Path(__file__).with_name("taker.py")


@dataclass
class Hand:
    """What takes and gives places in another process."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def do(self, command: str) -> str:
        self.writer.write(f"{command}\n".encode())
        return (await self.reader.readline()).decode().strip()


@dataclass
class Processes:
    """Processes that share a counters with this one, which is the last of them."""

    counters: SharedCounters
    hands: list[list[Hand]]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def until_it_waits(self, process: int) -> None:
        while not self.counters.page("s").processes[process][ProcessField.WAITING_SINCE]:
            await asyncio.sleep(0.001)

    def kill(self, process: int) -> None:
        self.running[process].kill()
        self.running[process].wait()


@asynccontextmanager
async def started(count: int, most: int, folder: Path) -> AsyncIterator[Processes]:
    counters = SharedCounters(count + 1, count)
    assert counters.handle is not None
    processes = Processes(counters, [[] for _ in range(count)])
    ready = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        processes.hands[int(await reader.readline())].append(Hand(reader, writer))
        if all(len(hands) == CONNECTIONS for hands in processes.hands):
            ready.set()

    async with await asyncio.start_unix_server(greet, folder / "socket"):
        for process in range(count):
            arguments = [str(n) for n in (counters.handle, count + 1, process, most, CONNECTIONS)]
            command = [sys.executable, str(TAKER), *arguments, str(folder / "socket")]
            processes.running.append(subprocess.Popen(command, pass_fds=[counters.handle]))
        try:
            await asyncio.wait_for(ready.wait(), 60)
            yield processes
        finally:
            for process in range(count):
                processes.kill(process)
            for hand in (hand for hands in processes.hands for hand in hands):
                hand.writer.close()
            counters.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 120))


def test_however_many_processes_take_places_never_one_too_many_is_taken_and_none_starves(tmp_path: Path) -> None:
    async def work() -> None:
        most, times = 4, Counter[int]()
        in_flight = most_in_flight = 0

        async def hammer(process: int, hand: Hand) -> None:
            nonlocal in_flight, most_in_flight
            while times.total() < 900:
                assert await hand.do("take") == "done"
                times[process] += 1
                in_flight += 1  # after it was taken and until before it is given: never too large
                most_in_flight = max(most_in_flight, in_flight)
                await asyncio.sleep(random.uniform(0, 0.003))
                in_flight -= 1
                await hand.do("give")

        async with started(3, most, tmp_path) as processes:
            hands = [(i, hand) for i, hands in enumerate(processes.hands) for hand in hands]
            await asyncio.gather(*(hammer(i, hand) for i, hand in hands))
            assert processes.counters.page("s").total(ProcessField.IN_FLIGHT) == 0.0
        assert most_in_flight == most
        assert min(times[i] for i in range(3)) >= 150  # half of what is fair

    run(work())


def test_the_places_of_a_process_that_was_killed_are_free_once_it_is_forgotten(tmp_path: Path) -> None:
    async def work() -> None:
        async with started(2, 2, tmp_path) as processes:
            (first, second, *_), (other, *_) = processes.hands
            assert [await hand.do("take") for hand in (first, second)] == ["done"] * 2
            waiting = asyncio.ensure_future(other.do("take"))
            await processes.until_it_waits(1)
            processes.kill(0)
            await asyncio.wait([waiting], timeout=0.1)
            assert not waiting.done()  # nobody knows yet that it is dead
            processes.counters.forget(0)
            assert await waiting == "done"

    run(work())


def test_a_process_that_is_killed_holding_the_lock_keeps_nobody_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with started(2, 1, tmp_path) as processes:
            await processes.hands[0][0].do("lock")
            waiting = asyncio.ensure_future(processes.hands[1][0].do("take"))
            await asyncio.wait([waiting], timeout=0.1)
            assert not waiting.done()
            processes.kill(0)
            assert await waiting == "done"

    run(work())


def test_a_process_that_stands_still_while_it_waits_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async def work() -> None:
        async with started(3, 1, tmp_path) as processes:
            stopped, holder, other = (hands[0] for hands in processes.hands)
            assert await holder.do("take") == "done"
            first = asyncio.ensure_future(stopped.do("take"))
            await processes.until_it_waits(0)
            processes.running[0].send_signal(signal.SIGSTOP)
            second = asyncio.ensure_future(other.do("take"))
            await processes.until_it_waits(2)
            await holder.do("give")
            assert await second == "done"
            assert not first.done()
            processes.running[0].send_signal(signal.SIGCONT)
            await other.do("give")
            assert await first == "done"

    run(work())


@pytest.fixture
def shared() -> Any:
    first = SharedCounters(3, 0)
    assert first.handle is not None
    shared = [first, SharedCounters(3, 1, os.dup(first.handle)), SharedCounters(3, 2, os.dup(first.handle))]
    yield shared
    for counters in shared:
        counters.close()


def test_processes_see_the_same_numbers_of_a_service_and_other_ones_of_another(shared: list[SharedCounters]) -> None:
    for name, process in (("a", 0), ("b", 1), ("a", 1)):
        shared[process].page(name).own[ProcessField.QUEUED] += 1
        shared[process].page(name).shared[ServiceField.RATE_NEXT] += 1
    assert [counters.services() for counters in shared] == [["a", "b"]] * 3
    assert [shared[2].page(name).total(ProcessField.QUEUED) for name in ("a", "b")] == [2.0, 1.0]
    assert [shared[2].page(name).shared[ServiceField.RATE_NEXT] for name in ("a", "b")] == [2.0, 1.0]
    assert [part[ProcessField.QUEUED] for part in shared[2].page("a").processes] == [1.0, 1.0, 0.0]


def test_what_a_dead_process_counted_stays_and_what_it_had_under_way_goes(shared: list[SharedCounters]) -> None:
    own = shared[1].page("a").own
    for number in range(len(own)):
        own[number] = 7.0
    shared[0].forget(1)
    assert [own[number] for number in range(len(own))] == [0.0 if i in IN_PROGRESS else 7.0 for i in range(len(own))]


def test_numbers_of_one_kind_do_not_lie_on_those_of_another(shared: list[SharedCounters]) -> None:
    page = shared[0].page("a")
    for views in (page.shared, *page.processes):
        for number in range(len(views)):
            assert views[number] == float(views is page.own and number == ProcessField.USED)
            views[number] = 1.0
    assert not any(shared[0].page("b").shared)


def test_a_service_more_than_there_is_room_for_is_refused(shared: list[SharedCounters]) -> None:
    for i in range(2 * MOST_SERVICES):  # before and after a change of all names
        shared[i % 3].page(f"service {i}")
    assert not shared[0].has_room("one more")
    with pytest.raises(ConfigError, match="more than 256 services → divide them over several proxies"):
        shared[0].page("one more")
    assert len(shared[1].services()) == 2 * MOST_SERVICES
    shared[0].page("service 0")


def test_names_may_come_and_go_without_end(shared: list[SharedCounters]) -> None:
    shared[1].page("stays").own[ProcessField.CALLS] = 5.0
    for i in range(3_000):
        page = shared[i % 3].page(f"service {i}")
        assert page.total(ProcessField.CALLS) == page.shared[ServiceField.BREAKER_STATE] == 0.0
        page.own[ProcessField.CALLS] = page.shared[ServiceField.BREAKER_STATE] = 1.0
        shared[i % 3].release(f"service {i}")
    assert shared[2].services() == ["stays"]
    assert shared[0].page("stays").total(ProcessField.CALLS) == 5.0
    assert shared[2].page("service 2999").shared[ServiceField.BREAKER_STATE] == 1.0  # what comes back soon goes on


def test_a_dead_process_s_services_leave_room_and_what_others_use_stays(shared: list[SharedCounters]) -> None:
    for i in range(2 * MOST_SERVICES):
        shared[1].page(f"service {i}").own[ProcessField.IN_FLIGHT] = 1.0
    shared[2].page("service 7")
    shared[0].forget(1)
    assert shared[0].services() == ["service 7"]
    for i in range(2 * MOST_SERVICES - 1):
        shared[0].page(f"other {i}")
    assert "service 7" in shared[0].services()


SLOTS = 4


class CountersMachine(RuleBasedStateMachine):
    """Processes open, write, release and die in any order; each page holds what its service's users wrote."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(counters_module, "_SLOTS", SLOTS)
        self.patch.setattr(counters_module, "_NAMES", SLOTS * 256)
        first = SharedCounters(2, 0)
        assert first.handle is not None
        self.shared = [first, SharedCounters(2, 1, os.dup(first.handle))]
        self.users: dict[str, set[int]] = {}
        self.calls: dict[str, float] = {}

    def teardown(self) -> None:
        for counters in getattr(self, "shared", ()):
            counters.close()
        if hasattr(self, "patch"):
            self.patch.undo()

    @rule(process=st.integers(0, 1), name=st.sampled_from("abcdefgh"))
    def open(self, process: int, name: str) -> None:
        room = self.shared[process].has_room(name)
        in_use = [one for one, users in self.users.items() if users]
        assert room or (len(in_use) == SLOTS and name not in in_use)
        if not room:
            with pytest.raises(ConfigError, match="more than"):
                self.shared[process].page(name)
            return
        page = self.shared[process].page(name)
        if self.users.setdefault(name, set()):
            assert page.total(ProcessField.CALLS) == self.calls[name]
        else:
            assert page.total(ProcessField.CALLS) in (0.0, self.calls.get(name, 0.0))  # new, or as it was left
            self.calls[name] = page.total(ProcessField.CALLS)
        self.users[name].add(process)
        page.own[ProcessField.CALLS] += 1.0
        self.calls[name] += 1.0

    @rule(process=st.integers(0, 1), name=st.sampled_from("abcdefgh"))
    def release(self, process: int, name: str) -> None:
        self.shared[process].release(name)
        self.users.get(name, set()).discard(process)

    @rule(process=st.integers(0, 1))
    def die(self, process: int) -> None:
        self.shared[1 - process].forget(process)
        handle = os.dup(self.shared[1 - process].handle or 0)
        self.shared[process].close()
        self.shared[process] = SharedCounters(2, process, handle)
        for users in self.users.values():
            users.discard(process)

    @invariant()
    def all_see_what_is_used(self) -> None:
        for counters in getattr(self, "shared", ()):
            assert set(counters.services()) == {name for name, users in self.users.items() if users}
            for name, page in counters.pages().items():
                assert page.total(ProcessField.CALLS) == self.calls[name]


CountersMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestCountersMachine = CountersMachine.TestCase


def test_a_name_too_long_is_refused(shared: list[SharedCounters]) -> None:
    shared[0].page("é" * 127)
    assert shared[1].services() == ["é" * 127]
    with pytest.raises(ConfigError, match="has a name of 256 bytes → use at most 254"):
        shared[0].page("é" * 128)


@pytest.mark.parametrize(("processes", "process"), [(0, 0), (2, 2), (2, -1), (MOST_PROCESSES + 1, 0)])
def test_more_processes_than_there_is_room_for_are_refused(processes: int, process: int) -> None:
    with pytest.raises(ConfigError, match=f"process {process} of {processes}"):
        SharedCounters(processes, process)


def test_counters_of_one_process_need_no_handle() -> None:
    counters = SharedCounters()
    assert counters.handle is None
    counters.page("s").own[ProcessField.CALLS] += 1
    counters.close()

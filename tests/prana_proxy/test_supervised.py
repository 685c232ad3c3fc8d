"""Background work that fails in every way is run again, counted, and says what is wrong."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest
from proxy_process import until
from virtual_time import run_virtually

from prana_proxy import supervised
from prana_proxy.supervised import Supervised, SupervisedThread, failures, problems, supervise
from schemas.errors import ServiceError

FAILURES = [ValueError("a driver's"), ServiceError.because("ours"), SystemExit(1), KeyboardInterrupt()]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervised, "_FIRST_PAUSE", 0.01)
    yield
    assert problems() == []


@pytest.mark.parametrize("error", [*FAILURES, None], ids=repr)
def test_a_thread_s_work_runs_again_whatever_ends_it(error: BaseException | None) -> None:
    turns = 0

    def work(thread: SupervisedThread) -> None:
        nonlocal turns
        turns += 1
        if turns > 3:
            thread.works()
            thread.stopping.wait()
        elif error is not None:
            raise error

    before = failures()
    with SupervisedThread("work", work) as thread:
        until(lambda: turns == 4 and thread.problem is None)
        assert thread.failures == 3
    assert failures() == before + 3
    assert not any(thread.name == "work" for thread in threading.enumerate())


def test_what_is_wrong_is_reported_with_its_beginning_and_without_a_stranger_s_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = [ValueError("user:secret@host"), ServiceError.because("the registry is gone")]
    now = threading.Event()

    def step() -> None:
        if errors:
            raise errors[0]
        now.set()

    with SupervisedThread.every(0.01, "look", step) as thread:
        until(lambda: thread.problem is not None)
        assert (thread.problem or "").startswith("ValueError, since 20")
        assert problems() == [f"look: {thread.problem}"]
        del errors[0]
        until(lambda: "the registry is gone, since " in (thread.problem or ""))
        errors.clear()
        assert now.wait(20)
        until(lambda: thread.problem is None)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert lines[0].startswith("background_failed work=look reason=ValueError in_a_row=1 again_in_seconds=")
    assert not any("secret" in line for line in lines)


def test_pauses_grow_to_a_minute_and_begin_anew_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    one = Supervised("one")
    assert [one.failed(ValueError()) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [one.failed(ValueError()) for _ in range(5_000)][-1] == 60
    one.works()
    assert one.failed(ValueError()) == 1


def test_a_task_s_work_runs_again_until_it_is_cancelled() -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ValueError
        if turns == 2:
            return
        if turns == 3:
            raise asyncio.CancelledError  # by itself: nobody cancelled the task
        await asyncio.sleep(3600)

    async def main(_: object) -> int:
        one = Supervised("task")
        task = asyncio.create_task(supervise(one, work))
        await asyncio.sleep(60)
        assert turns == 4
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return one.failures

    assert run_virtually(main) == 3

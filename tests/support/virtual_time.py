"""An event loop on which time passes only when everybody waits: hours in milliseconds, the same every time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
START = 1_000.0
_STEP = 1e-9  # what a turn of the loop takes: else whoever waits for less than a clock can tell would wait for ever


class _Selector(selectors.DefaultSelector):
    """Moves the clock on instead of waiting."""

    now = START

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits for something that will never happen")
        self.now += max(_STEP, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in the order of their times."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtually(work: Callable[[Callable[[], float]], Coroutine[Any, Any, _T]]) -> _T:
    """Run work to its end. It is given the loop's clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        return runner.run(work(loop.time))

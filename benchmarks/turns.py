"""Times several ways of doing the same thing, in turns, so that a busy moment of the machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

_Name = TypeVar("_Name")


def seconds_in_turns(
    ways: Mapping[_Name, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[_Name, list[float]]:
    """Run all ways in turns, after a turn that does not count, and return the seconds of each run.

    clock: `time.thread_time` for work of one thread, which then does not count the turns of other processes
    """
    seconds: dict[_Name, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = clock()
            run()
            if turn:
                seconds[name].append(clock() - start)
    return seconds

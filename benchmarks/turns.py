"""Times several ways of doing the same thing, in turns, so that a busy moment of the machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

_Name = TypeVar("_Name")


def seconds_in_turns(ways: Mapping[_Name, Callable[[], object]], repeats: int) -> dict[_Name, list[float]]:
    """Run all ways in turns, after a turn that does not count, and return the seconds of each run."""
    seconds: dict[_Name, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds

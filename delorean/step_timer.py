"""Wall time of named steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimer:
    """Adds up the wall time of each step, also of one that fails.

    seconds: step → seconds so far, in the order in which steps first ended

    >>> timer = StepTimer()
    >>> with timer.step("read"):
    ...     _ = sum(range(10))
    >>> list(timer.seconds)
    ['read']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        """Return the seconds of each step, rounded to milliseconds."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}

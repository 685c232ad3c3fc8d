"""How far long work is, on stderr, so that stdout is left to documents: bars on a terminal, elsewhere some lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_WINDOW_SECONDS = 30.0  # over which a rate is measured
_LINE_SECONDS = 10.0


class Meter:
    """The rate at which something gets done, and the time left.

    clock: gives seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._started = clock()
        self._ended: float | None = None
        self._done = self._total = 0

    @property
    def ended(self) -> bool:
        """Whether all is done."""
        return self._ended is not None

    def note(self, done: int, total: int) -> None:
        """Take how much is done, of how much in all."""
        now = self._clock()
        self._done, self._total = done, total
        if done < total:
            self._ended = None
        elif self._ended is None:
            self._ended = now
        if done == 0:
            self._seen.clear()  # what came before the work is no work
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_SECONDS:
            self._seen.popleft()

    def rate(self) -> float:
        """Give how much was done each second of late."""
        if not self._seen:
            return 0.0
        since, done = self._seen[0]
        return (self._done - done) / max(self._clock() - since, 1e-3)

    def __str__(self) -> str:
        """Say it in words."""
        counted = f"{self._done:,} of {self._total:,}"
        if self._ended is not None:
            return f"{counted} in {spoken(self._ended - self._started)}"
        rate = self.rate()
        if rate <= 0:
            return counted
        return f"{counted}, {_rate(rate)}/s, {spoken((self._total - self._done) / rate)} left"


class Lines:
    """Says every ten seconds how far each thing is, by a line; of what takes less, nothing."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._meters: dict[str, Meter] = {}
        self._told_at: dict[str, float] = {}
        self._long: set[str] = set()

    def advance(self, what: str, done: int, total: int) -> None:
        """Take how much of something is done."""
        now = self._clock()
        meter = self._meters.setdefault(what, Meter(self._clock))
        had_ended = meter.ended
        meter.note(done, total)
        due = now - self._told_at.setdefault(what, now) >= _LINE_SECONDS
        if not had_ended and (due or (meter.ended and what in self._long)):
            self._long.add(what)
            self._told_at[what] = now
            self._write(f"{what}: {meter}\n")


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function of (what, done, all) that draws a bar for each thing on stderr's terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Told(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(str(task.fields["meter"]))

    columns = TextColumn("{task.description}", markup=False), BarColumn(), Told()
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        tasks: dict[str, Any] = {}
        meters: dict[str, Meter] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                meters[what] = Meter()
                tasks[what] = drawn.add_task(what, total=total, meter=meters[what])
            meters[what].note(done, total)
            drawn.update(tasks[what], completed=done, total=total)

        yield advance


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function of (what, done, all) that tells people on stderr: by bars on a terminal, else by lines."""
    if sys.stderr.isatty():
        with bars() as advance:
            yield advance
    else:
        yield Lines(sys.stderr.write).advance


def spoken(seconds: float) -> str:
    """Say how long something takes, as exactly as anybody wants to know.

    >>> [spoken(seconds) for seconds in (0.4, 59.6, 90, 3_600, 7_500)]
    ['0 s', '1 min', '1 min 30 s', '1 h', '2 h 5 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h" + (f" {minutes} min" if minutes else "")


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"

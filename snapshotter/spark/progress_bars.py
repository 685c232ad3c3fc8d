"""How far long work is: bars in a notebook and on a terminal, elsewhere some lines.

Commands tell it on stderr, so that stdout is left to documents. Called from Python, work tells it where somebody
watches, in a notebook or at a prompt; a script hears nothing that it has not asked for.
"""

from __future__ import annotations

import html
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from schemas.plain_text import plain_text

Progress = Callable[[str, int, int], None]
_MOMENT_SECONDS = 1.0  # of what takes no longer a notebook shows no bar
_DRAW_SECONDS = 0.2
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

    @property
    def share(self) -> float:
        """How much of all is done."""
        return self._done / self._total if self._total else 1.0

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
            self._write(plain_text(f"{what}: {meter}") + "\n")


class CellBars:
    """A bar for each thing below a notebook's cell; of what takes but a moment, none. Nothing but HTML is needed.

    show: given what is to be shown, and whether it is shown already
    """

    def __init__(self, show: Callable[[CellBars, bool], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._show, self._clock = show, clock
        self._meters: dict[str, Meter] = {}
        self._began = clock()
        self._shown_at: float | None = None

    def advance(self, what: str, done: int, total: int) -> None:
        """Take how much of something is done."""
        now = self._clock()
        meter = self._meters.setdefault(what, Meter(self._clock))
        meter.note(done, total)
        if self._shown_at is None:
            due = now - self._began >= _MOMENT_SECONDS and not meter.ended
        else:
            due = now - self._shown_at >= _DRAW_SECONDS or meter.ended
        if due:
            self._show(self, self._shown_at is not None)
            self._shown_at = now

    def __repr__(self) -> str:
        """Write the bars."""
        return "\n".join(plain_text(f"{what}: {meter}") for what, meter in self._meters.items())

    def _repr_html_(self) -> str:
        return "".join(
            f'<div>{html.escape(plain_text(what))} <span style="display:inline-block;width:8em">'
            f'<span style="display:block;height:.6em;background:#4a8fd4;width:{meter.share:.1%}"></span></span> '
            f"{html.escape(str(meter))}</div>"
            for what, meter in self._meters.items()
        )


@contextmanager
def bars() -> Iterator[Progress]:
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
                tasks[what] = drawn.add_task(plain_text(what), total=total, meter=meters[what])
            meters[what].note(done, total)
            drawn.update(tasks[what], completed=done, total=total)

        yield advance


@contextmanager
def progress() -> Iterator[Progress]:
    """Give a function of (what, done, all) that tells people on stderr: by bars on a terminal, else by lines."""
    if sys.stderr.isatty():
        with bars() as advance:
            yield advance
    else:
        yield Lines(sys.stderr.write).advance


@contextmanager
def watched(given: Progress | None) -> Iterator[Progress | None]:
    """Give the function that was given; without one, where somebody watches, one that draws bars; else None."""
    shell = _ipython()
    if given is not None:
        yield given
    elif hasattr(shell, "kernel"):
        yield _below_the_cell().advance
    elif (shell is not None or hasattr(sys, "ps1")) and sys.stderr.isatty():
        with bars() as advance:
            yield advance
    else:
        yield None


@contextmanager
def counted(what: str, given: Callable[[int, int], None] | None) -> Iterator[Callable[[int, int], None] | None]:
    """Do as `watched` with a function of (done, all), for work that is one thing only."""
    with watched(None if given is None else lambda _, done, total: given(done, total)) as advance:
        yield None if advance is None else lambda done, total: advance(what, done, total)


def _ipython() -> Any:
    """Give IPython's shell, if this process is one."""
    found = sys.modules.get("IPython")
    return None if found is None else found.get_ipython()


def _below_the_cell() -> CellBars:
    from IPython.display import display

    shown: list[Any] = []

    def show(drawn: CellBars, again: bool) -> None:
        if again:
            shown[0].update(drawn)
        else:
            shown.append(display(drawn, display_id=True))  # type: ignore[no-untyped-call]  # IPython's

    return CellBars(show)


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

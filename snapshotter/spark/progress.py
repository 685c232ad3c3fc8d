"""Shows how far long work is: by bars on a terminal or in a notebook, by lines elsewhere.

Commands always show it, on stderr, which leaves stdout to documents. Work that is called from Python shows it only at a
prompt or in a notebook, or by the function it is given: a script's output stays its own.

rich measures rates and draws the bars. In notebooks its table is displayed as HTML, so ipywidgets are not needed, which
rich's own display and tqdm's would require, and several bars at once work too, which text bars in a cell do not.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from schemas.plain_text import plain_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task

Progress = Callable[[str, int, int], None]
"""A function to report to: what is being done, how many of it are done, and how many there are."""

_RATE_SECONDS = 30.0  # over which a rate is measured
_BRIEF_SECONDS = 1.0  # work that takes no longer gets no bar in a notebook
_DRAW_SECONDS = 0.2
_LINE_SECONDS = 10.0
_NOTEBOOK_COLUMNS = 100


class ProgressTable:
    """A row for each kind of work: its name, a bar, the amount done, the rate and the time left.

    clock: returns seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        class Status(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(status_text(task))

        self.drawn = Progress(
            *(TextColumn("{task.description}", markup=False), BarColumn(), Status()),
            console=console or Console(file=io.StringIO(), force_jupyter=False),
            transient=True,
            speed_estimate_period=_RATE_SECONDS,
            get_time=clock,
        )
        self._rows: dict[str, Task] = {}

    def report(self, what: str, done: int, total: int) -> None:
        """Take how many are done of how many."""
        self.update(what, done, total)

    def update(self, what: str, done: int, total: int) -> Task:
        """Take how many are done of how many, and return the row."""
        if what not in self._rows:
            self.drawn.add_task(plain_text(what), total=total, advanced_at=self.drawn.get_time())
            self._rows[what] = self.drawn.tasks[-1]
        row = self._rows[what]
        row.total = total  # Progress.update(total=…) would forget the rate, and estimates of the total change often
        if done > row.completed:
            row.fields["advanced_at"] = row.get_time()
        if done < total:
            row.finished_time = None
        self.drawn.update(row.id, completed=done)
        return row


class ProgressLines:
    """Writes a line about each kind of work every ten seconds and at its end; none about work that takes less."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._table = ProgressTable(clock)
        self._written_at: dict[str, float] = {}
        self._long: set[str] = set()
        self._finished: set[str] = set()

    def report(self, what: str, done: int, total: int) -> None:
        """Take how many are done of how many."""
        now = self._clock()
        row = self._table.update(what, done, total)
        due = now - self._written_at.setdefault(what, now) >= _LINE_SECONDS
        if what not in self._finished and (due or (row.finished and what in self._long)):
            self._long.add(what)
            self._written_at[what] = now
            self._write(plain_text(f"{what}: {status_text(row)}") + "\n")
        (self._finished.add if row.finished else self._finished.discard)(what)


class NotebookBars:
    """Bars below a notebook's cell, drawn once the work has taken a second, and redrawn in place.

    display: called with the bars by MIME type, and whether they replace those displayed before
    """

    def __init__(
        self, display: Callable[[dict[str, str], bool], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._display, self._clock = display, clock
        self._table = ProgressTable(clock)
        self._began = clock()
        self._drawn_at: float | None = None

    def report(self, what: str, done: int, total: int) -> None:
        """Take how many are done of how many."""
        now = self._clock()
        row = self._table.update(what, done, total)
        if self._drawn_at is None:
            due = now - self._began >= _BRIEF_SECONDS and not row.finished
        else:
            due = now - self._drawn_at >= _DRAW_SECONDS or row.finished
        if due:
            self._display(self._by_mime_type(), self._drawn_at is not None)
            self._drawn_at = now

    def _by_mime_type(self) -> dict[str, str]:
        from rich.console import Console

        console = Console(file=io.StringIO(), record=True, width=_NOTEBOOK_COLUMNS, force_jupyter=False)
        console.print(self._table.drawn.get_renderable())
        html = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>", clear=False)
        return {"text/html": html, "text/plain": console.export_text()}


@contextmanager
def shown_progress(progress: Progress | None) -> Iterator[Progress]:
    """Yield the function to report to, for work that is called from Python.

    progress: None: bars in a notebook or at a prompt; in a script nothing is shown
    """
    shell = _ipython()
    if progress is not None:
        yield progress
    elif hasattr(shell, "kernel"):
        yield _notebook_bars().report
    elif (shell is not None or hasattr(sys, "ps1")) and sys.stderr.isatty():
        with _terminal_bars() as report:
            yield report
    else:
        yield lambda *_: None


@contextmanager
def command_progress() -> Iterator[Progress]:
    """Yield the function to report to, for a command: bars on stderr if it is a terminal, else lines."""
    if sys.stderr.isatty():
        with _terminal_bars() as report:
            yield report
    else:
        yield ProgressLines(sys.stderr.write).report


def status_text(row: Task) -> str:
    """Return the amount done with the rate and the time left, or the time it took.

    Work that made no progress for as long as rates are measured shows no rate: the last one says nothing any more.
    """
    counted = f"{row.completed:,.0f} of {row.total or 0:,.0f}"
    if row.finished_time is not None:
        return f"{counted} in {rounded_duration_text(row.finished_time)}"
    if not row.speed or row.time_remaining is None or row.get_time() - row.fields["advanced_at"] > _RATE_SECONDS:
        return counted
    rate = f"{row.speed:,.0f}" if row.speed >= 10 else f"{row.speed:.2g}"
    return f"{counted}, {rate}/s, {rounded_duration_text(row.time_remaining)} left"


def rounded_duration_text(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> [rounded_duration_text(seconds) for seconds in (0.4, 59.6, 90, 3_600, 7_500)]
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


@contextmanager
def _terminal_bars() -> Iterator[Progress]:
    from rich.console import Console

    table = ProgressTable(console=Console(stderr=True))
    with table.drawn:
        yield table.report


def _notebook_bars() -> NotebookBars:
    from IPython.display import display

    handles: list[Any] = []

    def show(bars: dict[str, str], replace: bool) -> None:
        if replace:
            handles[0].update(bars, raw=True)
        else:
            handles.append(display(bars, raw=True, display_id=True))  # type: ignore[no-untyped-call]  # IPython's

    return NotebookBars(show)


def _ipython() -> Any:
    """Return IPython's shell if this process runs one."""
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()

"""Progress bars for the steps of the demo, on stderr, with the time of each step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from delorean.step_timer import StepTimer


class StepBars:
    """A bar for each step; a context manager.

    steps: name → description
    console: None means stderr
    """

    def __init__(self, steps: Mapping[str, str], console: Console | None = None) -> None:
        # A duplicate of stderr, because stderr itself is redirected while Spark starts.
        self._stderr = None if console is not None else os.fdopen(os.dup(2), "w")
        console = console or Console(file=self._stderr)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[took]}"),
        )
        self._bars = Progress(*columns, console=console)
        self._tasks: dict[str, TaskID] = {
            name: self._bars.add_task(text, start=False, total=1, took="") for name, text in steps.items()
        }
        self._timer = StepTimer()

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds of each step so far."""
        return {**dict.fromkeys(self._tasks, 0.0), **self._timer.rounded()}

    @contextmanager
    def step(self, name: str, of: int = 1) -> Iterator[None]:
        """Time a step, or one of its `of` parts; the times of parts add up."""
        task = self._tasks[name]
        if not self._bars.tasks[task].started:
            self._bars.start_task(task)
        self._bars.update(task, total=of)
        try:
            with self._timer.step(name):
                yield
        finally:
            self._bars.update(task, took=f"{self.seconds[name]:.1f} s")
        done = self._bars.tasks[task].completed
        self._bars.update(task, completed=min(of, int(done) + 1))
        if done + 1 >= of:
            self._bars.stop_task(task)

    def show(self, name: str, done: int, total: int) -> None:
        """Set the progress of a step that counts its own parts."""
        self._bars.update(self._tasks[name], completed=done, total=total)

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Leave the bars on the screen; after an error only those of started steps."""
        for task in self._bars.tasks:
            task.visible = error is None or task.started
        self._bars.stop()
        if self._stderr is not None:
            self._stderr.close()

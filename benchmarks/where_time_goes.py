"""Samples where a running Python process spends its time, by py-spy, which need not be installed otherwise."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Self

from rich.table import Table

from benchmarks.load_report import CONSOLE
from schemas.errors import SetupError

ROWS = 25
WAITING = ("wait", "accept", "select", "_worker", "read")  # where an idle thread stands


class Profile:
    """Samples a process, and those it has started, while the context lasts; then prints the tables.

    Raises SetupError without py-spy.
    """

    def __init__(self, pid: int, out: Path) -> None:
        self.pid, self.out = pid, out
        spy = shutil.which("py-spy")
        if spy is None:
            raise SetupError.because("--profile needs py-spy on the PATH", "uv tool install py-spy")
        self.command = [spy, "record", "--subprocesses", "--rate", "200", "--format", "raw", "--output", str(out)]

    def __enter__(self) -> Self:
        self._spy = subprocess.Popen(
            [*self.command, "--pid", str(self.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._spy.send_signal(signal.SIGINT)
        self._spy.wait(60)
        if self.out.exists():  # else it was not allowed to look
            self._show()

    def _show(self) -> None:
        own: Counter[str] = Counter()
        within: Counter[str] = Counter()
        for line in self.out.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            frames = [_short(frame) for frame in stack.split(";") if ".py:" in frame]
            if frames and not frames[-1].split(".")[-1].endswith(WAITING):
                own[frames[-1]] += int(count)
                within.update(dict.fromkeys(frames, int(count)))
        total = max(sum(own.values()), 1)
        for title, counts in (("itself", own), ("with what it calls", within)):
            table = Table(title=f"Where the proxy's threads were, {total:,} samples of work: the function {title}")
            table.add_column("", justify="right")
            table.add_column("function")
            for name, samples in counts.most_common(ROWS):
                table.add_row(f"{samples / total:.1%}", name)
            CONSOLE.print(table)


def _short(frame: str) -> str:
    """Leave the last two parts of the path, and no line."""
    name, _, place = frame.partition(" (")
    return f"{'/'.join(place.split(':')[0].rstrip(')').split('/')[-2:])} {name}"

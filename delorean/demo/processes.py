"""Starts processes and stops every one of them, however the work ends.

Each runs in a session of its own (Ctrl-C reaches only the demo, which then stops them in order) and is killed by the
kernel should the demo itself be killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

from schemas.errors import SetupError

_GRACE_SECONDS: Final = 5.0
_LAST_WORDS: Final = 1500  # characters of a process's log that an error shows

# Asks Linux to end this process with its parent, then becomes the program. A parent that died before is seen by its id.
_TETHER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Running:
    """A started process. log: what it prints."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """Give the end of what it printed."""
        return self.log.read_text(errors="replace")[-_LAST_WORDS:].strip()

    def wait_for(self, line: str, patience_seconds: float = 120.0) -> str:
        """Wait for a line that has a pattern; give what its group matched.

        Raises SetupError if the process ends or is silent for too long.
        """
        deadline = time.monotonic() + patience_seconds
        while True:
            ended = self.process.poll()
            if found := re.search(line, self.log.read_text(errors="replace")):
                return found[1]
            if ended is not None:
                raise SetupError.because(f"{self.name} ended with {ended}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise SetupError.because(f"{self.name} did not print '{line}' in time: {self.last_words()}")
            time.sleep(0.05)


@dataclass
class Processes:
    """A context manager that stops, at its end, everything started through it.

    logs: folder for the processes' output
    """

    logs: Path
    running: list[Running] = field(default_factory=list)
    _files: list[IO[bytes]] = field(default_factory=list)

    def start(self, name: str, arguments: Sequence[str], program: str = sys.executable, **environment: str) -> Running:
        """Start a program, by default Python, with arguments as a process of its own.

        environment: variables beside those of this process
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        output = log.open("wb")
        self._files.append(output)
        command = [sys.executable, "-c", _TETHER, str(os.getpid()), program, *arguments]
        process = subprocess.Popen(  # noqa: S603  # our own programs
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment},
        )
        self.running.append(Running(name, process, log))
        return self.running[-1]

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ask all to stop, the last started first, and kill what does not; a second Ctrl-C does not interrupt this."""
        for running in reversed(self.running):
            _signal_group(running.process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for running in reversed(self.running):
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                running.process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(running.process, signal.SIGKILL)
            running.process.wait()
        for output in self._files:
            output.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a process and all that it started: it leads a group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

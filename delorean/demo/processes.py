"""Starts child processes and stops all of them, however the work ends.

Each runs in its own session, so Ctrl-C reaches only the parent, which then stops them in order. If the parent is
killed, the kernel terminates them.
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
_PATIENCE_SECONDS: Final = 60.0  # until a process that is stopped alone has finished
_LOG_TAIL: Final = 1500  # characters of a process's log that an error shows

# Asks Linux to terminate this process with its parent, then executes the program. A changed parent id shows that the
# parent died before that.
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
    """A started process. log: the file of its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_tail(self) -> str:
        """Return the end of its output."""
        return self.log.read_text(errors="replace")[-_LOG_TAIL:].strip()

    def wait_for(self, line: str, patience_seconds: float = 120.0) -> str:
        """Wait until the output matches a pattern; return its first group.

        Raises SetupError if the process ends or does not print it in time.
        """
        deadline = time.monotonic() + patience_seconds
        while True:
            ended = self.process.poll()
            if found := re.search(line, self.log.read_text(errors="replace")):
                return found[1]
            if ended is not None:
                raise SetupError.because(f"{self.name} ended with {ended}: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise SetupError.because(f"{self.name} did not print '{line}' in time: {self.log_tail()}")
            time.sleep(0.05)


@dataclass
class Processes:
    """A context manager that stops, at its end, all processes started through it.

    logs: folder of the processes' output
    """

    logs: Path
    running: list[Running] = field(default_factory=list)
    _files: list[IO[bytes]] = field(default_factory=list)

    def start(self, name: str, arguments: Sequence[str], program: str = sys.executable, **environment: str) -> Running:
        """Start a program, by default Python.

        environment: variables in addition to those of this process
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

    def stop(self, running: Running) -> None:
        """Terminate one process, and wait until it has finished its work. Raises SetupError if that takes too long."""
        _signal_group(running.process, signal.SIGTERM)
        try:
            running.process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SetupError.because(f"{running.name} does not stop: {running.log_tail()}") from error

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Terminate all, the last started first, then kill the rest. A second Ctrl-C does not interrupt this."""
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
    """Signal the process group that the process leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

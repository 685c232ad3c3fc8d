"""Peak memory of a Python worker and of the JVM, sampled while something runs."""

from __future__ import annotations

import threading
from typing import Self

import psutil

MIB = 2**20


class PeakMemory:
    """The largest resident size of one Python worker, and of the JVM, below this process; MiB."""

    def __init__(self, every: float = 0.05) -> None:
        self.every = every
        self.worker = self.jvm = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            for process in psutil.Process().children(recursive=True):
                try:
                    size = process.memory_info().rss / MIB
                    if process.name() == "java":
                        self.jvm = max(self.jvm, size)
                    else:
                        self.worker = max(self.worker, size)
                except psutil.Error:
                    continue  # it has just ended

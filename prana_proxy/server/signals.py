"""Signals that stop a proxy: the first gracefully, the second at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable


def stop_on_signals(at_once: Callable[[], None] = lambda: None) -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; on a second signal the process ends, after calling `at_once`.

    Call it on the event loop of the main thread, whose signal handlers also run while another thread holds a lock.
    """
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            at_once()
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    return stopping

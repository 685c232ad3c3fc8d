"""Signals that tell a proxy to stop: the first gracefully, the second at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable


def stop_on_signals(at_once: Callable[[], None] = lambda: None) -> asyncio.Event:
    """Give an event that SIGTERM and SIGINT set; on a second signal the process ends, after `at_once`.

    Call it on the event loop of the main thread: it wakes whichever thread the signal reaches, while the main one may
    wait on in a lock.
    """
    told = asyncio.Event()

    def stop(number: int) -> None:
        if told.is_set():
            at_once()
            os._exit(128 + number)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    return told

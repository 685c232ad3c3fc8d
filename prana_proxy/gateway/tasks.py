"""The tasks of one gateway, which end with it; its event loop may run others' tasks too."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskSet(set["asyncio.Task[Any]"]):
    """Running tasks. Unlike in `asyncio.TaskGroup`, one that fails does not cancel the others.

    What creates many short tasks adds and discards them itself: a callback per task would take 5% of a call's time.
    """

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task and keep it until it has ended."""
        task = asyncio.get_running_loop().create_task(work)
        self.add(task)
        task.add_done_callback(self.discard)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks = list(self)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

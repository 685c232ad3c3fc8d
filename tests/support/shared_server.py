"""Starts a server once for all processes that run the tests: whoever needs it first starts it, the last one ends it.

A process of its own keeps the server, since no worker of pytest-xdist is sure to outlive the others. It ends the server
once no worker holds the lock of its users any more, which the kernel releases for workers that die.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_START_SECONDS = 600.0  # it may have to be fetched first
_keepers: list[subprocess.Popen[bytes]] = []  # referenced, for they outlive this process


@contextmanager
def shared_server(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield what a server yields when it has started: its address, or whatever else JSON holds.

    server: `module:function`, a context manager in this folder that gets a folder of its own
    """
    module, _, function = server.partition(":")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with getattr(importlib.import_module(module), function)(tmp_path_factory.mktemp(module)) as value:
            yield value
        return
    folder = tmp_path_factory.getbasetemp().parent / module  # of all workers
    folder.mkdir(exist_ok=True)
    with (folder / "users").open("w") as users:
        with (folder / "start").open("w") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)  # after a keeper that is about to end has ended
            if not (folder / "ready.json").exists():
                _start(server, folder)
        yield json.loads((folder / "ready.json").read_text())


def _start(server: str, folder: Path) -> None:
    log = folder / "keeper.log"
    with log.open("w") as output:
        keeper = subprocess.Popen(
            [sys.executable, __file__, server, str(folder)],
            cwd=Path(__file__).resolve().parents[2],  # its modules are ours
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches it by the end of its users
        )
    _keepers.append(keeper)
    deadline = time.monotonic() + _START_SECONDS
    while not (folder / "ready.json").exists():
        assert keeper.poll() is None, f"{server} did not start: {log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"{server} did not start in time: {log.read_text()[-3000:]}"
        time.sleep(0.05)


def keep(server: str, folder: Path) -> None:
    """Run a server until it has no users."""
    module, _, function = server.partition(":")
    ready, own = folder / "ready.json", folder / "server"
    own.mkdir(exist_ok=True)
    with (folder / "users").open("w") as users, getattr(importlib.import_module(module), function)(own) as value:
        (folder / "ready.new").write_text(json.dumps(value))
        (folder / "ready.new").replace(ready)
        fcntl.flock(users, fcntl.LOCK_EX)  # waits for the last of them
        ready.unlink()


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]))

"""Small packages that differ only in what they say about their origin, and programs that use a registry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from pathlib import Path
from delorean.packaging.files import digest_of
from delorean.registry.package_files import packaged_files, upload
from delorean.registry.registry import Registry
from snapshotter.storage import open_storage

storage = open_storage(sys.argv[1])
registry = Registry(storage)

def stop(where):
    print(where, flush=True)
    sys.stdin.readline()
"""
# Stops when half of the files of a package are stored.
UPLOADING = """
written = 0
open_output = storage.open_output
def slow_output(path):
    global written
    written += 1
    if written == 5:
        stop("uploading")
    return open_output(path)
storage.open_output = slow_output
upload(storage, "registry/packages/half", packaged_files(Path(sys.argv[2])))
"""
# Stops right before, or right after, the write that moves a pointer.
MOVING = """
create = storage.create
def slow_create(path, data):
    if sys.argv[3] == "before":
        stop("moving")
    created = create(path, data)
    stop("moving")
    return created
storage.create = slow_create
registry.move("production", sys.argv[2], "a try")
"""
# Moves when it may, and reports whether it was the one.
RACING = """
from delorean import PointerMovedError
stop("ready")
try:
    registry.move("production", sys.argv[2], "faster", expected=sys.argv[3])
except PointerMovedError as error:
    print("lost", flush=True)
else:
    print("won", flush=True)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program, which prints a line where it stops, and goes on when it reads one."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM + program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )

"""A process that writes a file to a storage, and is killed in the middle of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

_WRITE_FOR_EVER = """
import sys
from snapshotter.storage import open_storage
with open_storage(sys.argv[1]).open_output("a/b.bin") as output:
    output.write(b"x" * int(sys.argv[2]))
    output.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def kill_a_writer(uri: str, size: int, **environment: str) -> None:
    """Let it write so many bytes of `a/b.bin`, then kill it."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOR_EVER, uri, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        os.kill(writer.pid, signal.SIGKILL)

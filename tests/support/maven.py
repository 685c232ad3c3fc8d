"""Servers for tests that come from Maven Central: fetched once, by the Ivy that pyspark ships, into a cache."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pyspark

FETCH_SECONDS = 270
BECOME = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"  # Processes starts Python, which then becomes Java


def run_ivy(arguments: Sequence[str], work: Path) -> str:
    """Let Ivy fetch something, with a cache of its own in a folder; give its output."""
    jars = Path(pyspark.__file__).parent / "jars"
    ivy = [str(jar) for pattern in ("ivy-*.jar", "commons-cli-*.jar") for jar in jars.glob(pattern)]
    command = [java(), "-cp", os.pathsep.join(ivy), "org.apache.ivy.Main", "-confs", "default", "-cache", "cache"]
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=work,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"nothing within {FETCH_SECONDS} s"
    return done.stdout


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "delorean"


def java() -> str:
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home, "bin", "java")) if home else shutil.which("java")
    assert program, "Java is missing"
    return program


def free_port(*hosts: str) -> int:
    """Find a port below the ephemeral ones, so that no outgoing connection takes it while the server is down."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for host in hosts or ("127.0.0.1",):
                stack.enter_context(socket.create_server((host, port)))
            return port

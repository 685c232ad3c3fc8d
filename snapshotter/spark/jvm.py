"""Starts Spark's JVM so that it never outlives a start that was broken off, and shows no secret in its command line.

pyspark's own launcher removes the folder where the JVM is to write its port when Ctrl-C ends the wait; the JVM then
finds no place to write to and stays for good. It also hands settings on as arguments, which `ps` shows to everybody.
"""

from __future__ import annotations

import os
import shlex
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pyspark
from pyspark import java_gateway

from schemas.errors import SetupError
from schemas.redaction import is_secret_setting

_POLL_SECONDS = 0.05
_STOP_SECONDS = 5.0
_PROPERTIES = "--properties-file"
_CONNECTION = "_PYSPARK_DRIVER_CONN_INFO_PATH"  # of the JVM's environment: the file where it writes port and secret
_PORT, _SECRET = "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"
_UNTOUCHED_BY_CTRL_C = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"]


def spark_submit() -> Path:
    """Name the program of the pyspark that is installed."""
    return Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent) / "bin" / "spark-submit"


@contextmanager
def spark_options(settings: Mapping[str, str]) -> Iterator[list[str]]:
    """Give the arguments of spark-submit that hand settings on; secret ones by a file that only this user may read."""
    secret = {name: value for name, value in settings.items() if is_secret_setting(name, value)}
    plain = [part for name, value in settings.items() if name not in secret for part in ("--conf", f"{name}={value}")]
    if not secret:
        yield plain
        return
    handle, name = tempfile.mkstemp(".conf", "delorean-")  # of mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{_escaped(name)}={_escaped(value)}\n" for name, value in secret.items())
        yield [_PROPERTIES, name, "--load-spark-defaults", *plain]
    finally:
        Path(name).unlink(missing_ok=True)


def launch(settings: Mapping[str, str]) -> Any:
    """Start a JVM and give the gateway to it; the JVM ends with this process, or when its standard input is closed.

    Whatever breaks the start off, Ctrl-C and SIGTERM too, ends the JVM. Raises SetupError when it ends by itself.
    """
    theirs = shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell"))
    if any(argument.partition("=")[0] == _PROPERTIES for argument in theirs):  # only one counts: the session gets ours
        settings = {name: value for name, value in settings.items() if not is_secret_setting(name, value)}
    with (
        tempfile.TemporaryDirectory(prefix="delorean-spark-") as folder,
        spark_options(settings) as options,
        _ended_by_sigterm(),
    ):
        file = Path(folder, "connection")
        command = [*_UNTOUCHED_BY_CTRL_C, str(spark_submit()), *options, *theirs]
        environment = {**os.environ, "SPARK_CONNECT_MODE": "0", _CONNECTION: str(file)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)  # noqa: S603  # Spark's program
        try:
            return _connected(process, file)
        except BaseException:  # an interrupt too must not leave a JVM behind
            _end(process)
            raise


def _connected(process: subprocess.Popen[bytes], file: Path) -> Any:
    """Wait until the JVM has written where it listens, and connect to it."""
    while not file.exists():
        code = process.poll()
        if code is not None:
            raise SetupError.because(
                f"Spark's Java ended with {code} before it was ready", "see what it wrote above, and correct [spark]"
            )
        time.sleep(_POLL_SECONDS)
    data = file.read_bytes()  # it got its name when it was whole: the port, the length of the secret, the secret
    port, length = struct.unpack_from("!ii", data)
    secret = data[8 : 8 + length].decode()
    os.environ.update({_PORT: str(port), _SECRET: secret})
    try:
        gateway: Any = java_gateway.launch_gateway()  # type: ignore[no-untyped-call]  # pyspark's
    finally:
        for name in (_PORT, _SECRET):  # whoever starts processes must not lead them to our JVM
            os.environ.pop(name, None)
    gateway.proc = process
    return gateway


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.stdin is not None  # it is a pipe
    with suppress(OSError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block in order, where it would end the process at once and leave files behind."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _escaped(text: str) -> str:
    """Write a name or a value as Java's properties have it."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


_ESCAPES: Mapping[str, str] = {
    **{letter: f"\\{letter}" for letter in "\\=:#! "},
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}

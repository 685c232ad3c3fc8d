"""Starts Spark's JVM so that it does not outlive an interrupted start, and has no secret in its command line.

When Ctrl-C interrupts pyspark's own launcher, it deletes the folder that the JVM is about to write its port to, and the
JVM then waits forever. It also passes settings as arguments, which `ps` shows to every user.
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
_CONNECTION = "_PYSPARK_DRIVER_CONN_INFO_PATH"  # the environment variable with the file for its port and secret
_PORT, _SECRET = "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"
_IGNORING_CTRL_C = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"]


def spark_submit() -> Path:
    """Return the path of the installed pyspark's program."""
    return Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent) / "bin" / "spark-submit"


@contextmanager
def spark_options(settings: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield spark-submit's arguments for settings; secret ones are in a file that only this user can read."""
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
    """Start a JVM and return the gateway to it; the JVM ends with this process, or when its standard input is closed.

    If the start is interrupted, also by Ctrl-C or SIGTERM, the JVM is ended. Raises SetupError if it ends by itself.
    """
    arguments = shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell"))
    if any(
        argument.partition("=")[0] == _PROPERTIES for argument in arguments
    ):  # only one counts: the session sets ours
        settings = {name: value for name, value in settings.items() if not is_secret_setting(name, value)}
    with (
        tempfile.TemporaryDirectory(prefix="delorean-spark-") as folder,
        spark_options(settings) as options,
        _exit_on_sigterm(),
    ):
        file = Path(folder, "connection")
        command = [*_IGNORING_CTRL_C, str(spark_submit()), *options, *arguments]
        environment = {**_own_logging(), **os.environ, "SPARK_CONNECT_MODE": "0", _CONNECTION: str(file)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)  # noqa: S603  # Spark's program
        try:
            return _connected(process, file)
        except BaseException:  # an interrupt too must not leave a JVM behind
            _end(process)
            raise


def _own_logging() -> dict[str, str]:
    """Return the variable that makes Spark log errors only, and no remarks on its start; none if the user chose."""
    chosen = Path(os.environ.get("SPARK_CONF_DIR") or spark_submit().parent.parent / "conf")
    if any(file.suffix != ".template" for file in chosen.glob("log4j2.*")):  # Spark's own download has a template
        return {}
    return {"LOG4J_CONFIGURATION_FILE": str(Path(__file__).with_name("log4j2.properties"))}


def _connected(process: subprocess.Popen[bytes], file: Path) -> Any:
    """Wait until the JVM has written its port, and connect to it."""
    while not file.exists():
        code = process.poll()
        if code is not None:
            raise SetupError.because(
                f"Spark's JVM exited with {code} before it was ready", "see its output above, and correct [spark]"
            )
        time.sleep(_POLL_SECONDS)
    data = file.read_bytes()  # complete: it is renamed after writing. The port, the secret's length, the secret
    port, length = struct.unpack_from("!ii", data)
    secret = data[8 : 8 + length].decode()
    os.environ.update({_PORT: str(port), _SECRET: secret})
    try:
        gateway: Any = java_gateway.launch_gateway()  # type: ignore[no-untyped-call]  # pyspark's
    finally:
        for name in (_PORT, _SECRET):  # child processes must not use our JVM
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
def _exit_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise SystemExit within the block; by default it ends the process and leaves files behind."""
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
    """Escape a name or a value for a file of Java properties."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


_ESCAPES: Mapping[str, str] = {
    **{letter: f"\\{letter}" for letter in "\\=:#! "},
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}

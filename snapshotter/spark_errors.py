"""Turns Spark's errors into the project's own: what a worker raised on purpose reaches the driver as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from schemas import errors
from schemas.errors import DeloreanError
from schemas.redaction import without_password

_OURS = re.compile(r"^schemas\.errors\.(\w+): (.*?)(?=\n\s*\n|\n\s+at |\Z)", re.MULTILINE | re.DOTALL)


@contextmanager
def spark_errors_as(kind: type[DeloreanError], doing: str) -> Iterator[None]:
    """Raise a worker's own DeloreanError again, and any other error of Spark as `kind` with its reason in short."""
    try:
        yield
    except Exception as error:
        if _is_sparks(error):
            raise _translated(str(error), kind, doing) from error
        raise


def _is_sparks(error: Exception) -> bool:
    """Tell without importing Spark, which who has no such error may not have."""
    return any(base.__module__.split(".")[0] in ("pyspark", "py4j") for base in type(error).__mro__)


def _translated(text: str, kind: type[DeloreanError], doing: str) -> DeloreanError:
    ours = list(_OURS.finditer(text))
    if ours:
        name, message = ours[-1].groups()  # of a chain the last is what left the worker
        raised: type[DeloreanError] = getattr(errors, name, DeloreanError)
        return raised(message)
    return kind.because(f"{doing}: {_short(text)}")


def _short(text: str) -> str:
    """Cut Spark's message down to its reason, without its plan and its Java stack."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    python = [line for line in lines if re.match(r"^[\w.]+(Error|Exception): ", line) and "org.apache" not in line]
    unborn = re.findall(r"Error from python worker:\s+(.+?)\s+PYTHONPATH was:", text, re.DOTALL)  # it never started
    java = [line.partition(": ")[2] for line in lines if line.startswith(": ")]  # below Py4J's "An error occurred …"
    line = [
        *(told.splitlines()[-1].strip() for told in unborn[:1]),
        *python[-1:],
        *java[:1],
        *lines[:1],
        "no reason given",
    ][0]
    return without_password(re.sub(r"\s*SQLSTATE: \w+.*$", "", line))[:500]

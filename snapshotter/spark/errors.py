"""Turns Spark's errors into the project's own; an error of ours that a worker raised reaches the driver unchanged."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from schemas import errors
from schemas.errors import DeloreanError
from schemas.redaction import without_password

# Classes of SQLSTATE caused by the query or its data, so that retries fail alike: cardinality and data exceptions,
# violated constraints, syntax and names, unsupported features, raise_error(). Others concern files and machines.
_QUERY_STATES = ("0A", "21", "22", "23", "42", "P0")
_STATE = re.compile(r"SQLSTATE: (\w\w)\w{3}")
_ANALYSIS_ERRORS = ("AnalysisException", "ParseException", "IllegalArgumentException", "PySparkTypeError")
# Up to a Java stack, or what a Spark Connect server adds.
_OURS = re.compile(r"^schemas\.errors\.(\w+): (.*?)(?=\n\s*\n|\n\s+at |\n\s*SQLSTATE: |\Z)", re.MULTILINE | re.DOTALL)

_raised: ContextVar[bool] = ContextVar("raised", default=False)  # whether errors are raised again as ours


@contextmanager
def spark_errors_as(kind: type[DeloreanError], doing: str) -> Iterator[None]:
    """Raise a DeloreanError that a worker raised again, and other errors of Spark as `kind`, with a short reason.

    Spark's own log of the error, with its stack as JSON, is off within the block: what is raised says the same.
    Where `kind` is final, and neither the query nor its data is the cause, as a JobError: a retry may succeed.
    """
    try:
        with _without_logged_stacks():
            yield
    except Exception as error:  # pyspark may not be installed, so its classes cannot be named
        if _is_spark_error(error):
            raise _translated(error, kind, doing) from error
        raise


@contextmanager
def _without_logged_stacks() -> Iterator[None]:
    """Drop what pyspark logs about an error in a query, in this thread, before it raises it."""
    try:
        from pyspark.logger import PySparkLogger
    except ImportError:
        yield
        return
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).addFilter(_is_logged)  # the same filter is added once
    before = _raised.get()
    _raised.set(True)
    try:
        yield
    finally:
        _raised.set(before)  # by no token: a generator's block may end in another thread


def _is_logged(_: logging.LogRecord) -> bool:
    return not _raised.get()


def _is_spark_error(error: Exception) -> bool:
    """Whether pyspark or py4j defines the error's class; by their names, since they may not be installed."""
    return any(base.__module__.split(".")[0] in ("pyspark", "py4j") for base in type(error).__mro__)


def _translated(error: Exception, kind: type[DeloreanError], doing: str) -> DeloreanError:
    text = str(error)
    ours = list(_OURS.finditer(text))
    if ours:
        name, message = ours[-1].groups()  # the last of a chain is what the worker raised
        raised: type[DeloreanError] = getattr(errors, name, DeloreanError)
        return raised(message)
    analysis = any(base.__name__ in _ANALYSIS_ERRORS for base in type(error).__mro__)
    same_again = not kind.final or analysis or any(state in _QUERY_STATES for state in _STATE.findall(text))
    return (kind if same_again else errors.JobError).because(f"{doing}: {_short(text)}")


def _short(text: str) -> str:
    """Return the reason in Spark's message, without its plan and its Java stack."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    python = [line for line in lines if re.match(r"^[\w.]+(Error|Exception): ", line) and "org.apache" not in line]
    not_started = re.findall(r"Error from python worker:\s+(.+?)\s+PYTHONPATH was:", text, re.DOTALL)
    java = [line.partition(": ")[2] for line in lines if line.startswith(": ")]  # below Py4J's "An error occurred …"
    line = [
        *(reason.splitlines()[-1].strip() for reason in not_started[:1]),
        *python[-1:],
        *java[:1],
        *lines[:1],
        "no reason given",
    ][0]
    return without_password(re.sub(r"\s*SQLSTATE: \w+.*$", "", line))[:500]

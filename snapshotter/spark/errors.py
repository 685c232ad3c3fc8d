"""Turns Spark's errors into the project's own: what a worker raised on purpose reaches the driver as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from schemas import errors
from schemas.errors import DeloreanError
from schemas.redaction import without_password

# Classes of SQLSTATE for which the query or its data is to blame, the same however often it is tried: cardinality and
# data exceptions, violated constraints, syntax and names, what is not supported, raise_error(). Others are of files
# and machines.
_OF_THE_QUERY = ("0A", "21", "22", "23", "42", "P0")
_STATE = re.compile(r"SQLSTATE: (\w\w)\w{3}")
_BEFORE_ANY_JOB = ("AnalysisException", "ParseException", "IllegalArgumentException", "PySparkTypeError")
_OURS = re.compile(r"^schemas\.errors\.(\w+): (.*?)(?=\n\s*\n|\n\s+at |\Z)", re.MULTILINE | re.DOTALL)


@contextmanager
def spark_errors_as(kind: type[DeloreanError], doing: str) -> Iterator[None]:
    """Raise a worker's own DeloreanError again, and any other error of Spark with its reason in short.

    That is one of `kind`, or where `kind` is final, and neither the query nor its data is to blame, a JobError.
    """
    try:
        yield
    except Exception as error:
        if _is_sparks(error):
            raise _translated(error, kind, doing) from error
        raise


def _is_sparks(error: Exception) -> bool:
    """Tell by the modules' names: pyspark may not be installed."""
    return any(base.__module__.split(".")[0] in ("pyspark", "py4j") for base in type(error).__mro__)


def _translated(error: Exception, kind: type[DeloreanError], doing: str) -> DeloreanError:
    text = str(error)
    ours = list(_OURS.finditer(text))
    if ours:
        name, message = ours[-1].groups()  # of a chain the last is what left the worker
        raised: type[DeloreanError] = getattr(errors, name, DeloreanError)
        return raised(message)
    analysed = any(base.__name__ in _BEFORE_ANY_JOB for base in type(error).__mro__)
    to_blame = not kind.final or analysed or any(state in _OF_THE_QUERY for state in _STATE.findall(text))
    return (kind if to_blame else errors.JobError).because(f"{doing}: {_short(text)}")


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

"""Runs commands of `delorean`, which live in an environment of their own, as tasks of Airflow.

Where that environment and the project are, `[delorean]` of airflow.cfg says, or AIRFLOW__DELOREAN__COMMAND and so on.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import (
    Asset,
    BaseHook,
    BaseNotifier,
    BaseOperator,
    Context,
    DeadlineAlert,
    DeadlineReference,
    SyncCallback,
    conf,
    get_current_context,
)
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
)
from airflow.sdk.log import mask_secret
from airflow.sdk.module_loading import import_string

CONTEXTS = Asset("delorean_contexts")  # a day's context set is chosen
SNAPSHOTS = Asset("delorean_snapshots")  # all daily sets of services are captured of a day
GLOBALS = Asset("delorean_globals")  # a global element has another version
FEATURES = Asset("delorean_features")  # features are made for a day
PACKAGES = Asset("delorean_packages")  # models are trained for a day

SERVICES = "delorean_services"  # the pool of those that ask online services
JOBS = "delorean_jobs"  # of others that take a machine's cores
CONNECTION = "delorean"  # its extra are environment variables of jobs
DAY = "{{ (logical_date or dag_run.run_after) | ds }}"

# Ends all processes of a job with its first, and with the task, whatever ends that: the kernel tells when it is gone.
_LEASH = """
import contextlib, ctypes, os, signal, subprocess, sys
try:
    job = subprocess.Popen(sys.argv[2:], process_group=0)
except OSError as error:
    sys.stderr.write(f"error: cannot start {sys.argv[2]}: {error.strerror}\\n")
    sys.exit(127)
def end(*_):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
signal.signal(signal.SIGTERM, end)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        end()
code = job.wait()
end()
sys.exit(128 - code if code < 0 else code)
"""
# Begins the line with a job's result; spark-submit mixes what its driver prints with what others print.
_MARK = f"delorean-result-{secrets.token_hex(8)}"
_FINAL = 2  # how `delorean` exits where the same command would fail again
_log = logging.getLogger("airflow.task")


class DeloreanJob(BaseOperator):
    """Runs a command of `delorean`: what it prints is the task's log, its error the task's failure.

    command: words, such as ["submit", "select"]
    gives: the field of the command's result that becomes the task's result: an id, or whether there is anything new
    """

    template_fields = ("command",)

    def __init__(self, *, command: Sequence[str], gives: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.command, self.gives = command, gives
        self._job: subprocess.Popen[bytes] | None = None

    def execute(self, context: Context) -> Any:  # noqa: ARG002  # Airflow gives it
        """Run it."""
        with _started(self.command) as self._job:
            result = _result(self._job)
        if self.gives and self.gives not in result:
            raise AirflowException(f"the job ended well, but printed no result with '{self.gives}'")
        return result.get(self.gives)

    def on_kill(self) -> None:
        """End the job with the task."""
        if self._job is not None:
            _end(self._job)


class LogNotifier(BaseNotifier):
    """Tells by Airflow's log, where nobody named a better way: `notifier` under [delorean]."""

    def notify(self, context: Context) -> None:
        """Write a line."""
        failed = context.get("task_instance")
        if failed is None:
            run, deadline = context.get("dag_run", {}), context.get("deadline", {})
            name, due = f"{run.get('dag_id')}, {run.get('dag_run_id')}", deadline.get("deadline_time")
            self.log.error("%s missed its deadline, %s: it is %s", name, due, run.get("state"))
        else:
            self.log.error("%s.%s of %s: %s", failed.dag_id, failed.task_id, failed.run_id, context.get("exception"))


def ask(*command: str) -> dict[str, Any]:
    """Give what a command of `delorean` tells as JSON."""
    with _started(command) as job:
        return _result(job)


def announced(asset: Asset, days: Sequence[str]) -> None:
    """Tell who waits for an asset which days it is there for. A backfill tells nobody: it does what it is asked."""
    context = get_current_context()
    if context["dag_run"].run_type == "backfill":
        raise AirflowSkipException("a backfill starts nothing else")
    context["outlet_events"][asset].extra = {"days": list(days)}


def days_of(context: Context) -> list[str]:
    """Name the days that a run is for: those that the assets which started it tell of, or its own."""
    events = [event for of in (context.get("triggering_asset_events") or {}).values() for event in of]
    told = {day for event in events for day in event.extra.get("days", ())}
    own = context["dag_run"].logical_date or context["dag_run"].run_after
    return sorted(told) or [own.strftime("%Y-%m-%d")]


def packages() -> Path:
    """Name the folder of model packages."""
    return Path(conf.get("delorean", "packages", fallback=str(_project().parent / "packages")))


def settings(deadline_hours: float, *, timeout: timedelta = timedelta(hours=6)) -> dict[str, Any]:
    """Give what DAGs have in common.

    deadline_hours: after it was queued, when somebody is told that a run is not done; timeout: of a task
    """
    deadline = timedelta(hours=conf.getfloat("delorean", "deadline_hours", fallback=deadline_hours))
    return {
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["delorean"],
        "deadline": DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, deadline, SyncCallback(tell)),
        "default_args": {
            "retries": conf.getint("delorean", "retries", fallback=3),
            "retry_delay": timedelta(seconds=conf.getint("delorean", "retry_seconds", fallback=60)),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(hours=1),
            "execution_timeout": timeout,
            "on_failure_callback": tell,
        },
    }


def tell(context: Context | None = None) -> None:
    """Tell somebody that a task failed or a deadline was missed, in the way that is configured."""
    notifier = import_string(conf.get("delorean", "notifier", fallback="delorean_job.LogNotifier"))
    notifier()(context or {})


def _project() -> Path:
    return Path(conf.get("delorean", "project", fallback="delorean.toml"))


def _command_line(words: Sequence[str]) -> list[str]:
    """A submission has its --config before the step, other commands anywhere; both hand --json on."""
    at = 1 if words[0] == "submit" else len(words)
    program = shlex.split(conf.get("delorean", "command", fallback="delorean"))
    return [*program, *words[:at], "--config", str(_project()), *words[at:], "--json"]


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    try:
        secrets = BaseHook.get_connection(CONNECTION).extra_dejson
    except AirflowNotFoundException:
        return ours
    for value in secrets.values():
        mask_secret(str(value))
    return {**ours, **{name: str(value) for name, value in secrets.items()}}


@contextmanager
def _started(words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end all that is left of it."""
    command = _command_line(words)
    _log.info("%s", shlex.join(command))
    job = subprocess.Popen(
        [sys.executable, "-c", _LEASH, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**_environment(), "DELOREAN_RESULT_MARK": _MARK},
        start_new_session=True,
    )
    try:
        yield job
    finally:
        _end(job)


def _end(job: subprocess.Popen[bytes]) -> None:
    job.terminate()  # the leash, which ends the rest
    job.wait()


def _result(job: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Log what a job prints, and give its result: the JSON object that it prints last.

    Raises AirflowException with the job's reason; AirflowFailException, so that nobody tries again, for one that would
    only fail again.
    """
    marked, unmarked, reason = "", "", ""
    for is_output, line in _lines(job):
        if line.startswith(f"{_MARK} "):
            marked = line.partition(" ")[2]
            _log.info("%s", marked)
            continue
        _log.info("%s", line)
        if re.match(r"error: |Error: |unexpected \w+: ", line):
            reason = line.strip()
        elif is_output and _object(line) is not None:
            unmarked = line
    code = job.wait()
    if code != 0:
        kind = AirflowFailException if code == _FINAL else AirflowException
        raise kind(_why(code, reason))
    return _object(marked or unmarked) or {}


def _lines(job: subprocess.Popen[bytes]) -> Iterator[tuple[bool, str]]:
    """Give each line that a job prints as it comes, and whether it is on its standard output."""
    assert job.stdout is not None  # they are pipes
    assert job.stderr is not None
    with selectors.DefaultSelector() as selector:
        rest = {job.stdout.fileno(): b"", job.stderr.fileno(): b""}
        for number in rest:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                *lines, rest[key.fd] = (rest[key.fd] + (data or b"\n")).split(b"\n")
                if not data:  # the last line may lack its end
                    selector.unregister(key.fd)
                for line in lines:
                    if data or line:
                        yield key.fd == job.stdout.fileno(), line.decode(errors="replace").rstrip()


def _object(line: str) -> dict[str, Any] | None:
    """Read a line that is a JSON object; None for any other, such as a warning that begins with {."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _why(code: int, reason: str) -> str:
    """Say why a job failed, by the code it ended with and what it printed."""
    name = _signal_name(-code if code < 0 else code - 128)
    if name is None:
        return reason or f"the job ended with {code}"
    return f"the job was ended by {name}" + (f": {reason}" if reason else "")


def _signal_name(number: int) -> str | None:
    """Name a signal, those without names of their own too; None for what is no signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        first = signal.SIGRTMIN
        return f"SIGRTMIN+{number - first}" if first < number < signal.SIGRTMAX else None

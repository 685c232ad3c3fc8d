"""Runs `delorean` commands, which have their own environment, as Airflow tasks.

`[delorean]` of airflow.cfg configures the environment and the project, or variables such as AIRFLOW__DELOREAN__COMMAND.
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

CONTEXTS = Asset("delorean_contexts")  # a day's contexts are selected
SNAPSHOTS = Asset("delorean_snapshots")  # all daily sets of services are captured for a day
GLOBALS = Asset("delorean_globals")  # a global element has a new version
FEATURES = Asset("delorean_features")  # features are generated for a day
PACKAGES = Asset("delorean_packages")  # models are trained for a day

SERVICES = "delorean_services"  # the pool of tasks that call online services
JOBS = "delorean_jobs"  # the pool of other tasks that use the machine's cores
CONNECTION = "delorean"  # its extra holds environment variables of jobs
DAY = "{{ (logical_date or dag_run.run_after) | ds }}"

# Kills all processes of a job when its first process or the task ends; the kernel reports the end of the task.
_SUPERVISOR = """
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
# Prefix of the line with a job's result, because spark-submit mixes its driver's output with other output.
_MARK = f"delorean-result-{secrets.token_hex(8)}"
# Exit codes of `delorean` that a retry cannot change: a wrong spec, and a result that should not be used.
_FINAL = (2, 3)
_log = logging.getLogger("airflow.task")


class DeloreanJob(BaseOperator):
    """Runs a `delorean` command. Its output goes to the task's log; an error fails the task.

    A command that fails may have a result nonetheless, of the part that succeeded: then the task has it too.

    command: arguments, such as ["submit", "select"]
    result_field: field of the command's result that becomes the task's result, such as an id
    """

    template_fields = ("command",)

    def __init__(self, *, command: Sequence[str], result_field: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.command, self.result_field = command, result_field
        self._job: subprocess.Popen[bytes] | None = None

    def execute(self, context: Context) -> Any:
        """Run the command."""
        with _started(self.command) as self._job:
            result, error = _outcome(self._job)
        if error is not None:
            if self.result_field in result:
                context["ti"].xcom_push("return_value", result[self.result_field])
            raise error
        if self.result_field and self.result_field not in result:
            raise AirflowException(f"the job succeeded, but printed no result with '{self.result_field}'")
        return result.get(self.result_field)

    def on_kill(self) -> None:
        """Stop the job with the task."""
        if self._job is not None:
            _end(self._job)


class LogNotifier(BaseNotifier):
    """Logs failures and missed deadlines: the default of `notifier` under [delorean]."""

    def notify(self, context: Context) -> None:
        """Log one line."""
        failed = context.get("task_instance")
        if failed is None:
            run, deadline = context.get("dag_run", {}), context.get("deadline", {})
            name, due = f"{run.get('dag_id')}, {run.get('dag_run_id')}", deadline.get("deadline_time")
            self.log.error("%s missed its deadline, %s: it is %s", name, due, run.get("state"))
        else:
            self.log.error("%s.%s of %s: %s", failed.dag_id, failed.task_id, failed.run_id, context.get("exception"))


def run_command(*command: str) -> dict[str, Any]:
    """Run a `delorean` command and return its JSON result."""
    with _started(command) as job:
        result, error = _outcome(job)
    if error is not None:
        raise error
    return result


def publish_days(asset: Asset, days: Sequence[str]) -> None:
    """Update an asset with the days that are ready. A backfill updates none, so that it starts no other DAG."""
    context = get_current_context()
    if context["dag_run"].run_type == "backfill":
        raise AirflowSkipException("a backfill does not start other DAGs")
    context["outlet_events"][asset].extra = {"days": list(days)}


def days_of(context: Context) -> list[str]:
    """Return the days of a run: those in the asset events that triggered it, or else its own."""
    events = [event for of in (context.get("triggering_asset_events") or {}).values() for event in of]
    announced = {day for event in events for day in event.extra.get("days", ())}
    own = context["dag_run"].logical_date or context["dag_run"].run_after
    return sorted(announced) or [own.strftime("%Y-%m-%d")]


def packages() -> Path:
    """Return the folder of model packages."""
    return Path(conf.get("delorean", "packages", fallback=str(_project().parent / "packages")))


def settings(deadline_hours: float, *, timeout: timedelta = timedelta(hours=6)) -> dict[str, Any]:
    """Build the arguments that all DAGs share.

    deadline_hours: hours after queueing at which the notifier is called for an unfinished run
    timeout: of a task
    """
    deadline = timedelta(hours=conf.getfloat("delorean", "deadline_hours", fallback=deadline_hours))
    return {
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["delorean"],
        "deadline": DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, deadline, SyncCallback(notify)),
        "default_args": {
            "retries": conf.getint("delorean", "retries", fallback=3),
            "retry_delay": timedelta(seconds=conf.getint("delorean", "retry_seconds", fallback=60)),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(hours=1),
            "execution_timeout": timeout,
            "on_failure_callback": notify,
        },
    }


def notify(context: Context | None = None) -> None:
    """Call the configured notifier for a failed task or a missed deadline."""
    notifier = import_string(conf.get("delorean", "notifier", fallback="delorean_job.LogNotifier"))
    notifier()(context or {})


def _project() -> Path:
    return Path(conf.get("delorean", "project", fallback="delorean.toml"))


def _command_line(words: Sequence[str]) -> list[str]:
    """Build the command line; --config comes before the step of a submission."""
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
    """Start a command; at the end kill whatever is left of it."""
    command = _command_line(words)
    _log.info("%s", shlex.join(command))
    job = subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR, str(os.getpid()), *command],
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
    job.terminate()  # the supervisor, which kills the rest
    job.wait()


def _outcome(job: subprocess.Popen[bytes]) -> tuple[dict[str, Any], AirflowException | None]:
    """Log a job's output and return its result, the JSON object that it prints last, and its error if it failed.

    The error is an AirflowFailException if a retry cannot fix it.
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
    code, result = job.wait(), _object(marked or unmarked) or {}
    if code == 0:
        return result, None
    kind = AirflowFailException if code in _FINAL else AirflowException
    return result, kind(_why(code, reason))


def _lines(job: subprocess.Popen[bytes]) -> Iterator[tuple[bool, str]]:
    """Yield each line of output as it arrives, with whether it is on standard output."""
    assert job.stdout is not None  # both are pipes
    assert job.stderr is not None
    with selectors.DefaultSelector() as selector:
        rest = {job.stdout.fileno(): b"", job.stderr.fileno(): b""}
        for number in rest:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                *lines, rest[key.fd] = (rest[key.fd] + (data or b"\n")).split(b"\n")
                if not data:  # the last line may have no line end
                    selector.unregister(key.fd)
                for line in lines:
                    if data or line:
                        yield key.fd == job.stdout.fileno(), line.decode(errors="replace").rstrip()


def _object(line: str) -> dict[str, Any] | None:
    """Parse a line as a JSON object; None for other lines, such as a warning that begins with {."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _why(code: int, reason: str) -> str:
    """Describe why a job failed, from its exit code and its error."""
    name = _signal_name(-code if code < 0 else code - 128)
    if name is None:
        return reason or f"the job ended with {code}"
    return f"the job was ended by {name}" + (f": {reason}" if reason else "")


def _signal_name(number: int) -> str | None:
    """Return the name of a signal, real-time signals included; None for other numbers."""
    try:
        return signal.Signals(number).name
    except ValueError:
        first = signal.SIGRTMIN
        return f"SIGRTMIN+{number - first}" if first < number < signal.SIGRTMAX else None

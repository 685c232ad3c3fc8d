"""`delorean submit`: runs other commands on a cluster, by spark-submit."""

from __future__ import annotations

import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from delorean.cli.options import PROJECT_FILE, common_options

if TYPE_CHECKING:
    from delorean.cli.output import Output
    from delorean.project.config import Project

_STEPS = ("select", "snapshot", "generate", "experiment", "paradox", "train", "vacuum")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, no_args_is_help=True
)
@click.option("--dry-run", is_flag=True, help="Print the command and run nothing.")
@click.argument("step", type=click.Choice(_STEPS))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@common_options
@click.pass_context
def submit(
    context: click.Context, dry_run: bool, step: str, arguments: Sequence[str], project: Project, output: Output
) -> None:
    """Run a step on a cluster, by spark-submit.

    STEP is one of the other commands, ARGUMENTS are its own. [submit] of the project file names the master and the
    environment, an archive that `make package` builds; [spark] has Spark's settings. Exits with the step's code. --json
    and --config go before STEP and are passed on.

    \b
    Example: delorean submit --dry-run generate homepage.toml --run-id 2026-01-05
    """
    from delorean.project.submit import Submission, pack_modules

    if any(argument.partition("=")[0] == "--config" for argument in arguments):
        raise click.UsageError("--config belongs to the submission too: write it before the step")
    file = Path(context.meta[PROJECT_FILE])
    with tempfile.TemporaryDirectory(prefix="delorean-submit-") as folder:
        modules = pack_modules(project.encoders, file.parent, Path(folder) / "modules.zip")
        passed_on = ["--config", str(file), *(["--json"] if output.as_json and not dry_run else [])]
        submission = Submission(project, [step, *arguments, *passed_on], modules)
        if dry_run:
            if output.as_json:
                output.show({"command": submission.shown})
            else:
                click.echo(shlex.join(submission.shown))  # a line that can be copied, however long
            return
        submission.check()
        click.echo(shlex.join(submission.shown), err=True)
        with submission.command() as command:
            code = _run(command)
        context.exit(code)


def _run(command: Sequence[str]) -> int:
    """Run a command, passing SIGTERM and Ctrl-C on, and return its exit code as a shell does."""
    with subprocess.Popen(command) as job:  # noqa: S603  # the user's own spark-submit
        before = signal.signal(signal.SIGTERM, lambda *_: job.terminate())
        try:
            code = job.wait()
        except KeyboardInterrupt:
            job.terminate()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    return 128 - code if code < 0 else code

"""The root command: its subcommands, its logging, and how errors become messages and exit codes."""

from __future__ import annotations

import logging
import os
from typing import Any

import click

from delorean import __version__
from delorean.cli.ab import ab
from delorean.cli.capture import prana, publish, select, snapshot
from delorean.cli.compare import compare
from delorean.cli.cost import cost
from delorean.cli.demo import demo
from delorean.cli.experiment import experiment
from delorean.cli.exposures import exposures
from delorean.cli.features import feature_sets_group
from delorean.cli.label_quality import label_quality
from delorean.cli.look import index, travel
from delorean.cli.model import generate, serve, train
from delorean.cli.paradox import paradox
from delorean.cli.predict import predict
from delorean.cli.registry import registry
from delorean.cli.schedule import schedule
from delorean.cli.submit import submit
from delorean.cli.track import track
from delorean.cli.tune import tune
from delorean.cli.vacuum import vacuum
from schemas.errors import DeloreanError
from schemas.plain_text import plain_text
from schemas.redaction import without_password

_DEBUG = "DELOREAN_DEBUG"


class _Commands(click.Group):
    """Prints an expected error as one line, and an unexpected one as a line that says how to see its traceback.

    Exits with 2, as for a wrong option, where the same command would fail again, and with 1 where it may succeed later.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click gives it
        return list(self.commands)  # in the order of the work, not of the alphabet

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the program ends here: what escapes is a defect, printed as one
            if ctx.params["debug"]:
                raise
            if isinstance(error, DeloreanError):
                click.echo(plain_text(f"error: {error}"), err=True)
                ctx.exit(2 if error.final else 1)
            reason = without_password(str(error).strip().partition("\n")[0])
            click.echo(
                plain_text(f"unexpected {type(error).__name__}: {reason}")
                + f" → show the traceback with delorean --debug {ctx.invoked_subcommand} …, or {_DEBUG}=1",
                err=True,
            )
            ctx.exit(1)


class _SafeFormatter(logging.Formatter):
    """Formats log records without the control characters and passwords that may be in them."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_text(without_password(super().format(record)))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="delorean")
@click.option("--debug", is_flag=True, envvar=_DEBUG, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """A feature time machine: capture the state of online services, travel to any past moment, train on it.

    \b
    From nothing to a served model:
      select → prana serve → snapshot → (travel) → generate → train → (predict) → serve

    `delorean demo` runs all of it for a small streaming company. Every command that terminates accepts --json.

    Completion: eval "$(_DELOREAN_COMPLETE=bash_source delorean)", or zsh_source, fish_source.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.ERROR, "error")
    if debug:
        logging.getLogger("py4j").setLevel(logging.INFO)  # it logs every call to the JVM
    else:
        for driver in ("cassandra", "urllib3"):  # our errors say the same in one line
            logging.getLogger(driver).setLevel(logging.CRITICAL)


for command in (select, prana, snapshot, publish, travel, index):
    cli.add_command(command)
for command in (label_quality, generate, paradox, tune, train, predict, experiment, compare, registry, ab, serve):
    cli.add_command(command)
for command in (exposures, feature_sets_group, track, cost, vacuum, schedule, submit, demo):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # Spark's workers inherit it: what they print appears at once
    cli(prog_name="delorean")

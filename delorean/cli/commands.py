"""The commands together, and what becomes of errors."""

from __future__ import annotations

import logging
import os
from typing import Any

import click

from delorean import __version__
from delorean.cli.capture import prana, publish, select, snapshot
from delorean.cli.demo import demo
from delorean.cli.experiment import experiment
from delorean.cli.look import index, travel
from delorean.cli.model import generate, serve, train
from delorean.cli.paradox import paradox
from delorean.cli.schedule import schedule
from delorean.cli.submit import submit
from delorean.cli.vacuum import vacuum
from schemas.errors import DeloreanError
from schemas.plain_text import plain_text
from schemas.redaction import without_password

_DEBUG = "DELOREAN_DEBUG"


class _Commands(click.Group):
    """Shows an error of ours as one line; any other as one line that says how to see the rest.

    Exits with 2, as for a wrong option, where the same command would fail again, with 1 where it might go well.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click gives it
        return list(self.commands)  # in the order of the work

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the program ends here; whoever debugs it sees all
            if ctx.params["debug"]:
                raise
            if isinstance(error, DeloreanError):
                click.echo(plain_text(f"error: {error}"), err=True)
                ctx.exit(2 if error.final else 1)
            reason = without_password(str(error).strip().partition("\n")[0])
            click.echo(
                plain_text(f"unexpected {type(error).__name__}: {reason}")
                + f" → see where with delorean --debug {ctx.invoked_subcommand} …, or {_DEBUG}=1",
                err=True,
            )
            ctx.exit(1)


class _Lines(logging.Formatter):
    """Writes what is logged without the control characters and passwords that may be in it."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_text(without_password(super().format(record)))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="delorean")
@click.option("--debug", is_flag=True, envvar=_DEBUG, help="Show where an error comes from.")
def cli(debug: bool) -> None:
    """A time machine for features: capture what online services know, travel back to it, learn from it.

    \b
    The way from nothing to a served model:
      select → prana serve → snapshot → (travel) → generate → train → serve
    `delorean demo` walks it in a small streaming company. What ends takes --json.

    Completion: eval "$(_DELOREAN_COMPLETE=bash_source delorean)", or zsh_source, fish_source.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])
    logging.addLevelName(logging.WARNING, "warning")
    if debug:
        logging.getLogger("py4j").setLevel(logging.INFO)  # every call to the JVM is too much
    else:
        logging.getLogger("cassandra").setLevel(logging.CRITICAL)  # it says at length what our errors say in a line


for command in (
    *(
        select,
        prana,
        snapshot,
        publish,
        travel,
        index,
        generate,
        paradox,
        train,
        experiment,
        serve,
        vacuum,
        schedule,
        submit,
        demo,
    ),
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # of workers that print
    cli(prog_name="delorean")

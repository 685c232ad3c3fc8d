"""Checks the commands that pages show."""

from __future__ import annotations

import shlex

import click

from delorean.cli.commands import cli


def parse_command(line: str) -> None:
    """Parse a line such as `delorean ab plan test.toml`; raises click's errors for what no command accepts."""
    program, *arguments = shlex.split(line)
    assert program == "delorean"
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_parser(click.Context(command, resilient_parsing=True)).parse_args(arguments)

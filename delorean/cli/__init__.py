"""The command line: each command is a thin shell over an entry point of a package. `delorean --help` lists them."""

from delorean.cli.commands import main

__all__ = ["main"]

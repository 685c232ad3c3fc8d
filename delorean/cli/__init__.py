"""The command line: thin shells over the entry points of the packages. `delorean --help` lists them."""

from delorean.cli.commands import main

__all__ = ["main"]

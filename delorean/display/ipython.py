"""Registers IPython's formatters, so that notebooks show what this project describes."""

from __future__ import annotations

import sys
from typing import Any

from delorean.display.description import DESCRIBED


def register_formatters(shell: Any = None) -> None:
    """Show described things as HTML and text, by the names of their types: nothing of theirs is imported.

    shell: IPython's; None: the one that this process runs in, if any
    """
    ipython = sys.modules.get("IPython")
    if shell is None and ipython is not None:
        shell = ipython.get_ipython()
    formatter = getattr(shell, "display_formatter", None)
    if formatter is None:
        return
    for module, name in DESCRIBED:
        formatter.formatters["text/html"].for_type_by_name(module, name, _html)
        formatter.formatters["text/plain"].for_type_by_name(module, name, _pretty)


def _html(thing: object) -> str:
    from delorean.display.html import to_html

    return to_html(thing)


def _pretty(thing: object, printer: Any, cycle: bool) -> None:
    """Print all of a thing, or its one line where it is part of another."""
    from delorean.display.text import to_text

    whole = not cycle and len(printer.stack) == 1
    printer.text(to_text(thing) if whole else repr(thing))

"""What commands print: one result each, as text for people or as JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from schemas.strict_json import json_text
from snapshotter.spark.progress import Progress, command_progress

_MARK = "DELOREAN_RESULT_MARK"  # printed before the JSON object, so that a scheduler can tell it from other output


@dataclass(frozen=True)
class Output:
    """Prints results.

    as_json: one JSON object on stdout and nothing else there
    """

    as_json: bool

    def show(self, result: object, document: Mapping[str, Any] | None = None) -> None:
        """Print a result: a mapping, or anything that `delorean.display` describes.

        document: the fields to print as JSON, where they are not those of the result's description
        """
        if self.as_json:
            self._print_json(_document(result) if document is None else document)
        else:
            from delorean.display.text import show

            show(result)

    def show_all(self, results: Sequence[object], others: str) -> None:
        """Print results of one kind. As JSON: the first, with the others in a field of this name if there are any."""
        if self.as_json:
            first, *rest = map(_document, results)
            self._print_json({**first, **({others: rest} if rest else {})})
        else:
            for result in results:
                self.show(result)

    def progress(self) -> AbstractContextManager[Progress]:
        """Yield a function of (what, done, total) that shows progress on stderr, whatever stdout is for."""
        return command_progress()

    def _print_json(self, document: Mapping[str, Any]) -> None:
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        text = json_text(document, ascii_only=not utf8)
        mark = os.environ.get(_MARK)
        sys.stdout.write(f"{mark} {text}\n" if mark else f"{text}\n")


def _document(result: object) -> Mapping[str, Any]:
    from delorean.display.description import describe

    document = describe(result).document
    if document is None:
        raise TypeError(f"{type(result).__name__} is no command's result: its description has no document")
    return document()

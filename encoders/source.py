"""Finds the source of functions wherever they were written: in files, in notebooks' cells, at a prompt."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from schemas.cells import cell_name
from schemas.errors import EncoderError

PROMPT = "<stdin>"  # the file of what is typed, and of Zeppelin's paragraphs
_SHOWN = 80  # characters of a line
_entered: deque[str] = deque(maxlen=1000)


@dataclass(frozen=True)
class Source:
    """A function as it was written.

    text: with its decorators, the first of its lines not indented
    tree: parsed; its line numbers are the file's
    file: where; first: the line there at which the text begins
    """

    text: str
    tree: ast.FunctionDef
    file: str
    first: int

    def place(self, line: int) -> str:
        """Say where a line of the file is, as whoever wrote it knows it, and what it says."""
        lines = self.text.splitlines()
        said = lines[line - self.first].strip() if 0 <= line - self.first < len(lines) else ""
        said = f" (`{said if len(said) <= _SHOWN else said[: _SHOWN - 1] + '…'}`)" if said else ""
        cell = cell_name(self.file)
        if cell is not None or self.file == PROMPT:
            return ", ".join([*([cell] if cell else []), f"line {line}{said}"])
        return f"{self.file}:{line}{said}"


def source_of(function: FunctionType) -> Source:
    """Give a function's source. Raises EncoderError when there is none to be had."""
    code, name = function.__code__, function.__qualname__
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        found = next((text for text in _candidates(code) if text), None)
        if found is None:
            hint = "define it with def, in a file or a notebook's cell"
            if code.co_filename == PROMPT:
                hint += "; in Zeppelin run `from delorean.zeppelin import show` in a paragraph before, and this again"
            raise EncoderError.because(f"'{name}': its source cannot be read ({error})", hint) from error
        text = found
    try:
        tree = ast.parse(text).body[0]
    except (SyntaxError, IndexError) as error:
        raise EncoderError.because(
            f"'{name}': its source cannot be read ({error})", "define it with def, in a file or a notebook's cell"
        ) from error
    if not isinstance(tree, ast.FunctionDef):
        raise EncoderError.because(f"'{name}' is no plain function", "define it with def")
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    return Source(text, tree, code.co_filename, code.co_firstlineno)


@cache
def remember_entered() -> None:
    """Keep from now on what is run under a prompt's name, where Python itself keeps none: in Zeppelin's paragraphs."""

    def keep(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "compile" and arguments[1] == PROMPT and isinstance(arguments[0], bytes | str):
            text = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
            if "def " in text:
                _entered.append(text)

    sys.addaudithook(keep)


def _candidates(code: CodeType) -> Iterator[str | None]:
    """Give the function's own part of what was entered, the latest first: only what compiles to this very code."""
    if code.co_filename == PROMPT:
        for text in reversed(_entered):
            yield _part(text, code)
        for text in _typed(code.co_name):
            yield _part(text, code)


def _part(text: str, code: CodeType) -> str | None:
    try:
        compiled = compile(text, "<entered>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    if not any(inner == code for inner in _codes(compiled)):
        return None
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]) + "\n")
    return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from _codes(inner)


def _typed(name: str) -> Iterator[str]:
    """Give what may be the statement that defines a function, from the lines typed at a terminal, the latest first."""
    readline = sys.modules.get("readline")
    count = 0 if readline is None else readline.get_current_history_length()
    lines = [str(readline.get_history_item(i + 1)) for i in range(count)] if readline is not None else []
    for at in reversed(range(count)):
        if re.match(rf"def\s+{name}\b", lines[at]):
            yield from _statements(lines, at)


def _statements(lines: Sequence[str], at: int) -> Iterator[str]:
    end = at + 1
    while end < len(lines) and (not lines[end].strip() or lines[end][0].isspace()):
        end += 1
    for start in range(at, max(-1, at - 20), -1):  # its decorator may have several lines
        if start == at or lines[start].startswith("@"):
            yield "\n".join(lines[start:end]) + "\n"

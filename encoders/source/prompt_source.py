"""Sources that Python does not keep: of functions typed at a prompt, or run in Zeppelin's paragraphs."""

from __future__ import annotations
import __future__

import ast
import builtins
import functools
import re
import sys
import textwrap
from collections import deque
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any

from encoders.source.parsing import parse

PROMPT = "<stdin>"  # the file name of what is typed at a prompt, and of Zeppelin's paragraphs
_MOST_DECORATOR_LINES = 20
_compiled_at_prompt: deque[str] = deque(maxlen=1000)


@functools.cache
def keep_prompt_sources() -> None:
    """Keep the text of every function that is compiled under a prompt's file name from now on.

    Zeppelin's plain interpreter calls the builtin `compile` and keeps no text itself, so the builtin is wrapped.
    """
    compile_builtin = builtins.compile

    @functools.wraps(compile_builtin)
    def keeping_compile(
        source: Any, filename: Any, mode: str, flags: int = 0, dont_inherit: bool = False, *more: Any, **named: Any
    ) -> Any:
        if filename == PROMPT and isinstance(source, bytes | str):
            text = source.decode() if isinstance(source, bytes) else source
            if "def " in text:
                _compiled_at_prompt.append(text)
        if not dont_inherit:  # the builtin would inherit this module's future features instead of its caller's
            flags |= sys._getframe(1).f_code.co_flags & __future__.annotations.compiler_flag
        return compile_builtin(source, filename, mode, flags, True, *more, **named)

    builtins.compile = keeping_compile


def prompt_definitions(code: CodeType) -> Iterator[str]:
    """Give the definitions entered at a prompt that compile to exactly this code, the latest first."""
    if code.co_filename != PROMPT:
        return
    for entered in (*reversed(_compiled_at_prompt), *_typed_definitions(code.co_name)):
        definition = _definition_of(code, entered)
        if definition:
            yield definition


def definition_text(module: str, function: ast.FunctionDef) -> str:
    """Cut a function with its decorators out of a module's text, dedented."""
    first = _first_line(function)
    return textwrap.dedent("\n".join(module.splitlines()[first - 1 : function.end_lineno]) + "\n")


def nested_codes(code: CodeType) -> Iterator[CodeType]:
    """Give the code objects of all functions and classes within a code object."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from nested_codes(inner)


def _first_line(function: ast.FunctionDef) -> int:
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def _definition_of(code: CodeType, entered: str) -> str | None:
    try:
        compiled = compile(entered, "<entered>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    if not any(inner == code for inner in nested_codes(compiled)):
        return None
    for node in ast.walk(parse(entered)):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name and _first_line(node) == code.co_firstlineno:
            return definition_text(entered, node)
    return None


def _typed_definitions(name: str) -> Iterator[str]:
    """Give possible definitions of a function from the terminal's history, the latest first."""
    readline = sys.modules.get("readline")
    if readline is None:
        return
    lines = [str(readline.get_history_item(i + 1)) for i in range(readline.get_current_history_length())]
    for at in reversed(range(len(lines))):
        if re.match(rf"def\s+{name}\b", lines[at]):
            yield from _statements(lines, at)


def _statements(lines: Sequence[str], at: int) -> Iterator[str]:
    end = at + 1
    while end < len(lines) and (not lines[end].strip() or lines[end][0].isspace()):
        end += 1
    for start in range(at, max(-1, at - _MOST_DECORATOR_LINES), -1):  # a decorator may have several lines
        if start == at or lines[start].startswith("@"):
            yield "\n".join(lines[start:end]) + "\n"

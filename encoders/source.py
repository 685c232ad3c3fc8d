"""Finds the source of functions wherever they were written: in files, in notebooks' cells, at a prompt."""

from __future__ import annotations
import __future__

import ast
import inspect
import re
import sys
import textwrap
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import CodeType, FunctionType
from typing import Any

from encoders.parsing import compile_tree, parse
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
    """Give the source of a function as it was loaded, whatever its file says by now.

    Raises EncoderError when there is none to be had, or what there is compiles to other code.
    """
    code = function.__code__
    return _source_of(code, code.co_filename, function.__qualname__)


@lru_cache(maxsize=4096)
def _source_of(code: CodeType, _file: str, name: str) -> Source:
    """Find the source of code: by the code, since a function may say that it is another (`functools.wraps`)."""
    try:
        text = textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError, IndexError) as error:
        found = next((text for text in _candidates(code) if text), None)
        if found is None:
            hint = "define it with def, in a file or a notebook's cell"
            if code.co_filename == PROMPT:
                hint += (
                    "; in Zeppelin run `from delorean.display.zeppelin import show` in a paragraph first, then this one"
                )
            raise EncoderError.because(f"'{name}': its source cannot be read ({error})", hint) from error
        return _parsed(found, code, name)
    module = _module_of(code)
    parts = (text, *_moved(module, code))
    if any(name.startswith("@py") for name in (*code.co_names, *code.co_varnames)):
        return _parsed(text, code, name)  # pytest rewrote its assertions
    loaded = next((part for part in parts if compiles_to(part, code, _imported(module))), None)
    if loaded is None:
        _ = _parsed(text, code, name)  # which says what is wrong with what is no function
        raise EncoderError.because(
            f"'{name}': {code.co_filename} has changed since it was loaded, so its source there is not what runs",
            "reload the module (importlib.reload) and what uses it, or restart Python",
        )
    return _parsed(loaded, code, name)


def _parsed(text: str, code: CodeType, name: str) -> Source:
    try:
        tree = parse(text).body[0]
    except (SyntaxError, IndexError) as error:
        raise EncoderError.because(
            f"'{name}': its source cannot be read ({error})", "define it with def, in a file or a notebook's cell"
        ) from error
    if not isinstance(tree, ast.FunctionDef):
        raise EncoderError.because(f"'{name}' is no plain function", "define it with def")
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    return Source(text, tree, code.co_filename, code.co_firstlineno)


def compiles_to(text: str, code: CodeType, imported: Collection[str] = ()) -> bool:
    """Whether a function's text compiles to the code that is loaded.

    imported: names that the module imports, whose attributes are compiled otherwise than others'
    """
    try:
        function = parse(text).body[0]
    except (SyntaxError, IndexError):
        return False
    if not isinstance(function, ast.FunctionDef):
        return False
    function.decorator_list = []
    names = [ast.Name(name, ast.Store()) for name in code.co_freevars]  # what it closes over is around it
    around: list[ast.stmt] = [ast.Assign([name], ast.Constant(None)) for name in names]
    imports = [ast.Import([ast.alias(name)]) for name in sorted(imported)]
    outer = ast.FunctionDef("_around", ast.arguments([], [], None, [], [], None, []), [*around, function], [])
    future = code.co_flags & __future__.annotations.compiler_flag
    tree = ast.fix_missing_locations(ast.Module([*imports, outer], []))
    compiled = compile_tree(tree, code.co_filename, future)
    return any(_same(each, code) for each in _codes(compiled) if each.co_name == code.co_name)


def _same(one: Any, other: Any) -> bool:
    """Compare code by all but where it stands."""
    if not (isinstance(one, CodeType) and isinstance(other, CodeType)):
        same_kind = type(one) is type(other) and repr(one) == repr(other)  # 0.0 equals -0.0, and 1 equals True
        return same_kind or (isinstance(one, frozenset) and one == other)
    names: tuple[str, ...] = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount")
    names += ("co_kwonlyargcount", "co_posonlyargcount")
    if (one.co_flags ^ other.co_flags) & ~inspect.CO_NESTED:
        return False
    if any(getattr(one, name) != getattr(other, name) for name in names):
        return False
    constants = zip(one.co_consts, other.co_consts, strict=False)
    return len(one.co_consts) == len(other.co_consts) and all(_same(*pair) for pair in constants)


def _module_of(code: CodeType) -> tuple[str, ast.Module]:
    """Give the text of the file or cell that code is from, and its tree: empty ones if it cannot be parsed."""
    try:
        text = "".join(inspect.findsource(code)[0])
        return text, parse(text)
    except (OSError, SyntaxError, ValueError, IndexError):
        return "", ast.Module([], [])


def _imported(module: tuple[str, ast.Module]) -> set[str]:
    """Name what a module imports outside of functions and classes."""
    found: set[str] = set()
    nodes: list[ast.AST] = list(module[1].body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(each.asname or each.name).partition(".")[0] for each in node.names if each.name != "*"}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            nodes += ast.iter_child_nodes(node)
    return found


def _moved(module: tuple[str, ast.Module], code: CodeType) -> Iterator[str]:
    """Give what the file has of the function's name: lines above it may have been added since it was loaded."""
    lines = module[0].splitlines()
    for node in ast.walk(module[1]):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]) + "\n")


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
    for node in ast.walk(parse(text)):
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

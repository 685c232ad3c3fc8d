"""The source of a function, whether it was defined in a file, in a notebook cell or at a prompt."""

from __future__ import annotations
import __future__

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from types import CodeType, FunctionType
from typing import Any

from encoders.source.parsing import compile_tree, parse
from encoders.source.prompt_source import PROMPT, definition_text, nested_codes, prompt_definitions
from schemas.cells import cell_name
from schemas.errors import EncoderError

_LONGEST_LINE = 80  # characters of a line that messages quote


@dataclass(frozen=True)
class FunctionSource:
    """A function as it was written.

    text: with its decorators, dedented
    tree: the parsed function; its line numbers are the file's
    file: where it was defined; first: the line of the file at which the text begins
    """

    text: str
    tree: ast.FunctionDef
    file: str
    first: int

    def place(self, line: int) -> str:
        """Describe a line of the file, as a message names it: its cell or file, its number and its text."""
        lines = self.text.splitlines()
        text = lines[line - self.first].strip() if 0 <= line - self.first < len(lines) else ""
        short = text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 1] + "…"
        quoted = f" (`{short}`)" if short else ""
        cell = cell_name(self.file)
        if cell is not None or self.file == PROMPT:
            return ", ".join([*([cell] if cell else []), f"line {line}{quoted}"])
        return f"{self.file}:{line}{quoted}"


def source_of(function: FunctionType) -> FunctionSource:
    """Give the source of a function as it was loaded, even if its file has changed since.

    Raises EncoderError if there is no source, or only source that compiles to different code.
    """
    code = function.__code__
    return _source_of(code, code.co_filename, function.__qualname__)


@lru_cache(maxsize=4096)
def _source_of(code: CodeType, _file: str, name: str) -> FunctionSource:
    """Look up by code, not by name: `functools.wraps` gives a function the name of another."""
    try:
        text = textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError, IndexError) as error:
        typed = next(prompt_definitions(code), None)
        if typed is None:
            raise _unreadable(name, code, error) from error
        return _parsed(typed, code, name)
    module = _module_of(code)
    candidates = chain([text], _same_name_definitions(module, code))  # the others are rarely needed, and take long
    if any(name.startswith("@py") for name in (*code.co_names, *code.co_varnames)):
        return _parsed(text, code, name)  # pytest rewrote its assertions
    loaded = next((text for text in candidates if compiles_to(text, code, _imported_names(module))), None)
    if loaded is None:
        _ = _parsed(text, code, name)  # raises a clearer error for what is not a function
        raise EncoderError.because(
            f"'{name}': {code.co_filename} has changed since it was loaded, so its source there is not what runs",
            "reload the module (importlib.reload) and what uses it, or restart Python",
        )
    return _parsed(loaded, code, name)


def _unreadable(name: str, code: CodeType, error: Exception) -> EncoderError:
    hint = "define it with def, in a file or a notebook's cell"
    if code.co_filename == PROMPT:
        hint += "; in Zeppelin run `from delorean.display.zeppelin import show` in a paragraph first, then this one"
    return EncoderError.because(f"'{name}': its source cannot be read ({error})", hint)


def _parsed(text: str, code: CodeType, name: str) -> FunctionSource:
    try:
        tree = parse(text).body[0]
    except (SyntaxError, IndexError) as error:
        raise EncoderError.because(
            f"'{name}': its source cannot be read ({error})", "define it with def, in a file or a notebook's cell"
        ) from error
    if not isinstance(tree, ast.FunctionDef):
        raise EncoderError.because(f"'{name}' is not a plain function", "define it with def")
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    return FunctionSource(text, tree, code.co_filename, code.co_firstlineno)


def compiles_to(text: str, code: CodeType, imported: Collection[str] = ()) -> bool:
    """Whether a function's text compiles to the code that is loaded.

    imported: names that the module imports; Python compiles attributes of imported names differently
    """
    try:
        function = parse(text).body[0]
    except (SyntaxError, IndexError):
        return False
    if not isinstance(function, ast.FunctionDef):
        return False
    function.decorator_list = []
    closure = [ast.Name(name, ast.Store()) for name in code.co_freevars]
    assigned: list[ast.stmt] = [ast.Assign([name], ast.Constant(None)) for name in closure]
    if function.name not in code.co_freevars:  # where the function calls itself, by a global name
        assigned.append(ast.Global([function.name]))
    imports = [ast.Import([ast.alias(name)]) for name in sorted(imported)]
    outer = ast.FunctionDef("_outer", ast.arguments([], [], None, [], [], None, []), [*assigned, function], [])
    future = code.co_flags & __future__.annotations.compiler_flag
    tree = ast.fix_missing_locations(ast.Module([*imports, outer], []))
    compiled = compile_tree(tree, code.co_filename, future)
    return any(_same(each, code) for each in nested_codes(compiled) if each.co_name == code.co_name)


def _same(one: Any, other: Any) -> bool:
    """Compare code objects by everything except their position in a file."""
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
    """Give the text and the tree of the file or cell that code is from; empty ones if it cannot be parsed."""
    try:
        text = "".join(inspect.findsource(code)[0])
        return text, parse(text)
    except (OSError, SyntaxError, ValueError, IndexError):
        return "", ast.Module([], [])


def _imported_names(module: tuple[str, ast.Module]) -> set[str]:
    """Names that a module imports outside of functions and classes."""
    names: set[str] = set()
    nodes: list[ast.AST] = list(module[1].body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(each.asname or each.name).partition(".")[0] for each in node.names if each.name != "*"}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            nodes += ast.iter_child_nodes(node)
    return names


def _same_name_definitions(module: tuple[str, ast.Module], code: CodeType) -> Iterator[str]:
    """Give the file's definitions of the function's name: lines above it may have been added since it was loaded."""
    text, tree = module
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            yield definition_text(text, node)

"""Compiles generated modules with Numba, once for all processes."""

from __future__ import annotations
import __future__

import ast
import functools
import hashlib
import linecache
import re
import sys
import threading
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from encoders.compilation.code_cache import CodeFile, check_folder, code_name
from encoders.compilation.rewriting import rewrite_module
from encoders.source.parsing import compile_tree, parse

BatchFunction = Callable[..., None]
OPTIONS: dict[str, Any] = {
    "boundscheck": True,  # within the noise of measurement: an encoder must not read its neighbours' data
    "nogil": True,  # a request's thread does not hold up the others
    "error_model": "python",  # dividing by zero is an error, as it is in the plain Python function
}
_loaded: dict[tuple[str, Path | None], BatchFunction] = {}
_loading = threading.Lock()


def compile_batch(
    text: str,
    signature: Sequence[str],
    entry: str,
    folder: Path | None,
    generated: frozenset[str] | None = None,
) -> BatchFunction:
    """Compile a module's function for arguments of the types given, or load what another process compiled.

    signature: for each argument int64, float64, bool (scalars), or one of them with [] (a read-only array) or
        [w] (a writable one)
    folder: where the code is kept; None: nowhere
    generated: the functions that are machine code as they stand, where all others are to compute as Python does
    Raises what Numba raises (`compile_errors`) for text it cannot compile, NotMachineCodeError for what is known not to
    compute as Python does, ConfigError for a folder unfit for code.
    """
    key = (text, folder)
    found = _loaded.get(key)
    if found is None:
        with _loading:
            found = _loaded.get(key)
            if found is None:
                found = _loaded[key] = _compile(text, tuple(signature), entry, folder, generated)
    return found


def is_compiled(source: str) -> bool:
    """Tell whether this process has compiled, or loaded, a module that begins with a function's captured source."""
    return any(text.startswith(source) for text, _ in list(_loaded))


def _compile(
    text: str, signature: tuple[str, ...], entry: str, folder: Path | None, generated: frozenset[str] | None
) -> BatchFunction:
    tree = parse(text) if generated is None else rewrite_module(text, generated)
    if folder is not None:
        check_folder(folder)
    import numba

    name = code_name(text, signature, OPTIONS)
    module = _module(tree, text, name)
    if generated is not None:
        vars(module).update(_machine_forms())
    for global_name, value in list(vars(module).items()):
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and global_name != entry:
            setattr(module, global_name, numba.njit(**OPTIONS)(value))
    compiled = numba.njit(**OPTIONS)(getattr(module, entry))
    if folder is not None:
        compiled._cache = CodeFile(folder, name)
    compiled.compile(tuple(_numba_type(argument) for argument in signature))
    compiled.disable_compile()
    batch: BatchFunction = compiled
    return batch


@functools.cache
def _machine_forms() -> dict[str, Any]:
    """Give what takes the place of the generated functions that do nothing in Python."""
    from encoders.compilation.operations.conversion import as_text, borrow, borrow_texts
    from encoders.compilation.operations.value_types import Text

    return {"_borrow": borrow, "_texts": borrow_texts, "_as_text": as_text, "_NO_TEXT": Text(0)}


def _module(tree: ast.Module, text: str, name: str) -> ModuleType:
    """Run a tree as a module, under a name by which code from the cache finds it."""
    file = _file_name(text)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(f"delorean_encoder_{name}")
    sys.modules[module.__name__] = module
    exec(compile_tree(tree, file, __future__.annotations.compiler_flag), module.__dict__)  # noqa: S102  # our text, made of the caller's own function
    return module


def _file_name(text: str) -> str:
    return f"<compiled {hashlib.sha256(text.encode()).hexdigest()[:32]}>"


def _numba_type(argument: str) -> Any:
    from numba import types

    scalars = {"int64": types.int64, "float64": types.float64, "float32": types.float32, "bool": types.boolean}
    name, array, access = argument.partition("[")
    return types.Array(scalars[name], 1, "C", readonly=access != "w]") if array else scalars[name]


def explain(error: Exception, text: str, places: Container[int]) -> tuple[str, int | None]:
    """Say in one line why Numba could not compile, and in which line of the text as far as it says so.

    places: the lines that somebody wrote
    """
    message = str(error)
    # By its name alone: Numba takes it for a file, and shortens it to one relative to where the process stands.
    lines = [int(n) for n in re.findall(re.escape(_file_name(text)) + r'", line (\d+)', message)]
    line = next((n for n in lines if n in places), None)
    refused = re.search(r"\{\{(.*?)\}\}", message, re.DOTALL)
    if refused:
        return f"machine code has no {' '.join(refused[1].split())}", line
    called = re.search(r"No implementation of function .*found for signature:\s*>>> (\w+)\(([^\n]*)\)", message)
    if called:
        types = re.sub(r"Literal\[(\w+)\]\([^)]*\)", r"\1", called[2]).replace("unicode_type", "str")
        return f"machine code has no {called[1]}({types})", line
    for pattern in (
        r"Unknown attribute '\w+' of type \w+",
        r"Cannot unify .* for '[^']*'",
        r"Untyped global name '[^']*'[^\n]*",
        r"Cannot modify readonly array[^\n]*",
        r"Use of unsupported [^\n]*",
    ):
        match = re.search(pattern, message)
        if match:
            return " ".join(match[0].split()), line
    plain = [line for line in message.splitlines() if line.strip() and not line.startswith("Failed in")]
    return plain[0].strip() if plain else type(error).__name__, line


def compile_errors() -> type[Exception]:
    """Give the root of what Numba raises."""
    from numba.core.errors import NumbaError

    found: type[Exception] = NumbaError
    return found

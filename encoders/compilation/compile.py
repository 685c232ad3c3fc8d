"""Compiles modules with Numba, once for all processes that share a cache folder."""

from __future__ import annotations
import __future__

import ast
import functools
import graphlib
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
    "boundscheck": True,  # costs nothing measurable, and no encoder can read another context's data
    "nogil": True,  # threads of other requests run meanwhile
    "error_model": "python",  # dividing by zero raises, as in plain Python
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
    """Give a module's function, compiled for the given argument types or loaded from the cache folder.

    signature: for each argument int64, float64, float32 or bool for a scalar, with [r] appended for a read-only array,
        [w] for a writable one and [:,w] for a writable matrix
    folder: where compiled code is cached; None: nowhere
    generated: names of functions that are compiled unchanged; all others are rewritten to compute as Python does.
        None: no function is rewritten
    Raises Numba's errors (`compile_errors`) for text that it cannot compile, NotMachineCodeError for what would not
    compute as Python does, ConfigError for a folder that is not safe for code.
    """
    key = (text, folder)
    batch = _loaded.get(key)
    if batch is None:
        with _loading:
            batch = _loaded.get(key)
            if batch is None:
                batch = _loaded[key] = _compile(text, tuple(signature), entry, folder, generated)
    return batch


def is_compiled(source: str) -> bool:
    """Whether this process has compiled, or loaded, a module that starts with an encoder's captured source."""
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
    if folder is not None and not _calls_itself(tree):
        compiled._cache = CodeFile(folder, name)
    compiled.compile(tuple(_numba_type(argument) for argument in signature))
    compiled.disable_compile()
    batch: BatchFunction = compiled
    return batch


def _calls_itself(tree: ast.Module) -> bool:
    """Whether a function of a module calls itself, directly or through others.

    Numba's code of such functions holds addresses of the process that compiled it: loaded by another, it crashes.
    """
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    used = {
        name: {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and node.id in functions}
        for name, function in functions.items()
    }
    try:
        graphlib.TopologicalSorter(used).prepare()
    except graphlib.CycleError:
        return True
    return False


@functools.cache
def _machine_forms() -> dict[str, Any]:
    """Give the operations that replace the generated functions that do nothing in Python."""
    from encoders.compilation.operations.conversion import as_text, borrow, borrow_texts
    from encoders.compilation.operations.value_types import Text
    from encoders.compilation.operations.vocabulary import as_vocabulary

    forms = {"_borrow": borrow, "_texts": borrow_texts, "_as_text": as_text, "_vocabulary": as_vocabulary}
    return {**forms, "_NO_TEXT": Text(0)}


def _module(tree: ast.Module, text: str, name: str) -> ModuleType:
    """Execute a tree as a module, under the name by which cached code refers to it."""
    file = _file_name(text)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(f"delorean_encoder_{name}")
    sys.modules[module.__name__] = module
    exec(compile_tree(tree, file, __future__.annotations.compiler_flag), module.__dict__)  # noqa: S102  # generated from the caller's own function
    return module


def _file_name(text: str) -> str:
    return f"<compiled {hashlib.sha256(text.encode()).hexdigest()[:32]}>"


def _numba_type(argument: str) -> Any:
    from numba import types

    scalars = {"int64": types.int64, "float64": types.float64, "float32": types.float32, "bool": types.boolean}
    name, array, access = argument.partition("[")
    dimensions = 2 if access.startswith(":,") else 1
    return types.Array(scalars[name], dimensions, "C", readonly="w" not in access) if array else scalars[name]


def explain_compile_error(error: Exception, text: str, places: Container[int]) -> tuple[str, int | None]:
    """Describe in one line why Numba could not compile, and give the line of the text if Numba reports it.

    places: the lines that come from a source, as opposed to generated ones
    """
    message = str(error)
    # Only the file's name is matched: Numba shortens its path relative to the working directory.
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
    """Give the root of Numba's errors, without importing Numba before it is needed."""
    from numba.core.errors import NumbaError

    root: type[Exception] = NumbaError
    return root

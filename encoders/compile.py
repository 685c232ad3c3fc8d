"""Compiles generated modules with Numba, once for all processes.

The text's hash names a file, beside which Numba keeps its own cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, cast

from schemas.errors import ConfigError

Batch = Callable[..., None]
_OPTIONS: dict[str, Any] = {
    "boundscheck": True,  # within the noise of measurement: an encoder must not read its neighbours' data
    "nogil": True,  # a request's thread does not hold up the others
    "error_model": "python",  # dividing by zero is an error, as it is in the plain Python function
}
_loaded: dict[tuple[str, Path], Batch] = {}
_loading = threading.Lock()


def default_cache_folder() -> Path:
    """Where compiled encoders are kept unless one says otherwise."""
    return Path.home() / ".cache" / "delorean" / "encoders"


def compile_batch(text: str, signature: Sequence[str], entry: str, folder: Path) -> Batch:
    """Compile a module's function for arguments of the types given, or load what another process compiled.

    signature: for each argument int64, float64, bool (scalars), or one of them with [] (a read-only array) or
        [w] (a writable one)
    Raises what Numba raises (`compile_errors`) for text it cannot compile, ConfigError for a folder unfit for code.
    """
    key = (text, folder)
    found = _loaded.get(key)
    if found is None:
        with _loading:
            found = _loaded.get(key)
            if found is None:
                found = _loaded[key] = _compile(text, signature, entry, folder)
    return found


def is_compiled(source: str) -> bool:
    """Tell whether this process has compiled, or loaded, a module that begins with a function's captured source."""
    return any(text.startswith(source) for text, _ in list(_loaded))


def _compile(text: str, signature: Sequence[str], entry: str, folder: Path) -> Batch:
    import numba

    module = _load_module(text, folder)
    if hasattr(module, "_borrow"):
        vars(module)["_borrow"] = _borrow()
    for name, value in list(vars(module).items()):
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and name != entry:
            setattr(module, name, numba.njit(**_OPTIONS)(value))
    compiled = numba.njit(cache=True, **_OPTIONS)(getattr(module, entry))
    compiled.compile(tuple(_numba_type(argument) for argument in signature))
    compiled.disable_compile()
    batch: Batch = compiled
    return batch


@functools.cache
def _borrow() -> Any:
    """Make the compiled form of the generated `_borrow`: the same array without an owner to count."""
    from numba.core import cgutils
    from numba.extending import intrinsic

    struct, null = cast(Any, cgutils.create_struct_proxy), cast(Any, cgutils.get_null_value)

    @intrinsic
    def borrow(_typing: Any, array: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            view = struct(signature.args[0])(context, builder, value=arguments[0])
            view.meminfo = null(view.meminfo.type)
            view.parent = null(view.parent.type)
            return view._getvalue()

        return array(array), codegen

    return borrow


def _load_module(text: str, folder: Path) -> ModuleType:
    """Run the text as a module. What runs is the text itself; the file gives Numba's cache its place."""
    path = _write_once(text, folder)
    module = ModuleType(f"delorean_encoder_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # Numba finds what it cached by the module's name
    exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102  # our text, made of the caller's own function
    return module


def _file_name(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.py"


def _write_once(text: str, folder: Path) -> Path:
    """Write the module unless it is there: Numba's cache holds for as long as the file is the same."""
    path = folder / _file_name(text)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(folder)
        if path.is_file() and path.read_bytes() == text.encode():
            return path
        wrong = path.exists()
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
            if wrong:
                os.replace(temporary, path)
            else:
                with contextlib.suppress(FileExistsError):  # another process was first, with the same text
                    os.link(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError.because(
            f"compiled encoders cannot be kept in {folder}: {error}", "give another cache_folder, one you can write to"
        ) from error
    return path


def _check_private(folder: Path) -> None:
    """Refuse a folder where others could put code that would run here."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError.because(
            f"compiled encoders cannot be kept in {folder}: others can write to it", f"chmod 700 {folder}"
        )


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
    # By its name alone: Numba shortens the folder to one relative to where the process stands.
    lines = [int(n) for n in re.findall(_file_name(text) + r'", line (\d+)', message)]
    line = next((n for n in lines if n in places), None)
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

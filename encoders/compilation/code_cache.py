"""The cache of compiled encoders: one file for each module, named by everything that decides what the code does.

Numba's own cache is not used: the environment decides its folder (NUMBA_CACHE_DIR), whoever can write to that folder,
and it does not notice changes in functions that a cached function calls.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pickle
import platform
import stat
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

_RULES = ("operations", "rewriting")  # packages that decide what a text compiles to
_MODULES = ("probe.py", "code_cache.py")  # modules that do, or that decide which code may be kept
_DIGEST = hashlib.sha256().digest_size
_configured: list[str] = []


def use_cache_folder(folder: str | None) -> None:
    """Set the project's cache folder, for models that are bound from now on. Called by entry points."""
    _configured[:] = [] if folder is None else [folder]


def configured_cache_folder() -> str | None:
    """Give the folder that `use_cache_folder` set, if any."""
    return _configured[0] if _configured else None


def default_cache_folder() -> Path | None:
    """Give the default cache folder, ~/.cache/delorean/encoders, or None if it cannot be used.

    It cannot be used if the user has no home, or if the folder cannot be created, belongs to another user or can be
    written to by others. Each process then compiles for itself.
    """
    try:
        folder = Path.home() / ".cache" / "delorean" / "encoders"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):
        return None
    usable = _others_who_write(folder) is None and os.access(folder, os.R_OK | os.X_OK)
    return folder if usable else None


def check_folder(folder: Path) -> None:
    """Create a folder for machine code. Raises ConfigError if that fails, or if others could put code there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        problem = _others_who_write(folder)
        if problem is None and not os.access(folder, os.R_OK | os.X_OK):
            problem = "it cannot be read"
    except OSError as error:
        raise ConfigError.because(
            f"compiled encoders cannot be kept in {folder}: {error}", "give another cache_folder, one you can write to"
        ) from error
    if problem is not None:
        raise ConfigError.because(
            f"compiled encoders cannot be kept in {folder}: {problem}",
            f"chmod 700 {folder}, as its owner, or give another cache_folder",
        )


def _others_who_write(folder: Path) -> str | None:
    """Describe who else could put code into a folder, None if nobody; the superuser always could."""
    status = folder.stat()
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (os.getuid(), 0):
        return "others can write to it"
    return None


def code_name(text: str, signature: tuple[str, ...], options: Mapping[str, Any]) -> str:
    """Name a module's machine code by all that decides it: text, options, versions, processor and our own rules."""
    decided = [text, signature, sorted((name, repr(value)) for name, value in options.items()), _surroundings()]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:32]


@functools.cache
def _surroundings() -> list[str]:
    import llvmlite
    import numba
    import numpy as np
    from numba.core import config
    from numba.core.registry import cpu_target

    processor = cpu_target.target_context.codegen().magic_tuple()  # triple, name and features
    flags = sorted(
        f"{name}={getattr(config, name)!r}" for name in ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "USING_SVML")
    )
    versions = [numba.__version__, llvmlite.__version__, np.__version__, sys.version, platform.machine()]
    return [*versions, *map(repr, processor), *flags, _own_rules()]


def _own_rules() -> str:
    """Digest the modules that decide what a text compiles to, and what is kept of it."""
    here = files("encoders.compilation")
    digest = hashlib.sha256(b"".join(here.joinpath(name).read_bytes() for name in _MODULES))
    for package in _RULES:
        modules = [file for file in here.joinpath(package).iterdir() if file.name.endswith(".py")]
        for file in sorted(modules, key=lambda each: each.name):
            digest.update(f"{package}/{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


class CodeFile:
    """A file with one compiled function, with the interface that Numba's dispatchers expect of a cache.

    folder: checked by `check_folder`
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.nbc"
        self.cache_path = str(folder)

    def load_overload(self, _signature: Any, target: Any) -> Any:
        """Give the compiled function, or None if the file is missing or damaged."""
        from numba.core.compiler import CompileResult

        target.refresh()
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        digest, payload = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        rebuild: Any = CompileResult._rebuild  # Numba ships no types for it
        return rebuild(target, *pickle.loads(payload))  # noqa: S301  # nobody else can write to the folder

    def save_overload(self, _signature: Any, compiled: Any) -> None:
        """Write a compiled function. A full or read-only disk is ignored: the next process compiles again."""
        from numba.core.serialize import dumps

        if compiled.library.has_dynamic_globals:  # addresses that only this process has, as of large arrays
            return
        serialize: Any = dumps  # as above
        payload = serialize(compiled._reduce())
        content = hashlib.sha256(payload).digest() + payload
        with contextlib.suppress(OSError):
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.replace(temporary, self.path)
            finally:
                Path(temporary).unlink(missing_ok=True)

    def enable(self) -> None:
        """Do nothing: the cache is always enabled."""

    def disable(self) -> None:
        """Do nothing: callers that want no cache pass none."""

    def flush(self) -> None:
        """Do nothing: cached code never becomes stale."""

"""Machine code at rest: one file for each module, named by all that decides what the code does.

Numba's own cache is not used: its place is decided by the environment (NUMBA_CACHE_DIR), whoever may write there, and
of what a function calls it knows nothing.
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
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

_CODE_OF = ("machine", "rewriting")  # packages that decide what a text compiles to
_DIGEST = hashlib.sha256().digest_size


_configured: list[str] = []


def use_cache_folder(folder: str | None) -> None:
    """Keep compiled encoders where a project says, for models that are bound from now on. Entry points call it."""
    _configured[:] = [] if folder is None else [folder]


def configured_cache_folder() -> str | None:
    """Give what `use_cache_folder` was called with last."""
    return _configured[0] if _configured else None


def default_cache_folder() -> Path | None:
    """Give where compiled encoders are kept unless one says otherwise; None where there is no such place.

    None as well for a user without a home, or whose folder there cannot be written to or belongs to somebody else:
    each process compiles for itself then.
    """
    try:
        folder = Path.home() / ".cache" / "delorean" / "encoders"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):
        return None
    usable = _others_who_write(folder) is None and os.access(folder, os.R_OK | os.X_OK)
    return folder if usable else None


def check_folder(folder: Path) -> None:
    """Make a folder for machine code. Raises ConfigError where it cannot be made, or others could put code there."""
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
    """Say who else could put code there that would run here; the superuser could anywhere."""
    found = folder.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid not in (os.getuid(), 0):
        return "others can write to it"
    return None


def code_name(text: str, signature: tuple[str, ...], options: Mapping[str, Any]) -> str:
    """Name a module's machine code by all that decides it: text, options, compilers, processor, and our own rules."""
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
    """Digest the modules that say what a text compiles to."""
    here = files("encoders")
    found = hashlib.sha256(here.joinpath("probe.py").read_bytes())
    for package in _CODE_OF:
        for file in sorted(_modules(here.joinpath(package)), key=lambda each: each.name):
            found.update(f"{package}/{file.name}\n".encode() + file.read_bytes())
    return found.hexdigest()


def _modules(package: Traversable) -> Iterator[Traversable]:
    return (file for file in package.iterdir() if file.name.endswith(".py"))


class CodeFile:
    """A file that holds a compiled function, in the shape in which Numba's dispatchers ask a cache.

    folder: checked by `check_folder`
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.nbc"
        self.cache_path = str(folder)

    def load_overload(self, _signature: Any, target: Any) -> Any:
        """Give the compiled function, None where there is none, or the file is not whole."""
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
        return rebuild(target, *pickle.loads(payload))  # noqa: S301  # only we can write to the folder

    def save_overload(self, _signature: Any, compiled: Any) -> None:
        """Keep a compiled function, unless the disk is full or read-only: the next process compiles it then."""
        from numba.core.serialize import dumps

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
        """Do nothing: it always is."""

    def disable(self) -> None:
        """Do nothing: who wants no cache gives none."""

    def flush(self) -> None:
        """Do nothing: what is there stays true."""

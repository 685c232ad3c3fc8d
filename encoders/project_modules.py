"""Imports a project's own modules with the lowest priority: they never replace installed modules."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from schemas.errors import ConfigError

_folders: list[Path] = []  # of projects, as entry points opened them


def import_from_project(folder: Path, modules: Iterable[str] = ()) -> None:
    """Make the modules in a project's folder importable.

    The folder is appended to the path, so that none of its files replaces a module of this project, of Python or of an
    installed package.

    modules: those that the project's configuration names
    Raises ConfigError for a module whose name is already taken: see `refuse_hidden`.
    """
    folder = folder.resolve()
    if folder not in _folders:
        _folders.append(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    for module in modules:
        refuse_hidden(module)


def refuse_hidden(module: str) -> None:
    """Raise ConfigError if a project's folder contains the module, but importing it gives another one.

    The first part of the name decides: `encoders.mine` is imported from this project's `encoders`. A copy with the same
    source, as on a cluster's driver, counts as the same module.
    """
    top, *below = module.split(".")
    for folder in _folders:
        try:
            here = _has_module(folder.joinpath(top, *below))
        except PermissionError:  # this process cannot import its modules either
            continue
        if not here or _is_within(top, folder) or _is_copy(top, folder):
            continue
        if below and _has(top, below):
            continue  # such as `encoders.library`
        raise ConfigError.because(
            f"the module '{module}' of {folder} cannot be imported: '{top}' is already {_whose(top)}",
            f"rename {folder / top} to a name of your own, such as my_{top}",
        )


def _is_within(top: str, folder: Path) -> bool:
    return any(folder == place.resolve() or folder in place.resolve().parents for place in _places(top))


def _has_module(file: Path) -> bool:
    return file.is_dir() or file.with_name(f"{file.name}.py").is_file()


def _is_copy(top: str, folder: Path) -> bool:
    """Whether the imported module has the same source as the project's."""
    spec = _spec(top)
    source = getattr(spec.loader, "get_source", None) if spec is not None else None
    own = next((f for f in (folder / f"{top}.py", folder / top / "__init__.py") if f.is_file()), None)
    try:
        return source is not None and own is not None and source(top) == own.read_text()
    except (ImportError, OSError, UnicodeDecodeError):
        return False


def _has(top: str, below: list[str]) -> bool:
    return any(_has_module(place.joinpath(*below)) for place in _places(top) if place.is_dir())


def _spec(top: str) -> ModuleSpec | None:
    loaded = sys.modules.get(top)
    try:
        return getattr(loaded, "__spec__", None) or find_spec(top)
    except (ImportError, ValueError):
        return None


def _places(top: str) -> list[Path]:
    """Give the folders or the file of a top-level module."""
    spec = _spec(top)
    if spec is None:
        return []
    return [Path(place) for place in [*(spec.submodule_search_locations or []), spec.origin] if place]


def _whose(top: str) -> str:
    if top in sys.stdlib_module_names:
        return "a module of Python's own"
    ours = Path(__file__).resolve().parents[1]
    if _is_within(top, ours / top):
        return "a package of DeLorean's"
    of_project = any(_is_within(top, folder) for folder in _folders)
    return "a module of another project in this process" if of_project else "an installed package"

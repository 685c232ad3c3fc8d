"""How a project's own modules are imported: after ours and all installed ones, never in their place."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from schemas.errors import ConfigError

_folders: list[Path] = []  # of projects, as entry points opened them


def import_from_project(folder: Path, modules: Iterable[str] = ()) -> None:
    """Let the modules in a project's folder be imported.

    The folder comes last on the path, so that none of its files takes the place of a module of ours, of Python's or of
    an installed one, whatever it is called.

    modules: those that the project's configuration names
    Raises ConfigError for one that cannot be had under its name: see `refuse_hidden`.
    """
    folder = folder.resolve()
    if folder not in _folders:
        _folders.append(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    for module in modules:
        refuse_hidden(module)


def refuse_hidden(module: str) -> None:
    """Raise ConfigError where a project's folder has a module, and its name means another one.

    Only its first name counts: `encoders.mine` is looked for in our `encoders`.
    """
    top, *below = module.split(".")
    for folder in _folders:
        file = folder.joinpath(top, *below)
        if not (file.is_dir() or file.with_name(f"{file.name}.py").is_file()) or _is_within(top, folder):
            continue
        if below and _has(top, below):
            continue  # `encoders.library` is ours
        raise ConfigError.because(
            f"the module '{module}' of {folder} cannot be imported: '{top}' is already {_whose(top)}",
            f"rename {folder / top} to a name of your own, such as my_{top}",
        )


def _is_within(top: str, folder: Path) -> bool:
    return any(folder == place.resolve() or folder in place.resolve().parents for place in _places(top))


def _has(top: str, below: list[str]) -> bool:
    files = [place.joinpath(*below) for place in _places(top) if place.is_dir()]
    return any(file.is_dir() or file.with_name(f"{file.name}.py").is_file() for file in files)


def _places(top: str) -> list[Path]:
    """Give the folder or file of a top-level module."""
    loaded = sys.modules.get(top)
    try:
        spec = getattr(loaded, "__spec__", None) or find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    return [Path(place) for place in [*(spec.submodule_search_locations or []), spec.origin] if place]


def _whose(top: str) -> str:
    if top in sys.stdlib_module_names:
        return "a module of Python's own"
    ours = Path(__file__).resolve().parents[1]
    return "a package of DeLorean's" if _is_within(top, ours / top) else "an installed package"

"""Where a module comes from: the standard library, an installed distribution, or the project's own files."""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType


def is_standard(module: str) -> bool:
    """Whether a module is part of the standard library; `__main__` is not."""
    return module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"


def distribution_of(module: str) -> tuple[str, str] | None:
    """Give the name and version of the distribution that a module belongs to, None for the project's own files.

    Editable installs (`pip install -e`) count as own files: they change without a new version.
    """
    loaded = sys.modules.get(module)
    if loaded is None or is_standard(module) or not _is_installed(loaded):
        return None
    for name in _distributions().get(module.partition(".")[0], ()):
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return any(folder in path.parents for folder in _installed_folders())


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    return tuple(Path(folder).resolve() for folder in sorted(folders))


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {module: sorted(set(names)) for module, names in packages_distributions().items()}

"""The import lines of a module that is written."""

from __future__ import annotations

import sys
from collections import defaultdict

_INSTALLED = ("encoders", "numba", "numpy", "pyarrow", "schemas")


class Imports:
    """Import lines, each once, in the usual order: the standard library's, packages', the project's."""

    def __init__(self) -> None:
        self.modules: set[tuple[str, str]] = set()
        self.names: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, module: str, name: str | None = None, alias: str | None = None) -> None:
        """Import a module, or a name of it, under another name if one is given."""
        if name is None:
            self.modules.add((module, alias or module))
        else:
            self.names[module].add(name if alias in (None, name) else f"{name} as {alias}")

    def text(self) -> str:
        """Write them, each group followed by an empty line."""
        groups: list[list[str]] = [[], [], []]
        for module, alias in sorted(self.modules):
            groups[_group(module)].append(f"import {module}" if alias == module else f"import {module} as {alias}")
        for module in sorted(self.names):
            groups[_group(module)].append(f"from {module} import {', '.join(sorted(self.names[module]))}")
        return "\n".join("".join(f"{line}\n" for line in group) for group in groups if group)


def _group(module: str) -> int:
    top = module.partition(".")[0]
    return 0 if top in sys.stdlib_module_names else 1 if top in _INSTALLED else 2

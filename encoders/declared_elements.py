"""The elements that the services of open projects declare, so that encoder modules take their types from there.

A project registers where its declarations are when it is opened. `data_key` reads them when a module is imported, so an
encoder always has its types, and whatever is sent to executors or packaged has them too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from schemas.data_keys import DataKey, element_name
from schemas.errors import DataKeyError

ReadElements = Callable[[], Mapping[str, DataKey]]


@dataclass(frozen=True)
class ProjectElements:
    """Reads the elements of a project by name: those that its services declare now, and those captured or published."""

    declared: ReadElements
    captured: ReadElements


_projects: dict[Path, ProjectElements] = {}  # by folder, the last opened last


def declare_elements(folder: Path, elements: ProjectElements) -> None:
    """Make the elements of a project available to `data_key` in its modules, and at prompts until another is opened."""
    _projects.pop(folder.resolve(), None)
    _projects[folder.resolve()] = elements


def data_key(name: str) -> DataKey:
    """Return a data element as the services of the project declare it, or else as it was last captured or published.

    name: of the element; `viewing_history@2` is the second one of that name, which encoders read as `viewing_history_2`

    A module gets the declarations of the project whose folder contains it; a notebook, those of the project that was
    opened last. Raises DataKeyError where no project is open, and for an element that it does not have.
    """
    name = element_name(name)
    found = _project_of(sys._getframe(1).f_globals.get("__file__"))  # the module that calls
    if found is None:
        raise DataKeyError.because(
            f"data_key('{name}'): no project is open, so nothing declares its type",
            f"open it before: open_project(…), or declare the type here: service_element('{name}', …)",
        )
    folder, project = found
    declared = project.declared()
    known = declared if name in declared else {**project.captured(), **declared}
    if name not in known:
        raise DataKeyError.unknown(f"element of the project in {folder}: no service declares it", name, known)
    return replace(known[name], resolved=True)


def declared_element(name: str, file: str | Path) -> DataKey | None:
    """Return an element as the services declare it of the project that a file belongs to; None: they do not."""
    found = _project_of(str(file))
    return None if found is None else found[1].declared().get(name)


def _project_of(file: str | None) -> tuple[Path, ProjectElements] | None:
    """Return the project whose folder contains a file, the innermost of several; else the one opened last."""
    above = [] if file is None else list(Path(file).resolve().parents)
    folder = next((folder for folder in above if folder in _projects), next(reversed(_projects), None))
    return None if folder is None else (folder, _projects[folder])

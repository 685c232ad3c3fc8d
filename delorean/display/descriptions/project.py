"""Describes open projects and their collections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from delorean.display.description import describes
from delorean.display.parts import Facts, Note, Part, Table
from delorean.project.open_project import OpenProject, Shelf
from schemas.errors import DeloreanError

_COLLECTIONS = ("experiments", "labels", "feature_sets", "runs", "snapshots", "context_sets")
_MOST_NAMES = 5  # of each collection


@describes(Shelf)
def _collection(collection: Shelf[Any]) -> Iterator[Part]:
    names = collection.names()
    yield Table([{"name": name} for name in names])
    yield Note('["…"] gives one of them' if names else "it is empty")


@describes(OpenProject)
def _project(project: OpenProject) -> Iterator[Part]:
    yield Facts({"index": project.index.uri, "storage": project.storage.uri})
    yield Table([{"": name, **_names(getattr(project, name))} for name in _COLLECTIONS])


def _names(collection: Shelf[Any]) -> dict[str, Any]:
    try:
        names = collection.names()
    except DeloreanError as error:
        return {"count": None, "names": f"cannot be listed: {error}"}
    return {"count": len(names), "names": ", ".join(names[:_MOST_NAMES]) + (", …" if names[_MOST_NAMES:] else "")}

"""Pointers of a registry: names such as `production` that are moved from version to version.

A pointer is a log of numbered moves. A move is one conditional write under the next number, so of several movers at
once exactly one succeeds, and a mover that dies has moved the pointer or has not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath

from delorean.registry.records import POINTERS, PointerMove, read_record, record_names, write_record
from delorean.users import current_user
from schemas.errors import MissingFileError, PointerMovedError, RegistryError
from snapshotter.storage import Storage, require_plain_name

_NO_VERSION = ""


class Pointers:
    """The pointers in a storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def names(self) -> list[str]:
        """Return the names of all pointers."""
        return sorted({PurePosixPath(path).parent.name for path in record_names(self._storage, POINTERS)})

    def current(self, name: str) -> PointerMove | None:
        """Return the latest move of a pointer, which says where it points; None: there is no such pointer.

        Raises RegistryError for a record that cannot be read.
        """
        paths = record_names(self._storage, f"{POINTERS}/{name}")
        return read_record(self._storage, paths[-1], PointerMove) if paths else None

    def history(self, name: str) -> list[PointerMove]:
        """Return all moves of a pointer, the latest first. Raises RegistryError for an unknown pointer."""
        paths = record_names(self._storage, f"{POINTERS}/{name}")
        if not paths:
            raise RegistryError.unknown("pointer", name, self.names())
        return [read_record(self._storage, path, PointerMove) for path in reversed(paths)]

    def pointing_at(self, version: str) -> list[str]:
        """Return the names of the pointers that point at a version."""
        moves = ((name, self.current(name)) for name in self.names())
        return [name for name, move in moves if move is not None and move.version == version]

    def move(self, name: str, version: str, reason: str, by: str | None, expected: str | None) -> PointerMove:
        """Move a pointer, or create it; one that points there already stays, and its latest move is returned.

        expected: the version that it must point at, empty: it must not exist; None: any

        Raises PointerMovedError if it points elsewhere, or another process moves it at the same time.
        """
        require_plain_name("pointer", name)
        latest = self.current(name)
        if latest is not None and latest.version == version:
            return latest
        _require_expected(name, latest, expected)
        return self._append(name, latest, version, reason, by, rollback=False)

    def rollback(
        self, name: str, reason: str, by: str | None, expected: str | None, is_usable: Callable[[str], bool]
    ) -> PointerMove:
        """Undo the latest move that is not undone yet: two rollbacks in a row go back two moves.

        is_usable: returns whether a version still exists

        Raises RegistryError where there is nothing to go back to, PointerMovedError as `move` does.
        """
        history = self.history(name)
        latest = history[0]
        _require_expected(name, latest, expected)
        standing: list[str] = []
        for move in reversed(history):
            if move.rollback:
                standing.pop()
            else:
                standing.append(move.version)
        if len(standing) < 2:
            raise RegistryError.because(
                f"pointer '{name}' has no earlier version than '{latest.version}'",
                f"move it: delorean registry move {name} VERSION --reason …",
            )
        if not is_usable(standing[-2]):
            raise RegistryError.because(
                f"version '{standing[-2]}', where '{name}' pointed before, was removed",
                f"move it to another one: delorean registry move {name} VERSION --reason …",
            )
        return self._append(name, latest, standing[-2], reason, by, rollback=True)

    def _append(
        self, name: str, latest: PointerMove | None, version: str, reason: str, by: str | None, *, rollback: bool
    ) -> PointerMove:
        if not reason.strip():
            raise RegistryError.because(f"moving '{name}' has no reason", "say why: it is recorded")
        number = 1 if latest is None else latest.number + 1
        previous = None if latest is None else latest.version
        now = datetime.now(UTC)
        move = PointerMove(name, number, version, previous, rollback, now, by or current_user(), reason)
        if not write_record(self._storage, f"{POINTERS}/{name}/{number:08d}.json", move):
            raise _moved(name, previous, self._move(name, number))
        return move

    def _move(self, name: str, number: int) -> PointerMove | None:
        try:
            return read_record(self._storage, f"{POINTERS}/{name}/{number:08d}.json", PointerMove)
        except MissingFileError:
            return None


def _require_expected(name: str, latest: PointerMove | None, expected: str | None) -> None:
    actual = _NO_VERSION if latest is None else latest.version
    if expected is not None and expected != actual:
        raise _moved(name, expected or None, latest)


def _moved(name: str, expected: str | None, latest: PointerMove | None) -> PointerMovedError:
    before = "that it does not exist" if expected is None else f"version '{expected}'"
    who = "" if latest is None else f": moved by {latest.by} at {latest.at:%Y-%m-%d %H:%M:%S} UTC, {latest.reason}"
    actual = "it does not exist" if latest is None else f"it points at '{latest.version}'"
    return PointerMovedError.because(
        f"pointer '{name}': expected {before}, but {actual}{who}", "look at its history, then move it from there"
    )

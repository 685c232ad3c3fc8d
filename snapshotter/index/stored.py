"""Records as indexes keep them: JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from schemas.errors import DeloreanError, SnapshotIndexError

_Record = TypeVar("_Record")


def read_record(uri: str, read: Callable[[Any], _Record], text: str) -> _Record:
    """Read a record of the index at a URI. Raises SnapshotIndexError for one that cannot be read."""
    try:
        return read(json.loads(text))
    except (DeloreanError, KeyError, TypeError, ValueError) as error:
        raise SnapshotIndexError.because(
            f"{uri} holds a record that cannot be read: {error!r} in {text[:80]}…", "restore the index from a copy"
        ) from error

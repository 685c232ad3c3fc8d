"""Records a test's declaration when it is first served or assigned: one that changes under way has no valid result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from delorean.ab_tests.declaration import AbTest
from schemas.errors import AbTestError, CorruptFileError, MissingFileError
from schemas.strict_json import json_text
from snapshotter.storage import Storage

FOLDER = "ab_tests"
QUERIES = f"{FOLDER}/_queries"
"""Files of metrics' queries under way; those that a killed job leaves may be deleted."""

_NOT_FIXED = ("contexts", "tables")  # fields that may change while a test runs: neither allocation nor plan


def start_test(test: AbTest, storage: Storage) -> bool:
    """Record a test's declaration when it is first served or assigned; True if it was recorded now.

    Raises AbTestError where the recorded one differs: a test that changes under way has no valid result.
    """
    created = storage.create(_path(test), json_text(test.to_json()).encode())
    if not created:
        require_unchanged(test, storage)
    return created


def require_unchanged(test: AbTest, storage: Storage) -> None:
    """Raise AbTestError if a test has started with another declaration. It names the fields."""
    recorded = _recorded(test, storage)
    if recorded is None:
        return
    before, now = recorded.to_json(), test.to_json()
    changed = [name for name in sorted({*before, *now} - {*_NOT_FIXED}) if before.get(name) != now.get(name)]
    if changed:
        place, was, is_now = _first_difference(changed[0], before.get(changed[0]), now.get(changed[0]))
        raise AbTestError.because(
            f"test '{test.name}' has started with another declaration: {', '.join(changed)} changed; {place} was "
            f"{was!r}, is {is_now!r}",
            "undo the change, or give the test another name",
        )


def _first_difference(place: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the first place in which two values differ, and what each has there."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        name = next(name for name in [*before, *now] if before.get(name) != now.get(name))
        return _first_difference(f"{place}.{name}", before.get(name), now.get(name))
    return place, before, now


def _path(test: AbTest) -> str:
    return f"{FOLDER}/{test.name}/declaration.json"


def _recorded(test: AbTest, storage: Storage) -> AbTest | None:
    """Read the declaration with which a test has started; what it lacks has its default."""
    path = _path(test)
    try:
        with storage.open_input(path) as file:
            return msgspec.convert(msgspec.json.decode(file.read()), AbTest)
    except MissingFileError:
        return None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CorruptFileError.because(f"'{path}' is not a declaration: {error}", "restore it from a copy") from error

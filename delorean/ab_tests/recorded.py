"""Records a test's declaration when it is first served or assigned: one that changes under way has no valid result."""

from __future__ import annotations

import msgspec

from delorean.ab_tests.declaration import AbTest
from schemas.errors import AbTestError, CorruptFileError, MissingFileError
from schemas.strict_json import json_text
from snapshotter.storage import Storage

FOLDER = "ab_tests"
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
        raise AbTestError.because(
            f"test '{test.name}' has started with another declaration: {', '.join(changed)} changed, such as "
            f"{changed[0]} from {before.get(changed[0])} to {now.get(changed[0])}",
            "undo the change, or give the test another name",
        )


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

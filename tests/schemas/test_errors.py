from __future__ import annotations

import inspect
import re

import pytest

from schemas import errors
from schemas.errors import DeloreanError, LabelError, NaiveTimeError


def drawn_tree() -> dict[str, str | None]:
    """Each error in the module's docstring with the one it is drawn under."""
    drawing = (errors.__doc__ or "").split("```")[1]
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in drawing.strip().splitlines():
        name = re.search(r"\w*Error", line)
        assert name is not None, line
        depth = name.start()
        above = [(at, error) for at, error in above if at < depth]
        parents[name[0]] = above[-1][1] if above else None
        above.append((depth, name[0]))
    return parents


def test_the_tree_that_is_drawn_is_the_tree_there_is() -> None:
    classes = {
        name: None if error is DeloreanError else error.__bases__[0].__name__
        for name, error in inspect.getmembers(errors, inspect.isclass)
        if error.__module__ == errors.__name__
    }
    assert drawn_tree() == classes


def test_every_error_says_what_it_is_for_and_ends_in_error() -> None:
    for name in drawn_tree():
        assert name.endswith("Error")
        assert getattr(errors, name).__doc__


FINAL = {
    *("ConfigError", "DataKeyError", "NaiveTimeError", "ReplayError", "LabelError", "ParadoxError", "EncoderError"),
    *("UndeclaredKeyError", "EncoderOutputError", "FingerprintError", "TrainingError", "PackageError"),
    *("GoldenRowsError", "WithdrawnError", "ComparisonError", "AbTestError", "RegistryError", "PointerMovedError"),
}
MAY_BE_MENDED_BY = {
    "DeloreanError": "whatever it is",
    "SetupError": "a machine that gets what it lacks",
    "SelectionError": "events that are still to come",
    "ServiceError": "the service",
    "ProxyUnavailableError": "the proxy, once it is up",
    "StorageError": "the storage",
    "CorruptFileError": "a copy that somebody restores",
    "MissingFileError": "a copy that somebody restores, or the job that still writes it",
    "SnapshotIndexError": "the index",
    "UnreadableRecordError": "a copy that somebody restores",
    "NotInIndexError": "the job that still publishes it",
    "QualityError": "a capture that is more complete",
    "EmptyLabelsError": "rows that are still to come",
    "JobError": "a cluster that works",
    "TrackingError": "the tracking server",
}


def test_each_error_is_final_or_may_be_mended_by_something_other_than_a_person_who_edits() -> None:
    assert {name for name in drawn_tree() if getattr(errors, name).final} == FINAL
    assert drawn_tree().keys() - FINAL == MAY_BE_MENDED_BY.keys()


def test_messages_keep_the_class_they_were_asked_of() -> None:
    assert type(NaiveTimeError.because("x")) is NaiveTimeError
    assert type(LabelError.unknown("label", "x", [])) is LabelError


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ([], "unknown key 'vidoes' → known: none"),
        (["videos", "lists", "videos"], "unknown key 'vidoes' → did you mean 'videos'? known: lists, videos"),
        (["a"], "unknown key 'vidoes' → known: a"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_known_one(known: list[str], message: str) -> None:
    assert str(DeloreanError.unknown("key", "vidoes", known)) == message


def test_a_message_without_a_hint_has_no_arrow() -> None:
    assert str(DeloreanError.because("broken")) == "broken"

"""The parts of a feature set's version: for each, what became known between two moments.

A version that a scheduled experiment generates for a day has the files of the version before, and those of what became
known since. Where each part comes from is recorded by the version that computed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from delorean.feature_sets.reusable import Computation
from delorean.state.sources import PinnedSources
from schemas.errors import ReplayError

PARTS = "parts"  # in the lineage


class Part(msgspec.Struct, frozen=True, array_like=True):
    """The label rows whose outcome became known after `since` and up to `until`.

    At rest it is a short list, because each version of a year of days lists all of them.

    labels: the id of their label data; contexts, items: how many these are
    since: None: everything up to `until`
    earliest, latest: the first and last time of the rows
    version: of the feature set: its record says what the part was computed from. None: the version that is being made
    """

    labels: str
    since: datetime | None
    until: datetime
    contexts: int
    items: int
    earliest: datetime
    latest: datetime
    version: int | None = None


@dataclass(frozen=True)
class PartRecord:
    """What a part was computed from, in the record of the version that computed it."""

    labels: str
    sources: PinnedSources
    confidence: Mapping[str, Mapping[str, float]]
    computation: Computation


def parts_of(lineage: Mapping[str, Any]) -> tuple[Part, ...]:
    """Return the parts of a version, the oldest first; none if it was generated from one set of label data."""
    return msgspec.convert(lineage.get(PARTS, ()), tuple[Part, ...])


def with_version(lineage: Mapping[str, Any], version: int) -> Mapping[str, Any]:
    """Name the version in the parts that it computed."""
    if PARTS not in lineage:
        return lineage
    parts = [
        msgspec.structs.replace(part, version=version) if part.version is None else part for part in parts_of(lineage)
    ]
    return {**lineage, PARTS: msgspec.to_builtins(parts)}


def find_part(part: Part, records: tuple[PartRecord, ...]) -> PartRecord:
    """Return a part's record. Raises ReplayError if the version that computed it has none."""
    for record in records:
        if record.labels == part.labels:
            return record
    raise ReplayError.because(
        f"version {part.version} has no record of its part of label data '{part.labels}'",
        "restore the folder _delta_log of the feature set from a copy",
    )

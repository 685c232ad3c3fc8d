"""What the parts of a version were computed from, read from the versions that computed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from delorean.feature_sets.parts import Part, PartRecord, find_part, parts_of
from delorean.feature_sets.table import find_record, lineage_of


def part_records(uri: str, parts: Sequence[Part]) -> list[PartRecord]:
    """Read what parts were computed from. Raises ReplayError for one without a record."""
    made = {version: find_record(uri, version) for version in {part.version for part in parts} if version is not None}
    records = {version: () if record is None else record.parts for version, record in made.items()}
    return [find_part(part, records.get(part.version or 0, ())) for part in parts]


def sources_lineage(uri: str, version: int | None = None) -> dict[str, Any]:
    """Return the lineage of a version with the sources of all its parts. Raises what `lineage_of` raises."""
    lineage = lineage_of(uri, version)
    for record in part_records(uri, parts_of(lineage)):
        for what, ids in (("snapshots", record.sources.snapshots), ("globals", record.sources.globals)):
            lineage[what] = {
                name: list(dict.fromkeys([*ids.get(name, ()), *seen])) for name, seen in lineage[what].items()
            }
        shares = lineage["confidence"]
        lineage["confidence"] = {name: {**record.confidence.get(name, {}), **seen} for name, seen in shares.items()}
    return lineage

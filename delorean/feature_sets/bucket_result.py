"""What a bucket task reports: the file that it wrote, and what the file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from delorean.feature_sets.digest import FeatureDigest
from delorean.state.provenance import SpreadReport
from snapshotter.records import DataFile


@dataclass(frozen=True)
class BucketResult:
    """What a bucket task wrote and saw.

    items: items of the rows written
    earliest, latest: the first and last time coordinate, microseconds; None when no row is left
    absent: element → rows without it
    spread: of all rows, also of those dropped for it
    digest: of the rows written
    seconds: step → wall time
    """

    file: DataFile
    items: int
    earliest: int | None
    latest: int | None
    absent: Mapping[str, int]
    spread: SpreadReport
    digest: FeatureDigest
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Write the result as plain fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        spread = SpreadReport(tuple(fields["spread"]["counts"]), fields["spread"]["beyond"])
        digest = FeatureDigest.from_json(fields["digest"])
        return cls(**{**fields, "file": DataFile.from_json(fields["file"]), "spread": spread, "digest": digest})

"""What a bucket task reports: the file that it wrote, and a summary of the file's rows; or what it lacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from delorean.feature_sets.digest import FeatureDigest
from delorean.state.provenance import SpreadReport
from snapshotter.records import DataFile


@dataclass(frozen=True)
class BucketResult:
    """The result of a bucket task.

    items: of the rows written
    earliest, latest: the first and last time coordinate, microseconds; None when no row is left
    absent: element → rows without it, of those whose task can have it
    spread: of all rows, including those dropped for it
    digest: of the rows written
    seconds: step → wall time
    adapted: element → run or version of another type than the encoders' → rows that it served
    not_copied: why nothing was copied from the earlier version that the plan names; empty otherwise
    task_items: task → items of its rows; empty for label data of one use
    """

    file: DataFile
    items: int
    earliest: int | None
    latest: int | None
    absent: Mapping[str, int]
    spread: SpreadReport
    digest: FeatureDigest
    seconds: Mapping[str, float]
    adapted: Mapping[str, Mapping[str, int]]
    not_copied: str = ""
    task_items: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BucketOutcome:
    """What became of a bucket task.

    result: None if rows need older snapshots than the plan lists; nothing is written then
    unserved: the elements of which they need them
    """

    result: BucketResult | None
    unserved: tuple[str, ...] = ()

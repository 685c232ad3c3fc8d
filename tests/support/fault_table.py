"""The cells of tables of faults: what fails, at which moment of a job, and how the job ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import pytest

# How the job ends that is at work: it goes on, or dies, or fails with an error that names the cause.
GOES_ON, DIES = "done", "dead"
NOT_WRITTEN = "StorageError: could not write"
FULL = "SnapshotIndexError: index sqlite://.* → check whether its disk is full or broken"


class Stage(StrEnum):
    """Where a job is in its work."""

    LABELS = "in its label data"
    BEFORE = "before the first file"
    MIDWAY = "in mid-file"
    TABLE = "before its Delta table"
    HELD = "after the files"
    PUBLISHING = "during publishing"
    UNANSWERED = "before its answer"
    RECORDING = "before its record"
    DONE = "after publishing"


class Failure(StrEnum):
    """The fault that strikes meanwhile."""

    DRIVER = "driver killed"
    SPARK_DRIVER = "driver of Spark killed"
    ANOTHER = "another does the same"
    WORKER = "Python workers killed"
    EXECUTOR = "executor of a cluster killed"
    HANGING = "executor of a cluster hangs"
    PROXY = "Prana proxy killed"
    NODE = "Cassandra node killed"
    HUNG_NODE = "Cassandra node hangs"
    STORAGE = "storage refuses writes"
    CUT = "connection cut"
    DISK = "disk is full"


def cells(stages: Sequence[Stage], expected: Mapping[Failure, Sequence[str | None]]) -> list[Any]:
    """Give the cells of a table: the outcome of a job by failure and stage. None: no such cell."""
    return [
        pytest.param(failure, stage, outcome, id=f"{failure}, {stage}")
        for failure, outcomes in expected.items()
        for stage, outcome in zip(stages, outcomes, strict=True)
        if outcome is not None
    ]


def in_words(outcome: str) -> str:
    """Describe how a job ended."""
    return {GOES_ON: "goes on", DIES: "dies"}.get(outcome, "fails")

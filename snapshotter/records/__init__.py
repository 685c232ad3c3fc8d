"""Records of the index: context sets, snapshot runs and versions of global elements."""

from schemas.times import END_OF_TIME, from_micros, to_micros
from snapshotter.records.context_set import (
    ContextGroup,
    ContextSet,
    FailedExperiment,
    SelectedExperiment,
    StratumReport,
)
from snapshotter.records.data_file import DataFile
from snapshotter.records.global_version import GlobalVersion
from snapshotter.records.published_name import PublishedName, RecordKind, UnreadableRecord, Withdrawal
from snapshotter.records.record_text import JsonRecord, record_text
from snapshotter.records.snapshot_run import ServiceSnapshot, SnapshotRun

__all__ = [
    "END_OF_TIME",
    "ContextGroup",
    "ContextSet",
    "DataFile",
    "FailedExperiment",
    "GlobalVersion",
    "JsonRecord",
    "PublishedName",
    "RecordKind",
    "SelectedExperiment",
    "ServiceSnapshot",
    "SnapshotRun",
    "StratumReport",
    "UnreadableRecord",
    "Withdrawal",
    "from_micros",
    "record_text",
    "to_micros",
]

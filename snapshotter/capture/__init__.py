"""Captures the state of online services for a context set."""

from snapshotter.capture.drift import DriftAlert, recent_drift
from snapshotter.capture.run_checks import Floor
from snapshotter.capture.snapshot_job import SnapshotOptions, take_snapshot, take_snapshots
from snapshotter.capture.unpublished_files import is_half_written, unpublished_files

__all__ = [
    "DriftAlert",
    "Floor",
    "SnapshotOptions",
    "is_half_written",
    "recent_drift",
    "take_snapshot",
    "take_snapshots",
    "unpublished_files",
]

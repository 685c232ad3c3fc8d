"""The feature sets in a storage, and their versions as the tables' logs record them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from delorean.feature_sets.table import FOLDER, LINEAGE, open_table
from snapshotter.records import from_micros
from snapshotter.storage import Storage
from snapshotter.storage.delta import USER_METADATA
from snapshotter.storage.delta_log import commits


@dataclass(frozen=True)
class FeatureSetVersion:
    """A version as recorded in its table's log.

    experiment: the id of the experiment that it was generated for; None: without one, or by another program
    lineage: its sources; empty where another program wrote it
    """

    version: int
    committed_at: datetime
    experiment: str | None
    lineage: Mapping[str, Any]


def feature_sets(storage: Storage) -> list[str]:
    """Return the names of the feature sets in a storage, sorted."""
    paths = [file.path.split("/") for file in storage.list(FOLDER)]
    return sorted({path[1] for path in paths if path[2:3] == ["_delta_log"]})


def versions_of(uri: str) -> list[FeatureSetVersion]:
    """Return all versions of a feature set, the newest first. Raises ConfigError for one that does not exist."""
    return [
        FeatureSetVersion(
            int(entry["version"]),
            from_micros(int(entry["timestamp"]) * 1000),
            entry.get(USER_METADATA) or None,
            json.loads(entry.get(LINEAGE, "{}")),
        )
        for entry in commits(uri, int(open_table(uri).version()))
    ]

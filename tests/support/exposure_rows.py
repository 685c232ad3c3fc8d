"""Rows of the exposure log, as a scorer of videos would write them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from delorean.exposures import Exposure, ExposureLog
from schemas.data_keys import context_variable, item
from schemas.times import to_micros
from snapshotter.storage import Storage

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
CONTEXT = (context_variable("profile_id", "int64"), context_variable("cell", "string"))  # a name of ours, too
ITEMS = (item("video_id", "int64"),)


def exposure(number: int, **changes: Any) -> Exposure:
    """A row that differs in every column from those of other numbers."""
    shown = 1 + number % 3
    row = {
        "request_id": f"request-{number}",
        "time": to_micros(NOON) + number,
        "test": "homepage",
        "cell": ("control", "candidate")[number % 2],
        "package": "abc",
        "task_type": None,
        "context": pa.table({"cell": pa.array(["US" if number % 2 else None], pa.string()), "profile_id": [number]}),
        "items": pa.table({"video_id": np.arange(shown) + number}),
        "positions": np.arange(shown, dtype=np.int32)[::-1],
        "scores": np.linspace(1, np.nan if number % 5 == 0 else 0, shown, dtype=np.float32),
        "propensities": np.full(shown, 0.25) if number % 2 else None,
        "team": np.zeros(shown, np.int8) if number % 2 else None,
        "seed": number if number % 2 else None,
        **changes,
    }
    return Exposure(**row)


def write_exposures(storage: Storage, rows: Iterable[Exposure | int], **changes: Any) -> None:
    """Write rows, or those of numbers, as one scorer that ends then."""
    with ExposureLog(storage, CONTEXT, ITEMS) as log:
        for row in rows:
            log.append(row if isinstance(row, Exposure) else exposure(row, **changes))
    assert log.dropped == 0

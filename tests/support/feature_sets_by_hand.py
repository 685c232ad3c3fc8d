"""Feature sets written by hand, so that anything can be wrong with them."""

import copy
import json

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from project_at_rest import minutes

from schemas.tables import TIME

ROWS = 40
LINEAGE = {
    "labels": "l",
    "features": ["seen", "year"],
    "feature_model": "f",
    "encoders": [
        {"encoder": "own:seen", "features": ["seen"], "data": ["history", "mood"]},
        {"encoder": "own:year", "features": ["year"], "data": ["videos"]},
    ],
    "context": [
        {"name": "profile_id", "kind": "context", "type": "int64"},
        {"name": "country", "kind": "context", "type": "string"},
    ],
    "items": [{"name": "video_id", "kind": "item", "type": "int64"}],
    "snapshots": {"history": ["h1", "h2"], "mood": ["m1"]},
    "globals": {"videos": ["v1", "v2"]},
    "rules": {
        name: {"max_age_seconds": 7200.0, "lag_seconds": 60.0, "allow_exact": True}
        for name in ("history", "mood", "videos")
    },
    "confidence": {"history": {"h1": 0.9, "h2": 0.95}, "mood": {"m1": 0.97}},
    "spread": None,
}
FLOATS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("profile_id", pa.int64()),
        ("country", pa.string()),
        ("time", TIME),
        ("outcome_at", TIME),
        ("video_id", pa.list_(pa.int64())),
        ("label", FLOATS),
        ("seen", FLOATS),
        ("year", FLOATS),
        *((f"{name}_captured_at", TIME) for name in ("history", "mood", "videos")),
        *((name, pa.string()) for name in ("history_run_id", "mood_run_id", "videos_version_id")),
        ("latest_input_at", TIME),
        ("spread_seconds", pa.float64()),
        ("confidence", pa.float64()),
    ]
)


def honest_row(i, rng):
    """Captured at 60 (history) and 70 (mood) minutes, versions valid from 0 and 50; the row's time is 80 or later."""
    items = 2 + i % 3
    return {
        "profile_id": i // 2,
        "country": "US" if i % 4 else None,
        "time": minutes(80 + i % 2),
        "outcome_at": minutes(90 + i),
        "video_id": [100 * i + j for j in range(items)],
        "label": rng.integers(0, 2, items).tolist(),
        "seen": [None if i == 5 else float(value) for value in rng.standard_normal(items)],
        "year": [2000.0 + j if j else float("nan") for j in range(items)],
        "history_captured_at": minutes(60),
        "history_run_id": "h2" if i % 2 else "h1",
        "mood_captured_at": minutes(70) if i % 3 else None,
        "mood_run_id": "m1" if i % 3 else None,
        "videos_captured_at": minutes(50),
        "videos_version_id": "v2",
        "latest_input_at": minutes(70 if i % 3 else 60),
        "spread_seconds": 600.0 if i % 3 else 0.0,
        "confidence": 0.95 if i % 2 else 0.9,
    }


def honest():
    """Rows and lineage of a feature set without a flaw."""
    rng = np.random.default_rng(1)
    rows = [honest_row(i, rng) for i in range(ROWS)]
    for name in SCHEMA.names[8:]:
        rows[7][name] = None  # a row that knows nothing is no paradox
    return rows, copy.deepcopy(LINEAGE)


def write(uri, rows, lineage, schema=SCHEMA, files=3):
    """Write rows as a feature set of several files; a lineage of None leaves it out."""
    table = pa.Table.from_pylist(rows, schema=schema)
    step = max(1, -(-len(rows) // files))
    metadata = {} if lineage is None else {"delorean": json.dumps(lineage)}
    properties = CommitProperties(custom_metadata=metadata)
    for start in range(0, max(1, len(rows)), step):
        write_deltalake(uri, table.slice(start, step), mode="append", commit_properties=properties)
    return uri

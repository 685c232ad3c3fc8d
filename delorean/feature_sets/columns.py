"""The columns of a feature set that record where the state of each row comes from."""

from __future__ import annotations

LATEST_INPUT_COLUMN = "latest_input_at"
SPREAD_COLUMN = "spread_seconds"
CONFIDENCE_COLUMN = "confidence"


def captured_column(element: str) -> str:
    """Return the name of the column with the time at which a row's element was captured."""
    return f"{element}_captured_at"


def run_column(element: str) -> str:
    """Return the name of the column with the snapshot run that served a row."""
    return f"{element}_run_id"


def version_column(element: str) -> str:
    """Return the name of the column with the version of a global element that served a row."""
    return f"{element}_version_id"

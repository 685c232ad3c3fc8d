"""The columns of a feature set that say where the state of each row comes from."""

from __future__ import annotations

LATEST_INPUT_COLUMN = "latest_input_at"
SPREAD_COLUMN = "spread_seconds"
CONFIDENCE_COLUMN = "confidence"


def captured_column(element: str) -> str:
    """Name the column that says when the element of a row was captured."""
    return f"{element}_captured_at"


def run_column(element: str) -> str:
    """Name the column that says which snapshot run served a row."""
    return f"{element}_run_id"


def version_column(element: str) -> str:
    """Name the column that says which version of a global element served a row."""
    return f"{element}_version_id"

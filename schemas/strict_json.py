"""Strict JSON: no NaN, no infinity, and values of any type converted to JSON's own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from enum import Enum
from typing import Any

_PLAIN = frozenset({str, int, bool, type(None)})


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """Write a value as strict JSON: NaN and infinity become null, times ISO 8601, bytes hexadecimal.

    ascii_only: escape other characters, for streams that cannot encode them

    >>> json_text({"loss": float("nan"), "at": datetime(2026, 1, 5), 7: b"\\x01"})
    '{"loss": null, "at": "2026-01-05T00:00:00", "7": "01"}'
    """
    text = json.dumps(plain_value(value), ensure_ascii=ascii_only, allow_nan=False)
    return text if ascii_only else text.encode("utf-8", "replace").decode()  # replaces unpaired surrogates


def plain_value(value: Any) -> Any:
    """Convert a value, and everything in it, to JSON's types."""
    kind = type(value)
    if kind in _PLAIN:  # first what most values are: a version of a feature set lists the parts of a year
        return value
    if kind in (list, tuple):
        return [plain_value(each) for each in value]
    if isinstance(value, Enum):
        return plain_value(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_name(key): plain_value(each) for key, each in value.items()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return _of_library(value)


def _of_library(value: Any) -> Any:
    """Convert Arrow's and NumPy's scalars and arrays, collections, and anything else to its text."""
    for method in ("as_py", "to_pylist", "tolist"):
        if hasattr(type(value), method):
            held = getattr(value, method)()
            return str(value) if type(held) is type(value) else plain_value(held)  # such as np.longdouble
    if isinstance(value, Iterable) and not hasattr(value, "__fspath__"):
        return [plain_value(each) for each in value]
    return str(value)


def _name(key: Any) -> str:
    plain = plain_value(key)
    return plain if isinstance(plain, str) else json.dumps(plain)

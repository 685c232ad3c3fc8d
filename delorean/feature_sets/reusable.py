"""What a version of a feature set records about its computation, so that a later one can copy columns from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from delorean.feature_sets.bucket_result import BucketResult


@dataclass(frozen=True)
class Computation:
    """The inputs of a version's columns, each as a hash of everything that it depends on, and its files.

    labels: of the label data's files
    elements: element → its sources and the rules by which they serve
    rests: element of a service → its `ServiceSource.rest`
    services: names of those that come from services: the spread is measured over these
    encoders: fingerprint → its features; with tasks it also covers which of them get what default
    spread: the limit and its policy; None without a limit
    beyond: rows beyond the limit, which were treated as the policy says
    buckets: the files and what is known of their rows
    """

    labels: str
    elements: Mapping[str, str]
    rests: Mapping[str, datetime | None]
    services: tuple[str, ...]
    encoders: Mapping[str, tuple[str, ...]]
    spread: Mapping[str, Any] | None
    beyond: int
    buckets: tuple[BucketResult, ...]


def content_hash(fields: Any) -> str:
    """Return a hash of plain fields, the same in every process."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()

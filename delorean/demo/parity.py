"""The parity replay: asks the live scorer to rank recorded contexts while the services are set back to that moment."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.feature_sets.table import FeatureSet
from prana_proxy.clock import FileClock
from schemas.closeable import Closeable
from schemas.errors import ServiceError
from snapshotter.records import from_micros

_ATTEMPTS: Final = 5  # a service that did not answer in time says nothing about parity
_EXAMPLES: Final = 10
_TIMEOUT_SECONDS: Final = 60.0
_NEVER: Final = np.iinfo(np.int64).min


@dataclass
class ParityReport:
    """Online features compared with the recorded ones.

    values: number of feature values, each compared bit for bit; any NaN equals any other
    examples: descriptions of the first mismatches
    moments: number of moments that the clock was set back to
    offline, online: features of each request's candidates, (candidates, features)
    scores: of the live scorer, for each request
    """

    requests: int = 0
    values: int = 0
    mismatches: int = 0
    moments: int = 0
    examples: list[str] = field(default_factory=list)
    offline: list[NDArray[np.float32]] = field(default_factory=list)
    online: list[NDArray[np.float32]] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)


def replay_requests(
    feature_set: FeatureSet, clock: FileClock, url: str, requests: int, seed: int, progress: Callable[[int, int], None]
) -> ParityReport:
    """Send recorded contexts, drawn by seed, to the live scorer with the clock set to each one's snapshot.

    feature_set: with at least one service element; only rows whose services were captured at one moment are used
    url: of the live scorer
    progress: called with (requests done, total)

    Raises ServiceError when the scorer does not answer.
    """
    rows = feature_set.to_arrow()
    moments = _moments(rows, feature_set)
    usable = np.flatnonzero(moments != _NEVER)
    chosen = np.random.default_rng(seed).permutation(usable)[:requests]
    chosen = chosen[np.argsort(moments[chosen], kind="stable")]
    report = ParityReport()
    now = _NEVER
    with _Scorer(url) as scorer:
        for row in chosen.tolist():
            if moments[row] != now:
                now = moments[row]
                clock.set(from_micros(int(now)))
                report.moments += 1
            _compare(rows.slice(row, 1).to_pylist()[0], feature_set, scorer, report)
            progress(report.requests, len(chosen))
    return report


def _moments(rows: pa.Table, feature_set: FeatureSet) -> NDArray[np.int64]:
    """Compute the moment at which all services of a row were captured; _NEVER for none or several."""
    columns = [f"{name}_captured_at" for name in feature_set.lineage["snapshots"]]
    times = np.stack([rows[name].cast(pa.int64()).fill_null(_NEVER).to_numpy() for name in columns])
    one: NDArray[np.int64] = np.where((times == times[0]).all(axis=0), times[0], _NEVER)
    return one


def _compare(row: dict[str, Any], feature_set: FeatureSet, scorer: _Scorer, report: ParityReport) -> None:
    names = feature_set.features
    offline = np.array([row[name] for name in names], dtype=np.float32).T
    items = [
        dict(zip(feature_set.items, values, strict=True))
        for values in zip(*(row[n] for n in feature_set.items), strict=True)
    ]
    answer = scorer.rank(
        {
            "context": {name: row[name] for name in feature_set.context},
            "candidates": items,
            "time": row["time"].isoformat(),
            "explain": True,
        }
    )
    ranked = sorted(answer["ranked"], key=lambda entry: entry["position"])
    online = np.array([[_number(entry["features"][name]) for name in names] for entry in ranked], dtype=np.float32)
    if online.shape != offline.shape or [entry["item"] for entry in ranked] != items:
        raise ServiceError.because(f"the live scorer ranked other candidates than requested; requested: {items}")
    differs = (online.view(np.uint32) != offline.view(np.uint32)) & ~(np.isnan(online) & np.isnan(offline))
    report.requests += 1
    report.values += offline.size
    report.mismatches += int(differs.sum())
    for item, feature in np.argwhere(differs)[: _EXAMPLES - len(report.examples)].tolist():
        context = {name: row[name] for name in feature_set.context}
        report.examples.append(
            f"{names[feature]} of {items[item]} for {context} at {row['time'].isoformat()}: "
            f"{online[item, feature]!s} online, {offline[item, feature]!s} offline"
        )
    report.offline.append(offline)
    report.online.append(online)
    report.scores.append(np.array([entry["score"] for entry in ranked], dtype=np.float32))


def _number(value: float | str | None) -> float:
    """Parse the scorer's JSON for a float32: null is NaN, infinities are text."""
    return np.nan if value is None else float(value)


class _Scorer(Closeable):
    """A persistent connection to the live scorer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)

    def rank(self, request: dict[str, Any]) -> dict[str, Any]:
        """Request a ranking; retry when a service did not answer."""
        for _ in range(_ATTEMPTS):
            try:
                self._connection.request("POST", "/rank", json.dumps(request), {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise ServiceError.because(f"the live scorer does not answer: {error}", "see its log") from error
            if response.status != http.client.OK:
                raise ServiceError.because(f"the live scorer answered {response.status}: {text[:500]!r}")
            answer: dict[str, Any] = json.loads(text)
            if all(service["status"] == "ok" for service in answer["services"].values()):
                break
        return answer

    def close(self) -> None:
        self._connection.close()

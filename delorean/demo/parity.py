"""The parity replay: asks the live scorer to rank recorded contexts while the services are set back to that moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.demo.live_scorer import LiveScorer, feature_rows
from delorean.feature_sets.table import FeatureSet
from delorean.tasks.task_set import TASK_VARIABLE, TaskSet
from prana_proxy.clock import FileClock
from schemas.errors import ServiceError
from snapshotter.records import from_micros

_EXAMPLES: Final = 10
_NEVER: Final = np.iinfo(np.int64).min
_ANY: Final = np.iinfo(np.int64).max  # of a service that is not asked for a row


@dataclass
class ParityReport:
    """Online features compared with the recorded ones.

    values: number of feature values, each compared bit for bit; any NaN equals any other
    examples: descriptions of the first mismatches
    moments: number of moments that the clock was set back to
    task_of_request: empty for a model without tasks
    offline, online: features of each request's candidates, (candidates, features)
    scores: of the live scorer, for each request
    """

    requests: int = 0
    values: int = 0
    mismatches: int = 0
    moments: int = 0
    examples: list[str] = field(default_factory=list)
    task_of_request: list[str] = field(default_factory=list)
    offline: list[NDArray[np.float32]] = field(default_factory=list)
    online: list[NDArray[np.float32]] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def tasks(self) -> dict[str, int]:
        """The number of requests of each task."""
        return dict(Counter(self.task_of_request))


@dataclass(frozen=True)
class RecordedTasks:
    """The tasks of a feature set. keys: service → the context variables that its answer depends on."""

    tasks: TaskSet
    keys: Mapping[str, Sequence[str]]

    def asked(self, service: str, task_of_row: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for which rows a service is asked."""
        asking = [task for task in self.tasks.names if self.tasks.has(task, self.keys[service])]
        asked: NDArray[np.bool_] = np.isin(task_of_row, asking)
        return asked


def replay_requests(
    feature_set: FeatureSet,
    clock: FileClock,
    url: str,
    requests: int,
    seed: int,
    progress: Callable[[int, int], None],
    recorded: RecordedTasks | None = None,
) -> ParityReport:
    """Send recorded contexts, drawn by seed, to the live scorer with the clock set to each one's snapshot.

    feature_set: with at least one service element; only rows whose services were captured at one moment are used
    url: of the live scorer
    requests: number of them in total; each task has the same share
    progress: called with (requests done, total)
    recorded: the feature set's tasks; None: it has none

    Raises ServiceError when the scorer does not answer.
    """
    rows = feature_set.to_arrow()
    moments = _moments(rows, feature_set, recorded)
    chosen = _draw(rows, moments, requests, seed, recorded)
    chosen = chosen[np.argsort(moments[chosen], kind="stable")]
    report = ParityReport()
    now = _NEVER
    with LiveScorer(url) as scorer:
        for row in chosen.tolist():
            if moments[row] != now:
                now = moments[row]
                clock.set(from_micros(int(now)))
                report.moments += 1
            _compare(rows.slice(row, 1).to_pylist()[0], feature_set, scorer, report, recorded)
            progress(report.requests, len(chosen))
    return report


def _moments(rows: pa.Table, feature_set: FeatureSet, recorded: RecordedTasks | None) -> NDArray[np.int64]:
    """Compute the moment at which all services of a row were captured; _NEVER for none or several."""
    first, last = np.full(len(rows), _ANY), np.full(len(rows), _NEVER)
    for service in feature_set.lineage["snapshots"]:
        times = rows[f"{service}_captured_at"].cast(pa.int64()).fill_null(_NEVER).to_numpy()
        asked = (
            True if recorded is None else recorded.asked(service, rows[TASK_VARIABLE].to_numpy(zero_copy_only=False))
        )
        first = np.where(asked, np.minimum(first, times), first)
        last = np.where(asked, np.maximum(last, times), last)
    one: NDArray[np.int64] = np.where(first == last, first, _NEVER)
    return one


def _draw(
    rows: pa.Table, moments: NDArray[np.int64], requests: int, seed: int, recorded: RecordedTasks | None
) -> NDArray[np.int64]:
    """Draw usable rows, of each task about the same number."""
    usable = np.random.default_rng(seed).permutation(np.flatnonzero(moments != _NEVER))
    if recorded is None:
        return usable[:requests]
    names, task_of_row = recorded.tasks.names, rows[TASK_VARIABLE].to_numpy(zero_copy_only=False)[usable]
    shares = np.diff(np.linspace(0, requests, len(names) + 1).astype(np.int64)).tolist()
    return np.concatenate([usable[task_of_row == name][:n] for name, n in zip(names, shares, strict=True)])


def _compare(
    row: dict[str, Any],
    feature_set: FeatureSet,
    scorer: LiveScorer,
    report: ParityReport,
    recorded: RecordedTasks | None,
) -> None:
    names, variables, item_variables = feature_set.features, feature_set.context, feature_set.items
    of_task = {}
    if recorded is not None:
        task = recorded.tasks.task(row[TASK_VARIABLE])
        variables, item_variables, of_task = task.context, task.items, {"task": task.name}
        report.task_of_request.append(task.name)
    offline = np.array([row[name] for name in names], dtype=np.float32).T
    items = [
        dict(zip(item_variables, values, strict=True)) for values in zip(*(row[n] for n in item_variables), strict=True)
    ]
    context = {name: row[name] for name in variables}
    answer = scorer.rank(
        {**of_task, "context": context, "candidates": items, "time": row["time"].isoformat(), "explain": True}
    )
    ranked = sorted(answer["ranked"], key=lambda entry: entry["position"])
    online = feature_rows(ranked, names)
    if online.shape != offline.shape or [entry["item"] for entry in ranked] != items:
        raise ServiceError.because(f"the live scorer ranked other candidates than requested; requested: {items}")
    differs = (online.view(np.uint32) != offline.view(np.uint32)) & ~(np.isnan(online) & np.isnan(offline))
    report.requests += 1
    report.values += offline.size
    report.mismatches += int(differs.sum())
    for item, feature in np.argwhere(differs)[: _EXAMPLES - len(report.examples)].tolist():
        report.examples.append(
            f"{names[feature]} of {items[item]} for {context} at {row['time'].isoformat()}: "
            f"{online[item, feature]!s} online, {offline[item, feature]!s} offline"
        )
    report.offline.append(offline)
    report.online.append(online)
    report.scores.append(np.array([entry["score"] for entry in ranked], dtype=np.float32))

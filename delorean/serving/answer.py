"""What a request is answered, and what the exposure log keeps of it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.exposures import Exposure
from delorean.packaging.package import ModelPackage
from delorean.serving.global_versions import LoadedVersion
from delorean.serving.orders import Scores, ShownOrder, by_score, explored, interleaved, seed_of
from delorean.serving.request import RankRequest
from delorean.serving.served_package import Features, Versions
from delorean.serving.served_tests import ServedCell
from schemas.tables import python_rows
from snapshotter.records import from_micros

_NOT_ASKED = {"status": "not_applicable", "captured_at": None, "reason": None}
_REPLAY = "global elements are those of the requested time, services answered with their current state"


@dataclass(frozen=True)
class Ranking:
    """What one package made of a request.

    probabilities: (items,) NaN where unknown; None: the package's scores are not calibrated
    absent: the elements that it lacked
    """

    package: ModelPackage
    versions: Versions
    features: Features
    scores: Scores
    probabilities: Scores | None
    absent: frozenset[str]

    @classmethod
    def of(
        cls, package: ModelPackage, task: str | None, versions: Versions, features: Features, absent: frozenset[str]
    ) -> Ranking:
        """Score a request's features. task: of the request; None for a package without tasks."""
        scores = package.score(features, task)
        probabilities = None if task is None else package.probabilities(scores, task)
        return cls(package, versions, features, scores, probabilities, absent)


@dataclass(frozen=True)
class Answer:
    """A request with the rankings that answer it.

    time: microseconds since the epoch
    cell: that answers; None: the request is in no test
    rankings: one, or the two that the cell interleaves
    services: name → the answer of each service that was asked
    not_applicable: services that were not asked, because the request's task lacks a variable of their key
    """

    request: RankRequest
    time: int
    cell: ServedCell | None
    rankings: tuple[Ranking, ...]
    services: Mapping[str, pa.RecordBatch]
    not_applicable: frozenset[str] = frozenset()

    @cached_property
    def request_id(self) -> str:
        """The caller's, or a new one."""
        return self.request.request_id or secrets.token_hex(16)

    @property
    def package(self) -> str:
        """The digest of the package that ranked; of two, both with a + between them."""
        return "+".join(ranking.package.digest for ranking in self.rankings)

    @cached_property
    def order(self) -> ShownOrder:
        """The order in which the request's cell shows its candidates."""
        scores, k = [ranking.scores for ranking in self.rankings], self.request.k
        if self.cell is None or (self.cell.cell.interleave is None and not self.cell.cell.explore):
            return by_score(scores[0], k)
        seed = seed_of(self.cell.test.name, self.cell.test.seed, self.request_id)
        if self.cell.cell.interleave is None:
            return explored(scores[0], k, self.cell.cell.explore, seed)
        return interleaved(scores[0], scores[1], k, self.cell.cell.method, seed)

    @cached_property
    def scores(self) -> Scores:
        """The scores of the shown items."""
        return self.order.scores([ranking.scores for ranking in self.rankings])

    @cached_property
    def shown(self) -> pa.Table:
        """The shown items in their order."""
        return self.request.items.take(self.order.rows)

    def exposure(self) -> Exposure:
        """Return the row for the exposure log."""
        return Exposure(
            request_id=self.request_id,
            time=self.time,
            test=None if self.cell is None else self.cell.test.name,
            cell=None if self.cell is None else self.cell.name,
            package=self.package,
            task_type=self.request.task,
            context=self.request.context,
            items=self.shown,
            positions=self.order.rows.astype(np.int32),
            scores=self.scores,
            propensities=self.order.propensities,
            team=self.order.team,
            seed=self.order.seed,
        )

    def document(self, *, tested: bool) -> dict[str, Any]:
        """Return what the caller gets. tested: the scorer serves tests, so the answer says whether this is in one."""
        return {
            "request_id": self.request_id,
            "time": from_micros(self.time),
            **({} if self.request.time is None else {"replay": _REPLAY}),
            **({"test": self.cell and self.cell.test.name, "cell": self.cell and self.cell.name} if tested else {}),
            **({} if self.request.task is None else {"task": self.request.task}),
            "package": self.package,
            "ranked": self._ranked(),
            "services": {
                **{name: _status(batch) for name, batch in self.services.items()},
                **{name: dict(_NOT_ASKED) for name in sorted(self.not_applicable)},
            },
            "globals": {
                name: loaded and _version(loaded)
                for ranking in self.rankings
                for name, loaded in ranking.versions.items()
            },
            "missing": sorted({name for ranking in self.rankings for name in ranking.absent}),
        }

    def _ranked(self) -> list[dict[str, Any]]:
        rows, shown = self.order.rows, self.shown
        if self.request.task is not None:
            shown = shown.select([key.name for key in self.request.shape.own_items])
        ranked = [
            {"item": item, "position": row, "score": score if math.isfinite(score) else _number(score)}
            for item, row, score in zip(python_rows(shown), rows.tolist(), self.scores.tolist(), strict=True)
        ]
        if self.request.task is None and not self.request.explain:
            return ranked
        for entry, row, ranker in zip(ranked, rows, self.order.ranker, strict=True):
            ranking = self.rankings[ranker]
            if ranking.probabilities is not None and not math.isnan(ranking.probabilities[row]):
                entry["probability"] = float(ranking.probabilities[row])
            if self.request.explain:
                entry["features"] = {name: _shown(values[row]) for name, values in ranking.features.items()}
        return ranked


def _shown(value: np.float32 | NDArray[np.float32]) -> Any:
    """Convert a feature's value to JSON: a number, or the list of a vector's components."""
    return [_number(each) for each in value] if isinstance(value, np.ndarray) else _number(value)


def _number(value: float | np.float32) -> float | str | None:
    """Convert a float32 to JSON without loss: NaN becomes null and infinities become text, which JSON lacks."""
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _status(batch: pa.RecordBatch) -> dict[str, Any]:
    captured = batch["captured_at"][0]
    return {
        "status": batch["status"][0].as_py(),
        "captured_at": from_micros(captured.value) if captured.is_valid else None,  # twice as fast as `as_py`
        "reason": batch["reason"][0].as_py(),
    }


def _version(loaded: LoadedVersion) -> dict[str, Any]:
    return {"version_id": loaded.version.version_id, "valid_from": loaded.version.valid_from}

"""Members visit their homepages while tests run: the scorer ranks what they are shown, their tastes decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from delorean.demo.audience import PLACES, Audience, Evening, PastVisits, chance_of_start, choose
from delorean.demo.live_scorer import LiveScorer, feature_rows
from delorean.demo.world import Floats, Ints
from delorean.packaging.package import ModelPackage
from prana_proxy.clock import FileClock
from snapshotter.records import from_micros

TASK: Final = "homepage"
_UNTIL_START: Final = 2 * 60_000_000  # microseconds from the homepage to what is started of it
_TIME: Final = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Visits:
    """Homepages that members saw, in the order of their times.

    shown: (visits, candidates) ids as requested; order: the places of candidates in the answer, the first place first
    wish: (visits, candidates) as requested
    features: (visits, candidates, features) as requested
    started: id of the video that was started, −1 for none
    cells: the test's cell that answered; empty outside tests
    """

    profiles: Ints
    moments: Ints
    shown: Ints
    order: Ints
    wish: Floats
    features: NDArray[np.float32]
    started: Ints
    cells: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of visits."""
        return len(self.profiles)


def visit(
    evenings: Sequence[Evening],
    audience: Audience,
    scorer: LiveScorer,
    clock: FileClock,
    features: tuple[str, ...],
    rng: np.random.Generator,
    progress: Callable[[int, int], None],
) -> Visits:
    """Let members open their homepages, each at its time: the scorer ranks the candidates, and they start one or none.

    features: names, in the order of the result
    rng: draws what people start
    progress: called with (evenings done, total)

    Raises ServiceError when the scorer does not answer.
    """
    profiles = audience.world.profiles.to_pylist()
    contexts = {row["profile_id"]: row for row in profiles}
    total = sum(map(len, evenings))
    orders, values, cells = [], [], []
    for nth, evening in enumerate(evenings, 1):
        for who, moment, shown in zip(evening.profiles, evening.moments, evening.shown, strict=True):
            clock.set(from_micros(int(moment)))
            answer = scorer.rank(
                {
                    "request_id": f"{who}-{moment}",
                    "task": TASK,
                    "context": contexts[int(who)],
                    "candidates": shown.tolist(),
                    "explain": True,
                }
            )
            order = np.array([entry["position"] for entry in answer["ranked"]])
            orders.append(order)
            values.append(feature_rows(answer["ranked"], features)[np.argsort(order)])
            cells.append(answer["cell"] or "")
        progress(nth, len(evenings))
    shown, wish = (np.concatenate([getattr(evening, name) for evening in evenings]) for name in ("shown", "wish"))
    looked_at = np.array(orders)[:, :PLACES]
    places = choose(np.take_along_axis(wish, looked_at, axis=1), rng)
    rows = np.arange(total)
    return Visits(
        profiles=np.concatenate([evening.profiles for evening in evenings]),
        moments=np.concatenate([evening.moments for evening in evenings]),
        shown=shown,
        order=np.array(orders),
        wish=wish,
        features=np.array(values),
        started=np.where(places < 0, -1, shown[rows, looked_at[rows, places]]),
        cells=tuple(cells),
    )


def true_rates(visits: Visits, packages: Mapping[str, ModelPackage]) -> dict[str, float]:
    """Compute the share of visits with a start if one package had ranked them all, as people's tastes have it."""
    shape = visits.shown.shape
    items = visits.features.reshape(-1, visits.features.shape[2])
    rates = {}
    for name, package in packages.items():
        scores = package.score(items, [TASK] * len(items)).reshape(shape)
        first = np.argsort(-scores, axis=1, kind="stable")[:, :PLACES]
        rates[name] = float(chance_of_start(np.take_along_axis(visits.wish, first, axis=1)).mean())
    return rates


def write_outcomes(folder: Path, visits: Visits, past: PastVisits) -> None:
    """Write what the tests' metrics are computed from: `visits.parquet` and `starts.parquet`.

    past: visits before the tests, so that a test can be planned
    """
    started = visits.started >= 0
    after = visits.moments + _UNTIL_START
    columns = {
        "profile_id": pa.array(np.concatenate([past.profiles, visits.profiles])),
        "outcome_at": pa.array(np.concatenate([past.moments + _UNTIL_START, after])).cast(_TIME),
        "starts": pa.array(np.concatenate([past.started, started]).astype(np.float64)),
        "visits": pa.array(np.ones(len(past.profiles) + len(visits))),
    }
    pq.write_table(pa.table(columns), folder / "visits.parquet")
    columns = {
        "profile_id": pa.array(visits.profiles[started]),
        "video_id": pa.array(visits.started[started]),
        "outcome_at": pa.array(after[started]).cast(_TIME),
    }
    pq.write_table(pa.table(columns), folder / "starts.parquet")

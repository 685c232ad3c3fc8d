"""Simulates tests whose truth is known: how often designs see what is not there, and find what is.

Nothing here reads a project; `make bench BENCH=abtest` prints the tables, and short forms of them are tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from delorean.ab_tests.designs import bounds_at
from delorean.ab_tests.effects import change, variance_of_one
from delorean.ab_tests.interleaving import FIRST, METHODS, SECOND, Merged
from delorean.ab_tests.moments import PAST_VALUE, VALUE, VARIABLES, Moments
from delorean.ab_tests.plan_spec import Design, PlanSpec, Spending
from delorean.ab_tests.power import planned_bounds, units_needed, with_effect
from delorean.ab_tests.sequential import Floats

_CHUNK_VALUES = 4_000_000
_VARIANCE_UNITS = 400_000  # from which the truth about a unit's mean and variance is computed


@dataclass(frozen=True)
class UnitModel:
    """How units' values come about: many zeros, a heavy tail, and a taste that the past knows, too.

    active: the probability that a unit has any outcome
    """

    active: float = 0.6

    def draw(self, random: np.random.Generator, shape: tuple[int, ...], effect: Floats | float = 0.0) -> Floats:
        """Return (…, variables) of units. effect: relative, of each unit's value."""
        taste = 0.5 + random.standard_exponential(shape)
        values = np.ones((*shape, VARIABLES))
        for variable, lift in ((VALUE, 1 + effect), (PAST_VALUE, 1.0)):
            played = random.standard_exponential(shape) * (random.random(shape, np.float32) < self.active)
            values[..., variable] = taste * played * lift
        return values


def z_at_looks(
    model: UnitModel, runs: int, looks: int, units: int, effect: float = 0.0, seed: int = 0
) -> tuple[Floats, Floats]:
    """Simulate tests of two equal cells.

    units: that enter between two looks, in each cell
    effect: the candidate's relative change

    Returns Z, (runs, looks), and the relative change of the means.
    """
    random = np.random.default_rng(seed)
    zs, changes = [], []
    chunk = max(1, _CHUNK_VALUES // (2 * looks * units))
    for start in range(0, runs, chunk):
        size = min(chunk, runs - start)
        lift = np.array([0.0, effect])[:, np.newaxis, np.newaxis]
        values = model.draw(random, (size, 2, looks, units), lift)
        mean = values.mean(axis=-2)
        centred = values - mean[..., np.newaxis, :]
        scatter = np.swapaxes(centred, -1, -2) @ centred
        moments = Moments(np.full(mean.shape[:-1], float(units)), mean, scatter).cumulative()
        cells = [Moments(*(each[:, cell] for each in vars(moments).values())) for cell in (0, 1)]
        compared = change(cells[0], cells[1])
        zs.append(compared.z)
        changes.append(compared.relative)
    return np.concatenate(zs), np.concatenate(changes)


def share_rejected(z: Floats, bounds: Floats) -> float:
    """Return the share of tests in which |Z| reaches its boundary at any look."""
    return float((np.abs(z) >= bounds).any(axis=1).mean())


def false_positives(
    runs: int = 10_000, days: int = 14, units: int = 70, alpha: float = 0.05, seed: int = 0
) -> Mapping[str, float]:
    """Return the share of A/A tests, looked at daily, in which each design sees a difference.

    "peeking" takes each look for the only one: what the others prevent.
    """
    z, _ = z_at_looks(UnitModel(), runs, days, units, seed=seed)
    fractions = (np.arange(1, days + 1) / days).tolist()
    designs: Mapping[str, tuple[Design, Spending]] = {
        "group-sequential, O'Brien-Fleming": ("group-sequential", "obrien-fleming"),
        "group-sequential, Pocock": ("group-sequential", "pocock"),
        "always-valid": ("always-valid", "obrien-fleming"),
        "one look at the end": ("fixed", "obrien-fleming"),
    }
    shares = {
        name: share_rejected(z, bounds_at(design, spending, alpha, fractions, fractions, last=True))
        for name, (design, spending) in designs.items()
    }
    return {**shares, "peeking": share_rejected(z, np.full(days, norm.isf(alpha / 2)))}


@dataclass(frozen=True)
class PowerResult:
    """A plan and what came of it. units: that it needs; planned, measured: the probability of finding the effect."""

    design: str
    units: int
    planned: float
    measured: float


def power_of_plans(runs: int = 4_000, effect: float = 0.15, power: float = 0.8, seed: int = 1) -> list[PowerResult]:
    """Plan tests from the truth about units, run them with the planned effect, and count how many find it."""
    truth = UnitModel().draw(np.random.default_rng(seed), (_VARIANCE_UNITS,))
    moments = Moments.of(truth, np.zeros(len(truth), np.int64), 1)[0]
    mean, variance = float(moments.mean[0]), float(variance_of_one(moments))
    results = []
    designs: tuple[Design, ...] = ("group-sequential", "always-valid", "fixed")
    for design in designs:
        plan = PlanSpec(effect=effect, power=power, design=design)
        bounds = planned_bounds(plan, plan.alpha, days=10)
        units = units_needed(bounds.drift, effect, mean, with_effect(variance, effect), (0.5, 0.5))
        looks = len(bounds.bounds)
        z, _ = z_at_looks(UnitModel(), runs, looks, max(1, round(units / 2 / looks)), effect, seed + 1)
        above = float((z >= bounds.bounds).any(axis=1).mean())
        results.append(PowerResult(design, units, power, above))
    return results


@dataclass(frozen=True)
class SensitivityResult:
    """How many requests an A/B test and interleaving need to tell two rankers apart with the same power.

    ab_power, interleaving_power: measured with these numbers of requests
    """

    method: str
    ab_requests: int
    interleaving_requests: int
    ab_power: float
    interleaving_power: float

    @property
    def ratio(self) -> float:
        """How many times fewer requests interleaving needs."""
        return self.ab_requests / self.interleaving_requests


@dataclass(frozen=True)
class RequestModel:
    """Requests in which a viewer starts one of the shown items, or none.

    An item's appeal is normal; a ranker sees it with normal noise. A viewer looks at places with falling probability
    and starts an item with a weight exp(appeal), or nothing with the weight of a mood that varies between requests.

    items, places: of a request
    noise: of the two rankers, first and second
    mood: deviation of the logarithm of the weight of starting nothing
    """

    items: int = 30
    places: int = 8
    noise: tuple[float, float] = (0.9, 1.1)
    mood: float = 1.5
    nothing: float = 12.0

    def rankings(self, random: np.random.Generator, requests: int) -> tuple[Floats, Floats, Floats]:
        """Return appeals and both rankers' scores, (requests, items)."""
        appeal = random.normal(size=(requests, self.items))
        shared = random.normal(size=appeal.shape)  # rankers of one company err alike
        first, second = (
            appeal + noise * (0.8 * shared + 0.6 * random.normal(size=appeal.shape)) for noise in self.noise
        )
        return appeal, first, second

    def weights(self, appeal: Floats) -> Floats:
        """Return the weight of starting each shown item, (requests, places)."""
        seen = 1 / np.log2(np.arange(2, self.places + 2))
        return np.exp(appeal) * seen


def interleaving_sensitivity(
    requests: int = 20_000, runs: int = 400, method: str = "team-draft", seed: int = 0, power: float = 0.8
) -> SensitivityResult:
    """Compare the numbers of requests that an A/B test of starts and interleaving need with two-sided alpha 0.05.

    requests: from which effects and variances are computed; tests are drawn from the same requests
    runs: of each test, that measure its power
    """
    random, model = np.random.default_rng(seed), RequestModel()
    appeal, first, second = model.rankings(random, requests)
    orders = [np.argsort(-scores, axis=1, kind="stable") for scores in (first, second)]
    nothing = model.nothing * np.exp(model.mood * random.normal(size=requests))
    starts = []
    for order in orders:
        weight = model.weights(np.take_along_axis(appeal, order[:, : model.places], axis=1)).sum(axis=1)
        starts.append(weight / (weight + nothing))
    credit = _credit_chances(model, appeal, orders, nothing, method, seed)
    z = float(norm.isf(0.025) + norm.ppf(power))
    means = [each.mean() for each in starts]
    mean = sum(means) / 2
    ab = int(np.ceil(z**2 * 4 * mean * (1 - mean) / (means[0] - means[1]) ** 2))
    preference = float((credit[FIRST] - credit[SECOND]).mean())
    variance = float((credit[FIRST] + credit[SECOND]).mean()) - preference**2
    interleaved = int(np.ceil(z**2 * variance / preference**2))
    ab_power = _ab_power(random, starts, ab, runs)
    return SensitivityResult(method, ab, interleaved, ab_power, _credit_power(random, credit, interleaved, runs))


def _credit_chances(
    model: RequestModel, appeal: Floats, orders: list[np.ndarray], nothing: Floats, method: str, seed: int
) -> tuple[Floats, Floats]:
    """Return the probability that each request gives its credit to the first, and to the second ranking."""
    chances = np.zeros((2, len(appeal)))
    for request, merged in enumerate(_merged(model, orders, method, seed)):
        order, team = merged
        weight = model.weights(appeal[request, order][np.newaxis])[0]
        share = weight / (weight.sum() + nothing[request])
        for side in (FIRST, SECOND):
            chances[side, request] = share[team == side].sum()
    return chances[FIRST], chances[SECOND]


def _merged(model: RequestModel, orders: list[np.ndarray], method: str, seed: int) -> Iterator[Merged]:
    for request, (first, second) in enumerate(zip(*orders, strict=True)):
        yield METHODS[method](first, second, seed * 1_000_003 + request, model.places)


def _ab_power(random: np.random.Generator, starts: list[Floats], requests: int, runs: int) -> float:
    """Measure how often an A/B test with half of the requests each finds the better ranker."""
    half = requests // 2
    counts = [random.binomial(half, each.mean(), runs) / half for each in starts]
    error = np.sqrt(sum(share * (1 - share) / half for share in counts))
    return float(((counts[0] - counts[1]) / error >= norm.isf(0.025)).mean())


def _credit_power(random: np.random.Generator, credit: tuple[Floats, Floats], requests: int, runs: int) -> float:
    """Measure how often a sign test of as many interleaved requests finds the better ranker."""
    chances = [float(each.mean()) for each in credit]
    counts = random.multinomial(requests, [*chances, 1 - sum(chances)], runs)
    wins, losses = counts[:, 0], counts[:, 1]
    z = (wins - losses) / np.sqrt(np.maximum(wins + losses, 1))
    return float((z >= norm.isf(0.025)).mean())

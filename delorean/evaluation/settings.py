"""What is measured of a model, and how: the `[evaluation]` table of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import ConfigError

_MOST_PLACES = 10_000


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed.

    level: of confidence
    replicates: number of samples; the ends of a 95 % interval from 1,000 vary by about 2 % of its width
    seed: of the samples; equal seeds give equal intervals

    >>> Bootstrap(level=0.9).replicates
    1000
    """

    level: float = 0.95
    replicates: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject a level or a number of replicates that gives no interval."""
        if not 0.5 <= self.level < 1:
            raise ConfigError.because(f"the level is {self.level}", "expected a share of 0.5 and more, such as 0.95")
        if not 100 <= self.replicates <= 1_000_000:
            raise ConfigError.because(f"replicates is {self.replicates}, expected 100 to 1,000,000")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is measured on the validation and the test part.

    at: numbers of first places, for NDCG and recall
    by: context variables or carried columns, such as a stratum; metrics are repeated for each of their values
    cluster: a variable whose contexts are not independent, such as `profile_id`: intervals then come from drawing all
        contexts of a value together. None: contexts are independent
    level, replicates, seed: of the intervals, see `Bootstrap`
    calibration_bins: number of bins of the reliability diagram
    repeats: how often each feature, and each encoder's features together, are shuffled for their importance
    learning_curve: shares of the training part's contexts that models are fitted on to see whether more data helps;
        none by default, because each fits a model
    learning_curve_seconds: once so much time has passed, no further share is fitted

    >>> EvaluationSettings(at=(20, 5), cluster="profile_id").at
    (5, 20)
    """

    at: tuple[int, ...] = (5, 10, 20)
    by: tuple[str, ...] = ()
    cluster: str | None = None
    level: float = 0.95
    replicates: int = 1_000
    seed: int = 0
    calibration_bins: int = 10
    repeats: int = 3
    learning_curve: tuple[float, ...] = ()
    learning_curve_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Sort the numbers and shares, so that a spec has one id, and reject what cannot be measured."""
        if isinstance(self.by, str):
            raise ConfigError.mistaken("by", self.by, "names of columns", f'write by=("{self.by}",)')
        object.__setattr__(self, "at", tuple(checked_places(self.at)))
        object.__setattr__(self, "learning_curve", tuple(sorted({float(share) for share in self.learning_curve})))
        _ = self.bootstrap
        for name, most in (("calibration_bins", 100), ("repeats", 100)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError.because(f"{name} is {getattr(self, name)}, expected 1 to {most}")
        if not all(0 < share < 1 for share in self.learning_curve):
            raise ConfigError.because(
                f"learning_curve is {list(self.learning_curve)}, expected shares between 0 and 1",
                "write learning_curve = [0.1, 0.25, 0.5]; the whole part is always measured",
            )
        if not self.learning_curve_seconds > 0:
            raise ConfigError.because("learning_curve_seconds is not above 0")
        repeated = [name for name in self.by if self.by.count(name) > 1]
        if repeated:
            raise ConfigError.because(f"by names '{repeated[0]}' twice")

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are computed."""
        return Bootstrap(self.level, self.replicates, self.seed)

    def columns(self, existing: Sequence[str] = ()) -> tuple[str, ...]:
        """The columns that are read beside those that are read anyway."""
        names = (*self.by, *(() if self.cluster is None else (self.cluster,)))
        return tuple(name for name in dict.fromkeys(names) if name not in existing)


def checked_places(at: Sequence[int]) -> list[int]:
    """Return the numbers of places, ascending. Raises ConfigError for none, or one that is out of range."""
    if not at or not all(1 <= k <= _MOST_PLACES for k in at):
        raise ConfigError.because(
            f"at is {list(at)}, expected numbers of places from 1 to {_MOST_PLACES:,}", "write at = [5, 10, 20]"
        )
    return sorted({int(k) for k in at})

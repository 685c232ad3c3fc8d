"""Logged exposures: which items were shown, with which probability, and what they earned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from schemas.errors import ComparisonError, ConfigError


@dataclass(frozen=True)
class Exposures:
    """The columns of logged exposures, and the policies that are estimated.

    shown: a list for each context, above 0 for the items that were shown
    propensity: the probability with which the logging policy shows an item: a list, null where it is not known for an
        item that was not shown, or one number for the context's only shown item
    reward: a list with what each shown item earned; of the others it is not read. None: the label
    policy: "top" ranks and shows the first places; "softmax" shows one item with a probability proportional to
        exp(score / temperature)
    places: number of items that a policy shows. With more than one, an item's reward must not depend on the other items
        and on its place, as in the item-position model without positions (Li et al. 2018)
    clip: the greatest weight of a shown item; it lowers the variance and biases estimates downwards. None: no bound
    effective: the least effective sample size for which there are estimates
    unsupported: the greatest share of what a policy shows that the logging policy never shows
    folds: of the cross-fitted reward model

    >>> Exposures("shown", "propensity").places
    1
    """

    shown: str
    propensity: str
    reward: str | None = None
    policy: Literal["top", "softmax"] = "top"
    places: int = 1
    temperature: float = 1.0
    clip: float | None = None
    effective: int = 100
    unsupported: float = 0.01
    folds: int = 5

    def __post_init__(self) -> None:
        """Reject policies that cannot be estimated."""
        if self.policy not in ("top", "softmax"):
            raise ConfigError.unknown("policy", self.policy, ("top", "softmax"))
        if self.policy == "softmax" and self.places != 1:
            raise ConfigError.because(
                f"a softmax policy of {self.places} places cannot be estimated", 'write places = 1, or policy = "top"'
            )
        if self.places < 1 or self.folds < 2 or self.effective < 1:
            raise ConfigError.because(
                f"places is {self.places}, folds {self.folds} and effective {self.effective}",
                "expected 1 and more, 2 and more, 1 and more",
            )
        if not 0 < self.temperature < float("inf"):
            raise ConfigError.because(f"temperature is {self.temperature}, expected a number above 0")
        if self.clip is not None and not self.clip >= 1:
            raise ConfigError.because(f"clip is {self.clip}, expected the greatest weight of an item, 1 or more")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (self.shown, self.propensity, self.reward) if name is not None)


@dataclass(frozen=True)
class LoggedExposures:
    """Exposures of many contexts, item by item.

    shown: (items,)
    propensities: (items,) float64, NaN where unknown; known and above 0 for every shown item
    rewards: (items,) float64; of items that were not shown 0
    """

    shown: NDArray[np.bool_]
    propensities: NDArray[np.float64]
    rewards: NDArray[np.float64]


def logged_exposures(part: RankingData, exposures: Exposures) -> LoggedExposures:
    """Read exposures from the columns of ranking data. Raises ComparisonError for what cannot be a log."""
    values = _item_values(part, exposures.shown)
    if np.isnan(values).any():
        raise ComparisonError.because(f"column '{exposures.shown}' has nulls", "write 1 for shown items, 0 for others")
    shown = values > 0
    if not shown.any():
        raise ComparisonError.because(
            f"column '{exposures.shown}' says that no item was shown", "nothing can be estimated without exposures"
        )
    if exposures.propensity in part.items.schema.names:
        propensities = _item_values(part, exposures.propensity)
    else:
        propensities = _of_only_shown_item(part, exposures.propensity, shown)
    wrong = shown & ~((propensities > 0) & (propensities <= 1))
    if wrong.any():
        raise ComparisonError.because(
            f"{int(wrong.sum()):,} of {int(shown.sum()):,} shown items have a propensity such as "
            f"{propensities[np.argmax(wrong)]:g} in column '{exposures.propensity}'",
            "what was shown has a probability above 0 and up to 1: correct the log, or leave those contexts out",
        )
    others = ~shown & ~np.isnan(propensities) & ~((propensities >= 0) & (propensities <= 1))
    if others.any():
        raise ComparisonError.because(
            f"column '{exposures.propensity}' has {int(others.sum()):,} values that are not probabilities, such as "
            f"{propensities[np.argmax(others)]:g}"
        )
    rewards = part.labels.astype(np.float64) if exposures.reward is None else _item_values(part, exposures.reward)
    if not np.isfinite(rewards[shown]).all():
        raise ComparisonError.because(f"shown items have rewards that are null or not finite in '{exposures.reward}'")
    return LoggedExposures(shown, propensities, np.where(shown, rewards, 0.0))


def _item_values(part: RankingData, name: str) -> NDArray[np.float64]:
    """Return a column of lists as floats, NaN where null."""
    if name not in part.items.schema.names:
        raise ComparisonError.unknown("column of lists", name, part.items.schema.names)
    return _floats(part.items[name], name)


def _of_only_shown_item(part: RankingData, name: str, shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give the only shown item of each context its context's probability; those of the others are not known."""
    if name not in part.contexts.schema.names:
        raise ComparisonError.unknown("column of propensities", name, part.contexts.schema.names)
    of_context = np.repeat(np.arange(len(part)), np.diff(part.offsets))
    counts = np.bincount(of_context[shown], minlength=len(part))
    if (counts > 1).any():
        raise ComparisonError.because(
            f"column '{name}' has one propensity for each context, but {int((counts > 1).sum()):,} show several items",
            "give a list with the propensity of each item",
        )
    values = _floats(part.contexts[name], name)[of_context]
    return np.where(shown, values, np.nan)


def _floats(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    type = column.type  # noqa: A001  # the field's own name
    if not (pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_boolean(type)):
        raise ComparisonError.because(f"column '{name}' has values of type {type}, expected numbers")
    numbers = column.cast(pa.uint8()) if pa.types.is_boolean(type) else column
    values: NDArray[np.float64] = pc.fill_null(numbers.cast(pa.float64()), np.nan).to_numpy()
    return values

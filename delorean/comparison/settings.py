"""How two rankings are compared, and what decides between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from delorean.evaluation.settings import EvaluationSettings
from schemas.errors import ConfigError


@dataclass(frozen=True)
class ComparisonSettings:
    """How a candidate is compared with production, and what decides.

    evaluation: numbers of first places, columns whose values are compared one by one, clusters and intervals, see
        `EvaluationSettings`; the interval of the chosen metric is wider for these groups, because there are several
    metric: that decides; a greater value must be better
    margin: the loss of it that is tolerated (the margin of non-inferiority)
    group_margin: the loss that is tolerated in a group; a greater one with confidence is a regression
    places: number of first places whose changes are counted
    changed: the share of changed items in the first places, or of contexts with another first item, from which on an
        online test could see a difference
    examples: number of contexts that are shown

    >>> ComparisonSettings(margin=0.002).metric
    'ndcg@10'
    """

    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    metric: str = "ndcg@10"
    margin: float = 0.005
    group_margin: float = 0.02
    places: int = 10
    changed: float = 0.05
    examples: int = 10

    def __post_init__(self) -> None:
        """Reject what decides nothing."""
        for name in ("margin", "group_margin"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError.because(
                    f"{name} is {getattr(self, name)}, expected the loss of {self.metric} that is tolerated, above 0",
                    "write 0.005",
                )
        if not 0 <= self.changed <= 1:
            raise ConfigError.because(f"changed is {self.changed}, expected a share from 0 to 1")
        if self.places < 1 or self.examples < 0:
            raise ConfigError.because(
                f"places is {self.places} and examples {self.examples}, expected 1 and more, and 0 and more"
            )
        if self.metric == "log_loss":
            raise ConfigError.because("log_loss cannot decide: less of it is better", "choose ndcg@10, or mrr")

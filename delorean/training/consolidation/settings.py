"""How one model is fitted for several tasks: the `[consolidation]` table of a spec."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from schemas.errors import ConfigError

Sharing: TypeAlias = Literal["trunk", "task_type", "weighted"]
CalibrationMethod: TypeAlias = Literal["none", "isotonic", "sigmoid"]
SHARINGS: tuple[Sharing, ...] = get_args(Sharing)


@dataclass(frozen=True)
class Consolidation:
    """How the tasks of a spec share one model, and when a task loses too much by it.

    sharing: `trunk`: trees of all tasks, continued by trees of each task's own; `task_type`: the same trees for all,
        with the task's number as a further feature; `weighted`: the same, with weights that make all tasks' total
        weights equal, or as `weights` says
    own_rounds: rounds of each task's own trees, of the model's `rounds`; None: a third of them
    weights: task → its share of the total weight, for `weighted`; 1 for tasks that are not named
    loss_limit: the loss of NDCG@10 against a model of the task alone that is tolerated
    accept_loss: tasks that may lose more
    calibration: how scores become probabilities, task by task; fitted on the validation part
    compare: sharings that the report measures beside the chosen one; None: all that the learner can fit

    >>> Consolidation(sharing="weighted", weights={"search": 2.0}).weight("homepage")
    1.0
    """

    sharing: Sharing = "trunk"
    own_rounds: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    loss_limit: float = 0.005
    accept_loss: tuple[str, ...] = ()
    calibration: CalibrationMethod = "none"
    compare: tuple[Sharing, ...] | None = None

    def __post_init__(self) -> None:
        """Reject settings that are wrong for any tasks."""
        for name in (self.sharing, *(self.compare or ())):
            if name not in SHARINGS:
                raise ConfigError.unknown("sharing", str(name), SHARINGS)
        if self.calibration not in get_args(CalibrationMethod):
            raise ConfigError.unknown("calibration", str(self.calibration), get_args(CalibrationMethod))
        if not 0 < self.loss_limit < 1:
            raise ConfigError.because(
                f"loss_limit is {self.loss_limit}, expected the loss of NDCG@10 that is tolerated, above 0",
                "write loss_limit = 0.005",
            )
        if self.own_rounds is not None and (self.own_rounds < 1 or self.sharing != "trunk"):
            raise ConfigError.because(
                f'own_rounds is {self.own_rounds} with sharing = "{self.sharing}", expected 1 or more with a trunk'
            )
        if self.weights and self.sharing != "weighted":
            raise ConfigError.because(
                f'weights are given with sharing = "{self.sharing}"', 'write sharing = "weighted", or leave them out'
            )
        if not all(0 <= weight < math.inf for weight in self.weights.values()):
            raise ConfigError.because(f"weights are {dict(self.weights)}, expected numbers of 0 and more")

    def weight(self, task: str) -> float:
        """Return a task's share of the total weight."""
        return float(self.weights.get(task, 1.0))

    def check(self, tasks: Collection[str]) -> None:
        """Raise ConfigError for tasks that do not exist, and weights that are all 0."""
        for what, names in (("accept_loss", self.accept_loss), ("weights", self.weights)):
            for name in names:
                if name not in tasks:
                    raise ConfigError.unknown(f"task of consolidation.{what}", name, tasks)
        if not any(self.weight(task) > 0 for task in tasks):
            raise ConfigError.because(
                "the weights of all tasks are 0, so there is nothing to learn from", "give one a weight above 0"
            )

    def rounds_of_own(self, rounds: int) -> int:
        """Return the rounds of each task's own trees. rounds: of the whole model. Raises ConfigError."""
        own = max(1, rounds // 3) if self.own_rounds is None else self.own_rounds
        if own >= rounds:
            raise ConfigError.because(
                f"{own} of {rounds} rounds are the tasks' own, which leaves none for the trunk",
                "write a smaller own_rounds, or more rounds in [model]",
            )
        return own

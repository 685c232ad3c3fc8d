"""Gradient boosted trees of LightGBM (Ke et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.training.learners import OnRound
from delorean.training.learners.boosting import (
    BoostedTrees,
    Target,
    first_sentence,
    grades,
    imported,
    learnable,
    validation_metric,
)
from delorean.training.missing_values import MissingValueHandling
from schemas.errors import TrainingError

_MOST_GAINS = 10_000
# With these, the trees have the same bits for any number of threads; by rows, `rank_xendcg` does not.
_DETERMINISTIC = {"deterministic": True, "force_col_wise": True}
_TUNABLE = (
    "alpha bagging_by_query bagging_fraction bagging_freq bagging_seed bin_construct_sample_cnt boost_from_average "
    "cat_l2 cat_smooth data_random_seed data_sample_strategy enable_bundle extra_seed extra_trees feature_contri "
    "feature_fraction feature_fraction_bynode feature_fraction_seed interaction_constraints is_unbalance lambda_l1 "
    "lambda_l2 lambdarank_norm lambdarank_truncation_level learning_rate max_bin max_bin_by_feature "
    "max_cat_threshold max_cat_to_onehot max_delta_step max_depth min_data_in_bin min_data_in_leaf "
    "min_data_per_group min_gain_to_split min_sum_hessian_in_leaf monotone_constraints monotone_constraints_method "
    "monotone_penalty neg_bagging_fraction num_leaves objective_seed other_rate path_smooth pos_bagging_fraction "
    "scale_pos_weight top_rate use_missing zero_as_missing"
)


@dataclass(frozen=True)
class LightGBM(BoostedTrees):
    """Learn trees by LightGBM.

    `lambdarank` learns a ranking of any gains, exactly as NDCG counts them here (Burges 2010). `rank_xendcg` (Bruch
    2021) counts a label l as 2^l − 1, so gains must be 0, 1, 3, 7, … `binary` learns whether a label is above 0.

    >>> LightGBM("lambdarank", {"num_leaves": 15}, rounds=100).name
    'LightGBM lambdarank'
    """

    objective: str = "lambdarank"

    library: ClassVar[str] = "LightGBM"
    objectives: ClassVar[Mapping[str, Target]] = {
        "lambdarank": "gains",
        "rank_xendcg": "gains",
        "binary": "classes",
        "regression": "values",
        "regression_l1": "values",
        "huber": "values",
    }
    tunable: ClassVar[frozenset[str]] = frozenset(_TUNABLE.split())

    def check(self) -> None:
        """Raise ConfigError where LightGBM is not installed."""
        imported("lightgbm", "lightgbm")

    def fit(
        self,
        train: RankingData,
        validation: RankingData,
        seed: int,
        on_round: OnRound | None = None,
        start: LightGBMModel | None = None,
    ) -> LightGBMModel:
        """Fit trees; see `Learner.fit`."""
        lightgbm = imported("lightgbm", "lightgbm")
        train = learnable(train)
        labels, gains = self._labels(self.targets(train))
        parameters = self._parameters(seed, gains)
        categorical = self.category_columns(train)
        self.category_columns(validation)
        sets = [lightgbm.Dataset(train.features, labels, **self._groups(train), categorical_feature=categorical)]
        callbacks: list[Callable[[Any], Any]] = []
        if self.stop_after or on_round is not None:
            unlabelled = np.zeros(len(validation.labels), dtype=np.float32)  # only our metric is computed there
            sets.append(sets[0].create_valid(validation.features, unlabelled))
        if self.stop_after:
            callbacks.append(lightgbm.early_stopping(self.stop_after, first_metric_only=True, verbose=False))
        metric = validation_metric(validation, on_round)
        try:
            booster = lightgbm.train(
                parameters,
                sets[0],
                self.rounds,
                valid_sets=sets[1:],
                feval=lambda scores, _: ("ndcg@10", metric(scores), True),
                callbacks=callbacks,
                init_model=None if start is None else start.fitted,
            )
        except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
            raise TrainingError.because(f"{self.name} cannot be fitted: {first_sentence(error)}") from error
        rounds = booster.best_iteration if self.stop_after else -1
        return LightGBMModel(lightgbm.Booster(model_str=booster.model_to_string(num_iteration=rounds)))

    def _labels(self, labels: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[float] | None]:
        """Return the labels as LightGBM reads them, and the gain of each where it reads numbers of gains."""
        if self.objective == "lambdarank":
            return grades(labels, _MOST_GAINS)
        if self.objective == "rank_xendcg":
            exponents = np.log2(labels.astype(np.float64) + 1)
            if (exponents != np.round(exponents)).any():
                wrong = labels[exponents != np.round(exponents)][0]
                raise TrainingError.because(
                    f"rank_xendcg counts a label l as the gain 2^l - 1, and the labels have the gain {wrong:g}",
                    'choose objective = "lambdarank", which learns any gains',
                )
            return exponents.astype(np.float32), None
        return labels, None

    def _parameters(self, seed: int, gains: list[float] | None) -> dict[str, Any]:
        own: dict[str, Any] = {
            "objective": self.objective,
            "seed": seed,
            "num_threads": self.threads,
            "metric": "None",
            "verbosity": -1,
            **_DETERMINISTIC,
        }
        if gains is not None:
            own["label_gain"] = gains
        return {**self.parameters, **own}

    def _groups(self, train: RankingData) -> dict[str, Any]:
        groups = np.diff(train.offsets) if self.target == "gains" else None
        return {"weight": train.item_weights, "group": groups}


@dataclass(frozen=True)
class LightGBMModel:
    """A booster of LightGBM, up to its best round."""

    fitted: Any

    @property
    def name(self) -> str:
        """The library and the objective."""
        return f"LightGBM {self.fitted.params.get('objective', '')}".strip()

    @property
    def rounds(self) -> int:
        """Number of trees."""
        return int(self.fitted.num_trees())

    def reference(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score rows; see `FittedModel.reference`."""
        return np.asarray(self.fitted.predict(features), dtype=np.float64)

    def contributions(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the contributions; see `FittedModel.contributions`."""
        with_bias = np.asarray(self.fitted.predict(features, pred_contrib=True), dtype=np.float64)
        return with_bias[:, :-1]

    def missing_values(self, features: int) -> MissingValueHandling:
        """Trees learn a branch for missing values."""
        del features
        return "used"

"""Gradient boosted trees of XGBoost (Chen and Guestrin 2016)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    imported,
    learnable,
    validation_metric,
)
from delorean.training.missing_values import MissingValueHandling
from schemas.errors import TrainingError

_TUNABLE = (
    "alpha base_score colsample_bylevel colsample_bynode colsample_bytree eta gamma grow_policy huber_slope "
    "interaction_constraints lambda lambdarank_bias_norm lambdarank_normalization lambdarank_num_pair_per_sample "
    "lambdarank_pair_method lambdarank_score_normalization lambdarank_unbiased learning_rate max_bin "
    "max_cat_threshold max_cat_to_onehot max_delta_step max_depth max_leaves min_child_weight min_split_loss "
    "monotone_constraints reg_alpha reg_lambda sampling_method scale_pos_weight subsample"
)


@dataclass(frozen=True)
class XGBoost(BoostedTrees):
    """Learn trees by XGBoost's histogram method.

    `rank:ndcg` and `rank:pairwise` learn a ranking, by the labels' gains and by their order; `rank:map` and the
    `binary:` ones whether a label is above 0.

    >>> XGBoost("rank:pairwise", {"max_depth": 4}).name
    'XGBoost rank:pairwise'
    """

    objective: str = "rank:ndcg"

    library: ClassVar[str] = "XGBoost"
    objectives: ClassVar[Mapping[str, Target]] = {
        "rank:ndcg": "gains",
        "rank:pairwise": "gains",
        "rank:map": "classes",
        "binary:logistic": "classes",
        "binary:logitraw": "classes",
        "reg:squarederror": "values",
        "reg:absoluteerror": "values",
        "reg:pseudohubererror": "values",
    }
    tunable: ClassVar[frozenset[str]] = frozenset(_TUNABLE.split())

    def check(self) -> None:
        """Raise ConfigError where XGBoost is not installed."""
        imported("xgboost", "xgboost")

    def fit(
        self,
        train: RankingData,
        validation: RankingData,
        seed: int,
        on_round: OnRound | None = None,
        start: XGBoostModel | None = None,
    ) -> XGBoostModel:
        """Fit trees; see `Learner.fit`."""
        train, metric = learnable(train), validation_metric(validation, on_round)
        targets, watched = self.targets(train), on_round is not None
        with self.translated_errors():
            return self.fit_share(train, targets, validation, metric, seed, watched=watched, start=start)

    def fit_share(
        self,
        train: RankingData,
        targets: NDArray[np.float32],
        validation: RankingData,
        metric: Callable[[NDArray[Any]], float],
        seed: int,
        *,
        watched: bool = False,
        start: XGBoostModel | None = None,
    ) -> XGBoostModel:
        """Fit trees on a share of the training part, together with the other workers of XGBoost's communicator.

        metric: of scores of the validation part; of all workers' together
        watched: compute the metric after each round even if it does not end the fit
        start: see `Learner.fit`
        """
        xgboost = imported("xgboost", "xgboost")
        data = self._training_matrix(train, targets, whole=start is not None)
        measured = self.stop_after or watched
        booster = xgboost.train(
            self._parameters(seed),
            data,
            self.rounds,
            evals=[(self._validation_matrix(validation, data), "validation")] if measured else [],
            xgb_model=None if start is None else start.fitted,
            custom_metric=lambda scores, _: ("ndcg@10", metric(scores)),
            callbacks=self._callbacks(),
            verbose_eval=False,
        )
        return XGBoostModel(booster[: booster.best_iteration + 1] if self.stop_after else booster)

    def _parameters(self, seed: int) -> dict[str, Any]:
        """Return all parameters, as XGBoost names them."""
        own: dict[str, Any] = {
            "objective": self.objective,
            "seed": seed,
            "nthread": self.threads,
            "tree_method": "hist",
            "disable_default_eval_metric": True,
            "validate_parameters": True,
        }
        if self.target == "gains":
            own["ndcg_exp_gain"] = False  # a label is its own gain, as in our metric
        return {**self.parameters, **own}

    def _callbacks(self) -> list[Any]:
        if not self.stop_after:
            return []
        stop = imported("xgboost", "xgboost").callback.EarlyStopping
        return [stop(rounds=self.stop_after, metric_name="ndcg@10", data_name="validation", maximize=True)]

    def _training_matrix(self, train: RankingData, targets: NDArray[np.float32], *, whole: bool) -> Any:
        """Return the training part as XGBoost's bins.

        whole: with its values, by which an earlier model scores it exactly; bins of other data would not tell them
        """
        if whole:
            matrix = imported("xgboost", "xgboost").DMatrix
            return matrix(train.features, targets, **self._groups(train), **self._matrix_options(train))
        matrix = imported("xgboost", "xgboost").QuantileDMatrix
        bins = {"max_bin": self.parameters["max_bin"]} if "max_bin" in self.parameters else {}
        return matrix(train.features, targets, **self._groups(train), **self._matrix_options(train), **bins)

    def _validation_matrix(self, validation: RankingData, train: Any) -> Any:
        """Return the validation part as the training part is: in the same bins, or with its values."""
        library = imported("xgboost", "xgboost")
        if isinstance(train, library.QuantileDMatrix):
            return library.QuantileDMatrix(validation.features, ref=train, **self._matrix_options(validation))
        return library.DMatrix(validation.features, **self._matrix_options(validation))

    def _matrix_options(self, part: RankingData) -> dict[str, Any]:
        categorical = self.category_columns(part)
        types = ["c" if column in categorical else "q" for column in range(len(part.names))]
        categories = {"feature_types": types, "enable_categorical": True} if categorical else {}
        return {"nthread": self.threads or None, **categories}

    def _groups(self, train: RankingData) -> dict[str, Any]:
        if not self.objective.startswith("rank:"):
            return {"weight": train.item_weights}
        if train.own_item_weights is not None:
            raise TrainingError.because(
                f"XGBoost's {self.objective} has a weight for each context, none for each item, and the label data "
                "has weights of items",
                'choose objective = "binary:logistic", or learner = "lightgbm"',
            )
        return {"weight": train.weights, "group": np.diff(train.offsets)}

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise TrainingError for XGBoost's own errors, and for parameters that it does not use.

        Errors of its communicator stay as they are: another worker has died, and a retry may succeed.
        """
        library = imported("xgboost", "xgboost")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=r"(?s).*Parameters: .* are not used", category=UserWarning)
                yield
        except (library.core.XGBoostError, ValueError, TypeError, UserWarning) as error:
            if "collective" in str(error):
                raise
            raise TrainingError.because(f"{self.name} cannot be fitted: {first_sentence(error)}") from error


@dataclass(frozen=True)
class XGBoostModel:
    """A booster of XGBoost, up to its best round."""

    fitted: Any

    @property
    def name(self) -> str:
        """The library."""
        return "XGBoost"

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return int(self.fitted.num_boosted_rounds())

    def reference(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score rows; see `FittedModel.reference`."""
        return np.asarray(self.fitted.inplace_predict(features), dtype=np.float64)

    def contributions(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the contributions; see `FittedModel.contributions`."""
        matrix = imported("xgboost", "xgboost").DMatrix(features, feature_types=self.fitted.feature_types)
        with_bias = np.asarray(self.fitted.predict(matrix, pred_contribs=True), dtype=np.float64)
        return with_bias[:, :-1]

    def missing_values(self, features: int) -> MissingValueHandling:
        """Trees learn a branch for missing values."""
        del features
        return "used"

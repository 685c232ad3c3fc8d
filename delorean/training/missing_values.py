"""How a fitted model handles missing features: any feature is missing when its service does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import PackageError

MissingValueHandling = Literal["used", "refused"]
IMPUTE = (
    "put an imputer before it: impute = \"median\" in the spec's [model], or scikit-learn's SimpleImputer in Python"
)
_MOST_VALUES = 1 << 22


def with_missing_values(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return some rows once per feature with that feature missing, and once more with all features missing.

    features: (rows, features); up to 32 of the rows are used, fewer where there are many features, at least one

    >>> with_missing_values(np.float32([[1, 2]])).tolist()
    [[nan, 2.0], [1.0, nan], [nan, nan]]
    """
    width = features.shape[1]
    rows = features[: max(1, min(32, _MOST_VALUES // (width + 1) ** 2))]
    masked = np.broadcast_to(rows, (width + 1, *rows.shape)).copy()
    for column in range(width):
        masked[column, :, column] = np.nan
    masked[width] = np.nan
    return masked.reshape(-1, width)


def takes_missing_values(model: Any, width: int) -> bool:
    """Return whether a fitted scikit-learn model scores rows with missing values at all."""
    try:
        model.predict(np.full((1, width), np.nan, dtype=np.float32))
    except ValueError:
        return False
    return True


def with_imputer(estimator: Any, strategy: str) -> Any:
    """Put an imputer before an estimator: strategy is `mean`, `median` or `most_frequent`, as in scikit-learn."""
    from sklearn.impute import SimpleImputer  # not installed where models are served
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(strategy=strategy, keep_empty_features=True), estimator)


def refuse_missing_values(model: str, names: Sequence[str], features: NDArray[np.float32]) -> None:
    """Raise PackageError that names the missing features, for a model that accepts none."""
    missing = np.isnan(features).any(axis=0)
    if missing.any():
        shown = ", ".join(f"'{names[column]}'" for column in np.flatnonzero(missing)[:5])
        count = int(np.isnan(features).any(axis=1).sum())
        raise PackageError.because(
            f"{model} accepts no missing values, and {shown} {'is' if missing.sum() == 1 else 'are'} missing in "
            f"{count} of {len(features)} rows",
            IMPUTE,
        )

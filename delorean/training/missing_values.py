"""What a fitted model does with features that are missing, which any feature is when its service gives no answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import PackageError

MissingValues = Literal["used", "refused"]
IMPUTE = (
    "put an imputer before it: impute = \"median\" in the spec's [model], or scikit-learn's SimpleImputer in Python"
)
_MOST_VALUES = 1 << 22


def with_missing_values(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give some rows once for each feature, without that feature, and once without any.

    features: (rows, features); at least one of the rows is used, and fewer the more features there are

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
    """Tell whether a fitted scikit-learn model scores rows with missing values at all."""
    try:
        model.predict(np.full((1, width), np.nan, dtype=np.float32))
    except ValueError:
        return False
    return True


def with_imputer(estimator: Any, strategy: str) -> Any:
    """Put an imputer before an estimator: strategy is `mean`, `median` or `most_frequent`, as in scikit-learn."""
    from sklearn.impute import SimpleImputer  # servers do without scikit-learn
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(strategy=strategy, keep_empty_features=True), estimator)


def refuse_missing_values(model: str, names: Sequence[str], features: NDArray[np.float32]) -> None:
    """Raise PackageError that names the features that are missing, for a model that takes none."""
    missing = np.isnan(features).any(axis=0)
    if missing.any():
        shown = ", ".join(f"'{names[column]}'" for column in np.flatnonzero(missing)[:5])
        count = int(np.isnan(features).any(axis=1).sum())
        raise PackageError.because(
            f"{model} takes no missing values, and {shown} {'is' if missing.sum() == 1 else 'are'} missing in {count} "
            f"of {len(features)} rows",
            IMPUTE,
        )

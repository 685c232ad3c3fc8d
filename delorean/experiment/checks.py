"""Checks of a spec that need no data, made before any work begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from delorean.experiment.spec import ExperimentSpec
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN, TIME_COLUMN
from schemas.errors import ConfigError, LabelError, TrainingError
from schemas.hashing import check_bucket_count
from snapshotter.storage import require_plain_name


class Places(Protocol):
    """Adds to errors where in a file the field stands that they are about."""

    def at(self, place: str) -> AbstractContextManager[None]:
        """Name a field of the file in the errors that are raised inside."""


class _NoFile:
    """Errors of a spec that comes from no file stay as they are."""

    def at(self, place: str) -> AbstractContextManager[None]:
        """Add nothing."""
        del place
        return nullcontext()


def check_spec(spec: ExperimentSpec, places: Places | None = None, run_id: str | None = None) -> None:
    """Refuse what is wrong in a spec, whatever is captured and whatever its tables hold.

    places: the file that it comes from
    run_id: of the run that is about to begin

    Raises ConfigError, LabelError, ParadoxError, DataKeyError, EncoderError, TrainingError.
    """
    places = places or _NoFile()
    with places.at("name"):
        require_plain_name("feature set", spec.name)
    if run_id is not None:
        require_plain_name("run id", run_id)
    labels = spec.labels
    if labels.id is not None:
        with places.at("labels.id"):
            require_plain_name("label data", labels.id)
    if labels.buckets is not None:
        with places.at("labels.buckets"):
            check_bucket_count(labels.buckets)
    with places.at("labels"):
        labels.columns.check()
        if labels.context is not None and labels.bucket_variable not in (None, *labels.context):
            raise LabelError.unknown(
                "bucket variable among the context variables", str(labels.bucket_variable), labels.context
            )
    if labels.context is not None and spec.split.group not in (None, *labels.context):
        with places.at("split.group"):
            raise TrainingError.unknown("context variable to split by", str(spec.split.group), labels.context)
    with places.at("encoders"):
        _refuse_alike(spec)
    with places.at("model.estimator"):
        spec.model.build()


def _refuse_alike(spec: ExperimentSpec) -> None:
    """Refuse names of columns of the feature set that Delta takes for one: it does not tell cases apart."""
    spelled: dict[str, str] = {}
    for name in _columns(spec):
        other = spelled.setdefault(name.casefold(), name)
        if other != name or list(_columns(spec)).count(name) > 1:
            raise ConfigError.because(
                f"the feature set would have several columns named {' and '.join(dict.fromkeys((other, name)))}",
                "rename the feature or the variable",
            )


def _columns(spec: ExperimentSpec) -> Iterator[str]:
    """Name the columns of the feature set, as far as the spec alone names them."""
    yield from (TIME_COLUMN, LABEL_COLUMN, OUTCOME_COLUMN, *(spec.labels.context or ()), *spec.labels.items)
    yield from spec.feature_model.features

"""Refuses a feature whose vectors have another width than in the versions before: that is another feature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from delorean.feature_sets.table import recent_records
from schemas.errors import ConfigError
from snapshotter.storage import Storage


def refuse_other_widths(storage: Storage, name: str, features: Iterable[str], vectors: Mapping[str, int]) -> None:
    """Raise ConfigError where the newest version of a feature set has vectors of another width, or numbers instead.

    A table's type says only that there are vectors, so readers of its versions would see them change without an error.

    name: of the feature set, which may not exist yet
    features, vectors: of the version that is to be generated: all features, and the widths of those that are vectors
    """
    for record in recent_records(storage, name, 1):
        before = record.feature_set
        for feature in features:
            widths = before.vectors.get(feature), vectors.get(feature)
            if feature in before.features and widths[0] != widths[1]:
                old, new = ("one number" if width is None else f"{width} components" for width in widths)
                raise ConfigError.because(
                    f"feature '{feature}' has {old} for each item in version {before.version} of '{name}', and would "
                    f"have {new}: it is another feature",
                    f'give it another name: rename = {{ {feature} = "…" }}, or generate into another feature set',
                )

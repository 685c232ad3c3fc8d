"""Features whose value for each item is a vector, and the names of the columns that learners see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schemas.errors import EncoderError

MOST_COMPONENTS = 4_096  # checks of missing values hold a matrix of as many rows as columns


@dataclass(frozen=True)
class Vector:
    """A feature that is a vector of a fixed number of float32, such as an item's factors.

    width: number of its components, 1 to 4,096

    >>> Vector("factors", 3).columns
    ('factors[0]', 'factors[1]', 'factors[2]')

    Raises EncoderError for another width.
    """

    name: str
    width: int

    def __post_init__(self) -> None:
        """Check the name's type and the width."""
        if not isinstance(self.name, str):
            raise EncoderError.because(f"{self.name!r} cannot name a feature", 'write Vector("factors", 16)')
        if type(self.width) is not int or not 1 <= self.width <= MOST_COMPONENTS:
            raise EncoderError.because(
                f"the vector '{self.name}' has width {self.width!r}, expected an integer from 1 to {MOST_COMPONENTS:,}",
                'write its number of components: Vector("factors", 16)',
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its components, as learners see them."""
        return tuple(f"{self.name}[{i}]" for i in range(self.width))


def columns_of(features: Iterable[str], vectors: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of a model's inputs: each feature, or each component of one that is a vector.

    vectors: feature → width, for features that are vectors

    >>> columns_of(["popularity", "factors"], {"factors": 2})
    ('popularity', 'factors[0]', 'factors[1]')
    """
    parts = (Vector(name, vectors[name]).columns if name in vectors else (name,) for name in features)
    return tuple(name for part in parts for name in part)

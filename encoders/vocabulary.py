"""Vocabularies: texts whose positions are the categories that a learner sees."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from encoders.hash_index import fill_slots, slot_bounds
from schemas.errors import EncoderError
from schemas.hashing import text_code
from schemas.nulls import is_text

MOST_TEXTS = 65_535  # so that unknown texts have a category below 65,536 too
_HINT = 'write each text once: ("DE", "US")'


class Vocabulary(tuple[str, ...]):
    """The value of an encoder's parameter that is a tuple of texts: `code_of` finds the position of a text in it.

    Raises EncoderError for anything but 1 to 65,535 different texts.

    >>> Vocabulary(["DE", "US"])
    ('DE', 'US')
    """

    def __new__(cls, texts: Iterable[str]) -> Self:
        """Check the texts."""
        if isinstance(texts, str):
            raise EncoderError.mistaken("a vocabulary", texts, "a list of texts", _HINT)
        vocabulary = super().__new__(cls, texts)
        wrong = [text for text in vocabulary if not isinstance(text, str)]
        if wrong:
            raise EncoderError.because(f"a vocabulary contains {wrong[0]!r}, expected texts", _HINT)
        if not 1 <= len(vocabulary) <= MOST_TEXTS:
            raise EncoderError.because(
                f"a vocabulary has {len(vocabulary):,} texts, expected 1 to {MOST_TEXTS:,}",
                "keep the most frequent ones: Vocabulary.most_frequent(texts, 1000)",
            )
        if len(set(vocabulary)) < len(vocabulary):
            twice = Counter(vocabulary).most_common(1)[0][0]
            raise EncoderError.because(f"a vocabulary contains {twice!r} twice", _HINT)
        try:
            "".join(vocabulary).encode()
        except UnicodeEncodeError as error:
            raise EncoderError.because(f"a vocabulary contains a text that is not Unicode: {error}", _HINT) from error
        return vocabulary

    @classmethod
    def most_frequent(cls, texts: Any, number: int) -> Self:
        """Return the texts that occur most often, the most frequent first, and equally frequent ones by name.

        texts: a column of label data or of a snapshot: an Arrow array, a Series of pandas or Polars, or a list, of
            texts or of lists of texts. Nulls are not counted
        number: at most as many texts

        Raises EncoderError for a column of another type, or without texts.

        >>> Vocabulary.most_frequent(["US", "DE", None, "US", "CH", "DE", "AT"], 3)
        ('DE', 'US', 'AT')
        """
        column = pa.chunked_array(texts) if hasattr(texts, "__arrow_c_stream__") else pa.array(texts)
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.list_flatten(column)
        if not is_text(column.type):
            raise EncoderError.because(f"a vocabulary of {column.type}, expected texts", "name a column of texts")
        counts = pc.value_counts(pc.drop_null(column.cast(pa.large_string())))
        pairs = zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
        return cls(text for text, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:number])

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each text."""
        return {text: position for position, text in enumerate(self)}

    @cached_property
    def machine_form(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The texts' codes, and the slots of the hash index over them, for compiled code."""
        codes = np.array([text_code(text) for text in self], dtype=np.int64)
        bounds = slot_bounds(np.array([0, len(codes)], dtype=np.int64)).tolist()
        slots = [-1] * bounds[-1]
        fill_slots(codes.tolist(), [0, len(codes)], bounds, slots, 0, False)
        arrays = codes, np.array(slots, dtype=np.int64)
        for array in arrays:
            array.flags.writeable = False
        return arrays

    def __contains__(self, text: object) -> bool:
        """Whether a text is in it, without a search."""
        return text in self.positions

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the texts alone."""
        return type(self), (tuple(self),)


def code_of(vocabulary: tuple[str, ...], text: str | None) -> float:
    """Return a text's category: its position in a vocabulary.

    A text that is not in the vocabulary has the position after the last, so a learner can tell it from one that is
    missing (None), which is NaN.

    vocabulary: a parameter of the encoder, whose default is a tuple of texts

    >>> [code_of(("DE", "US"), country) for country in ("DE", "US", "CH", None)]
    [0.0, 1.0, 2.0, nan]
    """
    if text is None:
        return math.nan
    if not isinstance(text, str):
        raise EncoderError.because(f"code_of(…, {text!r}): a vocabulary has codes of texts", "pass a text")
    positions = vocabulary.positions if isinstance(vocabulary, Vocabulary) else Vocabulary(vocabulary).positions
    return float(positions.get(text, len(positions)))

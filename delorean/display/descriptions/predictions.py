"""Describes predictions: what was scored by which package, and how the scores are distributed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from delorean.display.description import describes
from delorean.display.descriptions.feature_sets import distribution, first_rows, float_values
from delorean.display.formats import data_row
from delorean.display.parts import Facts, Note, Part, Table
from delorean.labels import TIME_COLUMN
from delorean.prediction.packaged_model import SCORE_COLUMN
from delorean.prediction.table import Predictions
from schemas.tables import python_rows

_SAMPLE_ROWS = 500
_FIRST_ROWS = 3


def _document(predictions: Predictions) -> Mapping[str, Any]:
    return {
        "predictions": predictions.uri,
        "version": predictions.version,
        "package": predictions.package,
        "feature_set": predictions.feature_set,
        "contexts": predictions.rows,
        "items": predictions.item_count,
        "lowest": predictions.lowest,
        "highest": predictions.highest,
        "seconds": predictions.seconds,
        "notes": list(predictions.notes),
    }


@describes(Predictions, _document)
def _predictions(predictions: Predictions) -> Iterator[Part]:
    source = predictions.feature_set
    yield Facts(
        {
            "package": f"{predictions.package['path']} ({predictions.package['digest'][:12]})",
            "feature set": f"{source['uri']}, version {source['version']}",
            "seconds": predictions.seconds,
        }
    )
    yield from (Note(note) for note in predictions.notes)
    columns = [*predictions.context, TIME_COLUMN, *predictions.items, SCORE_COLUMN, *predictions.kept]
    rows = first_rows(predictions.files(), columns, _SAMPLE_ROWS)
    scores = {"": SCORE_COLUMN, **distribution(float_values(rows[SCORE_COLUMN]))}
    yield Table([scores], f"scores of the first {rows.num_rows:,} rows")
    first = rows.slice(0, _FIRST_ROWS)
    yield Table([data_row(row) for row in python_rows(first)], "first rows", predictions.rows)

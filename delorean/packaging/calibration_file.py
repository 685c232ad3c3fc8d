"""The calibrations of a package of tasks: an Arrow file with a row for each task that has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from delorean.packaging.golden_rows import read_arrow, write_arrow
from delorean.scoring.calibration import IsotonicCalibration, SigmoidCalibration, TaskCalibration
from schemas.errors import PackageError

CALIBRATION = "calibration.arrow"
_LIST = pa.list_(pa.float64())
_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("slope", pa.float64()),
        ("intercept", pa.float64()),
        ("scores", _LIST),
        ("probabilities", _LIST),
    ]
)


def write_calibrations(calibrations: Mapping[str, TaskCalibration]) -> bytes:
    """Write calibrations as an Arrow IPC file: a slope and an intercept, or knots."""
    rows = [
        {"task": task, "slope": each.slope, "intercept": each.intercept}
        if isinstance(each, SigmoidCalibration)
        else {"task": task, "scores": each.scores, "probabilities": each.values}
        for task, each in calibrations.items()
    ]
    return write_arrow(pa.Table.from_pylist(rows, schema=_SCHEMA))


def read_calibrations(name: str, data: bytes, tasks: Sequence[str]) -> dict[str, TaskCalibration]:
    """Read what `write_calibrations` wrote, as untrusted data. Raises PackageError that names the file."""
    table = read_arrow(name, data)
    if table.schema != _SCHEMA or len(table) > len(tasks):
        raise PackageError.because(f"'{name}' does not hold calibrations", "package the model again")
    calibrations: dict[str, TaskCalibration] = {}
    for row in range(len(table)):
        values = {column: table[column][row] for column in table.schema.names}
        task = values["task"].as_py()
        if task not in tasks or task in calibrations:
            raise PackageError.unknown(f"task of '{name}', or one that it has twice", str(task), tasks)
        try:
            calibrations[task] = _calibration(values)
        except PackageError as error:
            raise PackageError(f"'{name}', task '{task}': {error}") from error
    return calibrations


def _calibration(values: Mapping[str, pa.Scalar]) -> TaskCalibration:
    present = {name for name, value in values.items() if value.is_valid} - {"task"}
    if present == {"slope", "intercept"}:
        return SigmoidCalibration(values["slope"].as_py(), values["intercept"].as_py())
    if present != {"scores", "probabilities"}:
        raise PackageError.because(
            f"it has {', '.join(sorted(present)) or 'nothing'}, expected a slope and an intercept, or knots"
        )
    knots = [values[name].values for name in ("scores", "probabilities")]
    if any(each.null_count for each in knots):
        raise PackageError.because("a knot is null")
    scores, probabilities = (np.array(each.to_numpy(zero_copy_only=False)) for each in knots)
    return IsotonicCalibration(scores, probabilities)

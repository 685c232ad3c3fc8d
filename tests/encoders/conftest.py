from __future__ import annotations

import itertools
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from encoders import DataMaps, Element, FeatureEncoder, FeatureModel
from schemas.data_keys import DataKey, context_variable, item
from schemas.tables import TIME

Define = Callable[..., dict[str, Any]]
_cells = itertools.count(1)


@pytest.fixture(scope="session")
def cache() -> Path:
    """A cache of compiled encoders in the environment, which all workers and runs share: a code's name decides it."""
    return Path(sys.prefix) / "compiled-encoders"


@pytest.fixture(scope="session")
def define() -> Define:
    """Define functions as a notebook's cell does: source that only linecache knows, in a namespace of its own."""

    def define_cell(source: str, **names: Any) -> dict[str, Any]:
        file = f"<cell {next(_cells)}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        namespace = {"__name__": "__main__", **names}
        exec(compile(source, file, "exec"), namespace)
        return namespace

    return define_cell


@pytest.fixture(scope="session")
def data_maps() -> Callable[..., DataMaps]:
    """Build data maps from plain Python: contexts and items as columns, elements as (key, values, rows)."""

    def build(
        times: Sequence[int],
        items: Sequence[Sequence[Any]],
        elements: Mapping[str, Element] | None = None,
        context: Mapping[str, pa.Array] | None = None,
    ) -> DataMaps:
        columns = {"time": pa.array(times, pa.timestamp("us")).cast(TIME), **(context or {})}
        offsets = np.concatenate([[0], np.cumsum([len(some) for some in items], dtype=np.int64)]).astype(np.int64)
        flat = pa.array([x for some in items for x in some], pa.int64())
        return DataMaps(pa.table(columns), pa.table({"video_id": flat}), offsets, elements or {})

    return build


@pytest.fixture(scope="session")
def both_ways(cache: Path) -> Callable[..., dict[str, list[float]]]:
    """Encode compiled and interpreted, insist on the same bits, give the features as lists."""

    def encode(
        encoder: FeatureEncoder,
        maps: DataMaps,
        context: Sequence[DataKey] = (),
    ) -> dict[str, list[float]]:
        bound = FeatureModel([encoder]).bind(context, [item("video_id", "int64")], cache)
        compiled, interpreted = bound.encode(maps), bound.interpret(maps)
        for feature, values in compiled.items():
            assert values.dtype == np.float32
            assert values.tobytes() == interpreted[feature].tobytes(), feature
        return {feature: values.tolist() for feature, values in compiled.items()}

    return encode


PROFILE = context_variable("profile_id", "int64")

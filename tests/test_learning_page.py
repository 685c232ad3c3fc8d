"""What docs/LEARNING.md shows of vectors and categories does what the page says."""

from __future__ import annotations

import linecache
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from delorean.experiment.encoder_spec import EncoderSpec
from delorean.experiment.model_spec import ModelSpec
from encoders import DataMaps, Element, FeatureModel
from schemas.data_keys import context_variable, item

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "LEARNING.md").read_text()
SECTION = TEXT.split("\n### Vectors and categories\n")[1].split("\n## ")[0]
CODE, SPEC = (
    re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)[0] for language in ("python", "toml")
)


def test_the_encoder_and_the_spec_of_the_page() -> None:
    linecache.cache["<page>"] = (len(CODE), None, CODE.splitlines(keepends=True), "<page>")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(CODE, "<page>", "exec"), namespace)
    spec = tomllib.loads(SPEC)
    read = msgspec.convert(spec["encoders"][0], EncoderSpec)
    model = FeatureModel([namespace["taste"].configured(**read.parameters)])
    assert set(msgspec.convert(spec["model"], ModelSpec).categorical) <= set(model.columns)
    assert len(model.columns) == 17
    factors = np.arange(16, dtype=np.float32)
    videos = pa.array([[{"video_id": 7, "factors": factors.tolist()}]], pa.list_(namespace["VIDEOS"].type))
    contexts = pa.table(
        {"time": pa.array([0] * 3, pa.timestamp("us", "UTC")), "country": pa.array(["CH", "FR", None], pa.string())}
    )
    rows = np.zeros(3, dtype=np.int64)
    maps = DataMaps(contexts, pa.table({"video_id": [7, 8, 7]}), np.arange(4), {"videos": Element(videos, rows)})
    bound = model.bind([context_variable("country", "string")], [item("video_id", "int64")])
    for features in (bound.encode(maps), bound.interpret(maps)):
        np.testing.assert_array_equal(features["factors"][::2], [factors, factors])
        assert np.isnan(features["factors"][1]).all()
        np.testing.assert_array_equal(features["country_code"], np.array([1, 4, np.nan], np.float32))

"""Ranking data in files that worker processes map into memory, so that it is read and kept once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from delorean.ranking_data.ranking_data import RankingData

_PLAIN = "plain.json"


def save_part(part: RankingData, folder: Path) -> None:
    """Write ranking data into a new folder."""
    folder.mkdir(parents=True)
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, np.ndarray):
            np.save(folder / f"{field.name}.npy", value)
        elif isinstance(value, pa.Table):
            with (
                pa.OSFile(str(folder / f"{field.name}.arrow"), "wb") as sink,
                pa.ipc.new_file(sink, value.schema) as out,
            ):
                out.write_table(value)
        elif isinstance(value, Mapping):
            (folder / field.name).mkdir()
            for i, array in enumerate(value.values()):
                np.save(folder / field.name / f"{i}.npy", array)
            plain[field.name] = {"arrays": list(value)}
        else:
            plain[field.name] = value
    (folder / _PLAIN).write_text(json.dumps(plain), encoding="utf-8")


def load_part(folder: Path) -> RankingData:
    """Map the ranking data in a folder into memory."""
    fields: dict[str, Any] = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    for path in folder.glob("*.arrow"):
        fields[path.stem] = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    for name, value in json.loads((folder / _PLAIN).read_text(encoding="utf-8")).items():
        if isinstance(value, Mapping):
            arrays = value["arrays"]
            fields[name] = {each: np.load(folder / name / f"{i}.npy", mmap_mode="r") for i, each in enumerate(arrays)}
        else:
            fields[name] = tuple(value) if isinstance(value, list) else value
    return RankingData(**fields)

"""What docs/EVOLUTION.md shows works as it is written, and its table of rules is complete."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from delorean.project.config import load_project
from prana_proxy.config.services_file import load_gateway_config
from schemas.data_keys import service_element

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "EVOLUTION.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_examples_run_as_they_are_written(tmp_path):
    names: dict[str, object] = {}
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "EVOLUTION.md", "exec"), names)
    first, second, project = (code for language, code in BLOCKS if language == "toml")
    (tmp_path / "services.toml").write_text(first + second)
    services = {each.service.name: each.service for each in load_gateway_config(tmp_path / "services.toml").services}
    assert services["viewing_history"].element.defaults == {"device": "unknown", "plays": 1}
    assert services["viewing_history_2"].element.name == "viewing_history_2"
    (tmp_path / "delorean.toml").write_text(project)
    assert len(load_project(tmp_path / "delorean.toml").packages.allow) == 1


@pytest.mark.parametrize(
    ("row", "stored", "wanted"),
    [
        ("`int32` → `int64`", pa.int32(), pa.int64()),
        ("`uint8` → `int16`", pa.uint8(), pa.int16()),
        ("integer of up to 32 bits", pa.uint32(), pa.float64()),
        ("| `float` | `double` |", pa.float32(), pa.float64()),
        ("in a finer unit", pa.duration("s"), pa.duration("us")),
        ("Arrow's forms", pa.large_list(pa.string_view()), pa.list_(pa.string())),
    ],
)
def test_the_rows_of_the_rules_hold(row, stored, wanted):
    assert row in TEXT
    assert service_element("x", wanted).reads(stored)
    assert not service_element("x", stored).reads(wanted) or "forms" in row

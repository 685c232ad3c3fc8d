"""What docs/CONSOLIDATION.md shows is read as it is written, and does what the page says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from delorean.training.consolidation.result import Outcome
from delorean.training.consolidation.settings import SHARINGS, Consolidation

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "CONSOLIDATION.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def first_cells(header: str) -> list[str]:
    """First cells of the table with a header."""
    (rows,) = re.findall(rf"^\| {header} \|.*?\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return [line.split("|")[1].strip().strip("`") for line in rows.splitlines()]


def test_the_table_is_read_and_lists_every_setting() -> None:
    (toml,) = (code for language, code in BLOCKS if language == "toml")
    settings = msgspec.convert(tomllib.loads(toml)["consolidation"], Consolidation)
    assert settings.accept_loss == ("kids",)
    assert {*first_cells("setting")} == {*Consolidation.__dataclass_fields__}
    assert {*first_cells("`sharing`")} == {*SHARINGS}
    assert {*first_cells("outcome")} == {each.value for each in Outcome}


def test_the_code_trains_one_model_for_two_tasks(capsys: Any) -> None:
    (code,) = (code for language, code in BLOCKS if language == "python")
    variables: dict[str, Any] = {}
    exec(compile(code, "CONSOLIDATION.md", "exec"), variables)  # what the page shows
    assert {each.task for each in variables["report"].chosen.tasks} == {"homepage", "search"}
    assert {*variables["trained"].calibrations} == {"homepage", "search"}
    assert "sharing = trunk, the chosen one" in capsys.readouterr().out

"""What docs/EVALUATION.md shows is read as it is written, and does what the page says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from ranking_world import make_feature_set

from delorean import read_feature_set
from delorean.cli.commands import cli
from delorean.evaluation.settings import EvaluationSettings
from delorean.label_quality.limits import LabelQualityLimits
from delorean.training.fitting import train
from delorean.tuning.space import TuningSpec

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "EVALUATION.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SPEC = tomllib.loads("\n".join(code for language, code in BLOCKS if language == "toml"))


@pytest.mark.parametrize(
    ("table", "kind"),
    [("evaluation", EvaluationSettings), ("tuning", TuningSpec), ("label_quality", LabelQualityLimits)],
)
def test_the_tables_are_those_of_a_spec(table: str, kind: type) -> None:
    read = vars(msgspec.convert(SPEC[table], kind))
    assert set(SPEC[table]) <= set(read)
    assert all(read[name] != default for name, default in vars(kind()).items() if name in {"by", "space", "policy"})


def test_the_defaults_are_those_that_the_page_names() -> None:
    chosen, defaults = msgspec.convert(SPEC["evaluation"], EvaluationSettings), EvaluationSettings()
    assert (chosen.at, chosen.level, chosen.replicates) == (defaults.at, defaults.level, defaults.replicates)


def test_the_commands_exist_with_the_options_that_are_shown() -> None:
    lines = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]
    commands = [line.split() for line in lines if line.startswith("delorean ")]
    assert {command[1] for command in commands} == {"tune", "train", "label-quality"}
    for command in commands:
        shown = CliRunner().invoke(cli, [command[1], "--help"]).output
        assert all(option in shown for option in command if option.startswith("--"))


def test_the_code_runs_as_it_is_written() -> None:
    feature_set = make_feature_set()
    features = ["affinity", "popularity"]
    names: dict[str, Any] = {"path": feature_set, "features": features}
    data = read_feature_set(feature_set, features, ["video_id"], ["profile_id", "country"])
    names["model"] = train(data, evaluation=EvaluationSettings(replicates=100, repeats=1))
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "EVALUATION.md", "exec"), names)
    table = names["table"]
    assert len(table) == len(feature_set)
    assert np.nanmean(table["ndcg@10"].to_numpy()) > 0.5

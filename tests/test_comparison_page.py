"""docs/COMPARISON.md shows commands that exist, with options that they have, and every verdict."""

import re
from pathlib import Path

import pytest
from page_commands import parse_command

from delorean.cli.commands import cli
from delorean.comparison.result import Verdict

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "COMPARISON.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_exist(line):
    parse_command(line)


def test_its_options_are_the_commands():
    options = {option for parameter in cli.commands["compare"].params for option in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert named - {"--expect"} <= options
    assert {"--by", "--margin", "--shown-places", "--all-contexts"} <= named


def test_it_explains_every_verdict():
    rows = re.search(r"\| verdict \| when \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE)[1]
    assert re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE) == [
        verdict.value
        for verdict in (
            Verdict.IDENTICAL,
            Verdict.BETTER,
            Verdict.BETTER_BUT_ALIKE,
            Verdict.NOT_WORSE,
            Verdict.REGRESSES,
            Verdict.UNCLEAR,
        )
    ]

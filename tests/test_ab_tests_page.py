"""docs/AB_TESTS.md declares a test that is read, names commands that exist, and every verdict."""

import re
from pathlib import Path

import pytest
from page_commands import parse_command

from delorean.ab_tests.files import read_test
from delorean.ab_tests.result import Verdict
from delorean.experiment import contexts_to_select

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "AB_TESTS.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines() if line]
DECLARED = next(code for language, code in BLOCKS if language == "toml" and "[cells.control]" in code)


def test_the_declared_test_is_read(tmp_path):
    path = tmp_path / "homepage-2.toml"
    path.write_text(DECLARED)
    test = read_test(path)
    assert test.name == "homepage-2"
    assert list(test.metrics) == ["hours", "starts_per_view"]
    assert test.interleaving.item == "video_id"
    (selection,) = contexts_to_select(path)
    assert (selection.id, selection.key) == ("homepage-2", ("profile_id",))


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_exist(line):
    parse_command(line)


def test_it_explains_every_verdict():
    rows = re.search(r"\| verdict \| when \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE)[1]
    assert set(re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE)) == {each.value for each in Verdict}

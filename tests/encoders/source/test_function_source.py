"""Encoders written where Python keeps no source: in paragraphs that are compiled under a prompt's name, at a prompt."""

from __future__ import annotations
import __future__

import ast
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from encoders import FeatureEncoder, feature_encoder
from encoders.source.prompt_source import keep_prompt_sources
from schemas.data_keys import service_element
from schemas.errors import EncoderError, UndeclaredKeyError

SCORES = service_element("scores", "list<double>")
ENCODER = """
@feature_encoder(
    data=[SCORES],
    features=["f"],
)
def first(context, items, data, out):
    out.f[0] = scaled(data.scores.values[0])
"""


def run_paragraph(text: str, names: dict[str, Any]) -> None:
    """Run it as Zeppelin does: parsed whole under a prompt's name, then statement by statement, in nobody's module."""
    for node in compile(text, "<stdin>", "exec", ast.PyCF_ONLY_AST, 1).body:
        exec(compile(ast.Module([node], []), "<stdin>", "exec", dont_inherit=True), names)


@pytest.fixture
def names() -> dict[str, Any]:
    return {"feature_encoder": feature_encoder, "SCORES": SCORES}


def test_without_a_source_the_error_says_what_to_do_in_zeppelin(names: dict[str, Any]) -> None:
    with pytest.raises(EncoderError, match="in Zeppelin run `from delorean.display.zeppelin import show`"):
        exec(compile(ast.parse(ENCODER), "<stdin>", "exec"), names)


def test_what_paragraphs_define_is_remembered_helpers_too_and_the_latest_counts(names: dict[str, Any]) -> None:
    keep_prompt_sources()
    run_paragraph("FACTOR = 2\ndef scaled(x):\n    return x * FACTOR\n", names)
    run_paragraph(ENCODER, names)
    first: FeatureEncoder = names["first"]
    assert first.name == "__main__:first"
    assert first.title == "first"
    before = first.fingerprint
    run_paragraph("def scaled(x):\n    return x + FACTOR\n", names)
    assert first.fingerprint != before
    run_paragraph("def scaled(x):\n    return x * FACTOR\n", names)
    assert first.fingerprint == before


def test_keeping_sources_does_not_change_what_other_code_compiles_to() -> None:
    keep_prompt_sources()
    text = "def f(x: undefined): pass"
    assert (
        compile(text, "<other>", "exec").co_flags & __future__.annotations.compiler_flag
    )  # inherited from this module
    assert not compile(text, "<other>", "exec", dont_inherit=True).co_flags & __future__.annotations.compiler_flag
    names: dict[str, Any] = {"text": text}
    exec(compile("code = compile(text, '<other>', 'exec')", "<other>", "exec", dont_inherit=True), names)
    assert not names["code"].co_flags & __future__.annotations.compiler_flag


def test_a_mistake_in_a_paragraph_is_shown_against_its_line(names: dict[str, Any]) -> None:
    keep_prompt_sources()
    wrong = ENCODER.replace("data.scores", "data.score")
    message = (
        r"encoder 'first' at line 7 \(`out.f\[0\] = scaled\(data.score.values\[0\]\)`\): unknown data element 'score'"
    )
    with pytest.raises(UndeclaredKeyError, match=message):
        run_paragraph(wrong, names)


TYPED = """
from encoders import feature_encoder
@feature_encoder(
    features=["f"],
)
def first(context, items, data, out):
    out.f[0] = twice(2)

def twice(x):
    return 2 * x

print("captured", "return 2 * x" in first.captured().text)
def twice(x):
    return 3 * x

print("edited", "return 3 * x" in first.captured().text)
exit()
"""


def test_an_encoder_typed_at_a_prompt_is_found_among_what_was_typed(tmp_path: Path) -> None:
    mine, its = pty.openpty()
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb", "PYTHONSTARTUP": ""}
    with subprocess.Popen([sys.executable, "-i"], stdin=its, stdout=its, stderr=its, env=environment) as prompt:
        os.close(its)
        os.write(mine, TYPED.encode())
        output = "".join(iter(lambda: _read(mine), ""))
    os.close(mine)
    assert prompt.returncode == 0
    assert "captured True" in output, output
    assert "edited True" in output, output


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # whoever was there has gone
        return ""

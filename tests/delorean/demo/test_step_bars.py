"""Bars on stderr, seconds for each step."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from delorean.demo.step_bars import StepBars

STEPS = {"one": "first step", "two": "second step"}


def _console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=100), text


def test_the_parts_of_a_step_add_up() -> None:
    console, text = _console()
    with StepBars(STEPS, console) as steps:
        for _ in range(3):
            with steps.step("one", of=3):
                pass
        with steps.step("two"):
            steps.show("two", 5, 7)
    shown = text.getvalue()
    assert "3/3" in shown
    assert all(seconds >= 0 for seconds in steps.seconds.values())
    assert list(steps.seconds) == list(STEPS)


def test_after_an_error_only_what_was_begun_is_shown() -> None:
    console, text = _console()
    with pytest.raises(KeyError), StepBars(STEPS, console) as steps, steps.step("one"):
        raise KeyError
    assert "first step" in text.getvalue()
    assert "second step" not in text.getvalue()


def test_bars_go_to_stderr_and_leave_it_open(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with StepBars(STEPS) as steps, steps.step("one"):
            pass
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("second step") == 2

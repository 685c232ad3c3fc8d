import os
import pty
import subprocess
import sys

import pytest

from delorean.cli.output import Output
from snapshotter.spark.progress_bars import CellBars, Lines, Meter, counted, spoken, watched

DRAW = """
from delorean.cli.output import Output
with Output(as_json=True).progress() as advance:
    for done in range(0, 1001, 10):
        advance("viewing_history", done, 1000)
        advance("[b]", 2 * done, 4000)
"""


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_meter_says_how_much_how_fast_and_how_long_still(clock):
    meter = Meter(clock)
    for clock.now in (0.0, 1.0, 2.0, 5.0):
        meter.note(int(2_100 * clock.now), 200_000)
    assert str(meter) == "10,500 of 200,000, 2,100/s, 1 min 30 s left"
    clock.now = 95.0
    meter.note(200_000, 200_000)
    clock.now = 100.0
    assert str(meter) == "200,000 of 200,000 in 1 min 35 s"


def test_a_rate_is_that_of_the_last_half_minute_and_falls_when_nothing_comes(clock):
    meter = Meter(clock)
    for second in range(100):
        clock.now = float(second)
        meter.note(second * 100 if second < 60 else 6_000 + (second - 60) * 10, 10_000)
    assert 10 <= meter.rate() < 15
    clock.now = 1_000.0
    assert meter.rate() < 1


def test_the_time_before_anything_was_done_does_not_lower_the_rate(clock):
    meter = Meter(clock)
    for clock.now, done in ((0.0, 0), (19.0, 0), (20.0, 100)):
        meter.note(done, 1_000)
    assert str(meter) == "100 of 1,000, 100/s, 9 s left"


def test_before_anything_is_done_nobody_guesses(clock):
    meter = Meter(clock)
    meter.note(0, 200)
    clock.now = 5.0
    assert str(meter) == "0 of 200"


def test_a_line_comes_every_ten_seconds_and_one_at_the_end(clock):
    lines = []
    told = Lines(lines.append, clock)
    for second in range(26):
        clock.now = float(second)
        told.advance("history", second * 40, 1_000)
        told.advance("popular", 2, 2)
    assert lines == [
        "history: 400 of 1,000, 40/s, 15 s left\n",
        "history: 800 of 1,000, 40/s, 5 s left\n",
        "history: 1,000 of 1,000 in 25 s\n",
    ]


def test_of_what_is_quick_there_is_no_line(clock):
    lines = []
    told = Lines(lines.append, clock)
    for second in range(10):
        clock.now = float(second)
        told.advance("history", second, 9)
    assert lines == []


def test_progress_never_speaks_on_stdout(capsys, monkeypatch):
    monkeypatch.setattr("snapshotter.spark.progress_bars._LINE_SECONDS", 0.0)
    with Output(as_json=True).progress() as advance:
        advance("work", 1, 2)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "work: 1 of 2\n")


def test_below_a_cell_there_is_a_bar_for_what_takes_longer_than_a_moment(clock):
    shown = []
    drawn = CellBars(lambda bars, again: shown.append((again, repr(bars))), clock)
    for clock.now, done in ((0.0, 0), (0.9, 10), (1.1, 20), (1.2, 21), (1.5, 50), (1.6, 100)):
        drawn.advance("<features>", done, 100)
    assert [again for again, _ in shown] == [False, True, True]  # what comes too fast is not drawn, the end is
    assert "20 of 100" in shown[0][1]
    assert "100 of 100 in 2 s" in shown[-1][1]
    assert "&lt;features&gt;" in drawn._repr_html_()


def test_of_what_is_quick_there_is_nothing_below_a_cell(clock):
    shown = []
    drawn = CellBars(lambda bars, again: shown.append(again), clock)
    for clock.now, done in ((0.0, 0), (0.5, 1), (5.0, 2)):
        drawn.advance("features", done, 2)
    assert shown == []


def test_a_script_hears_nothing_that_it_has_not_asked_for(capsys):
    heard = []
    with watched(None) as told, counted("features", None) as counts:
        assert (told, counts) == (None, None)
    with counted("features", lambda done, total: heard.append((done, total))) as counts:
        counts(1, 2)
    assert heard == [(1, 2)]
    assert capsys.readouterr() == ("", "")


PROMPT = """
import sys
sys.ps1 = ">>> "
from snapshotter.spark.progress_bars import counted
with counted("features", None) as told:
    for done in range(101 if told else 0):
        told(done, 100)
"""


def test_a_prompt_on_a_terminal_gets_bars():
    assert "100 of 100 in " in on_a_terminal(PROMPT)
    assert on_a_terminal(PROMPT.replace('sys.ps1 = ">>> "', "")) == ""


def test_a_terminal_gets_a_bar_for_each_thing():
    text = on_a_terminal(DRAW)
    assert "viewing_history" in text
    assert "[b]" in text
    assert "1,000 of 1,000 in 0 s" in text
    assert "of 4,000" in text
    assert "left" in text


def on_a_terminal(script):
    """Run a script whose stderr is a terminal, and give what that shows; its stdout stays empty."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=theirs, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    ) as drawing:
        os.close(theirs)
        shown = b""
        while chunk := read(ours):
            shown += chunk
        assert drawing.stdout is not None
        assert drawing.stdout.read() == b""
    os.close(ours)
    return shown.decode()


def read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (61, "1 min 1 s"), (3_599.6, "1 h"), (86_400, "24 h"), (3_660, "1 h 1 min")]
)
def test_times_are_said_as_exactly_as_anybody_wants_to_know(seconds, text):
    assert spoken(seconds) == text

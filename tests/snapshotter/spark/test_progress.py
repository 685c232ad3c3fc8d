import os
import pty
import subprocess
import sys

import pytest

from delorean.cli.output import Output
from snapshotter.spark.progress import (
    NotebookBars,
    ProgressLines,
    ProgressTable,
    rounded_duration_text,
    shown_progress,
    status_text,
)

DRAW = """
from delorean.cli.output import Output
with Output(as_json=True).progress() as advance:
    for done in range(0, 1001, 10):
        advance("viewing_history", done, 1000)
        advance("[b]", 2 * done, 4000)
"""


class Clock:
    """Seconds that pass on demand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def table(clock):
    return ProgressTable(clock)


def status(table, done, total):
    return status_text(table.update("work", done, total))


def test_a_status_has_the_amount_the_rate_and_the_time_left_and_at_the_end_the_time_taken(clock, table):
    for clock.now in (0.0, 1.0, 2.0, 5.0):
        text = status(table, int(2_100 * clock.now), 200_000)
    assert text == "10,500 of 200,000, 2,100/s, 1 min 31 s left"
    clock.now = 95.0
    assert status(table, 200_000, 200_000) == "200,000 of 200,000 in 1 min 35 s"
    clock.now = 100.0
    assert status(table, 200_000, 200_000) == "200,000 of 200,000 in 1 min 35 s"


def test_a_rate_is_that_of_the_last_half_minute(clock, table):
    for second in range(100):
        clock.now = float(second)
        text = status(table, second * 100 if second < 60 else 6_000 + (second - 60) * 10, 10_000)
    assert text == "6,390 of 10,000, 10/s, 6 min 1 s left"


def test_a_rate_survives_a_new_estimate_of_the_total(clock, table):
    for second in range(10):
        clock.now = float(second)
        text = status(table, second * 100, 10_000 - second)
    assert text == "900 of 9,991, 100/s, 1 min 31 s left"


def test_work_that_stalls_shows_no_rate_even_if_nothing_is_reported_any_more(clock, table):
    for second in range(10):
        clock.now = float(second)
        row = table.update("work", second * 100, 10_000)
    assert status_text(row) == "900 of 10,000, 100/s, 1 min 31 s left"
    clock.now = 50.0
    assert status_text(row) == "900 of 10,000"
    assert status(table, 900, 10_000) == "900 of 10,000"


def test_the_time_before_anything_was_done_does_not_lower_the_rate(clock, table):
    for clock.now, done in ((0.0, 0), (19.0, 0), (20.0, 100), (21.0, 200)):
        text = status(table, done, 1_000)
    assert text == "200 of 1,000, 100/s, 8 s left"


def test_before_anything_is_done_there_is_no_rate(clock, table):
    status(table, 0, 200)
    clock.now = 5.0
    assert status(table, 0, 200) == "0 of 200"


def test_work_whose_total_grows_after_its_end_goes_on(clock, table):
    status(table, 10, 10)
    clock.now = 5.0
    assert status(table, 10, 20) == "10 of 20"


def test_a_line_comes_every_ten_seconds_and_one_at_the_end(clock):
    lines = []
    reported = ProgressLines(lines.append, clock)
    for second in range(26):
        clock.now = float(second)
        reported.report("history", second * 40, 1_000)
        reported.report("popular", 2, 2)
    assert lines == [
        "history: 400 of 1,000, 40/s, 15 s left\n",
        "history: 800 of 1,000, 40/s, 5 s left\n",
        "history: 1,000 of 1,000 in 25 s\n",
    ]


def test_of_what_is_quick_there_is_no_line(clock):
    lines = []
    reported = ProgressLines(lines.append, clock)
    for second in range(10):
        clock.now = float(second)
        reported.report("history", second, 9)
    assert lines == []


def test_progress_never_speaks_on_stdout(capsys, monkeypatch):
    monkeypatch.setattr("snapshotter.spark.progress._LINE_SECONDS", 0.0)
    with Output(as_json=True).progress() as advance:
        advance("work", 1, 2)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "work: 1 of 2\n")


def test_below_a_cell_there_is_a_bar_for_what_takes_longer_than_a_moment(clock):
    shown = []
    bars = NotebookBars(lambda data, replace: shown.append((replace, data)), clock)
    for clock.now, done in ((0.0, 0), (0.9, 10), (1.1, 20), (1.2, 21), (1.5, 50), (1.6, 100)):
        bars.report("<features>", done, 100)
    assert [replace for replace, _ in shown] == [False, True, True]  # what comes too fast is not drawn, the end is
    assert "20 of 100" in shown[0][1]["text/plain"]
    assert "100 of 100 in 2 s" in shown[-1][1]["text/plain"]
    assert "&lt;features&gt;" in shown[-1][1]["text/html"]
    assert "<features>" not in shown[-1][1]["text/html"]


def test_several_bars_are_drawn_together(clock):
    shown = []
    bars = NotebookBars(lambda data, replace: shown.append(data), clock)
    for clock.now in (0.0, 2.0):
        bars.report("history", 1, 2)
        bars.report("popular", 3, 4)
    lines = shown[-1]["text/plain"].splitlines()
    assert [line.split()[0] for line in lines] == ["history", "popular"]
    assert shown[-1]["text/html"].startswith("<pre>")


def test_of_what_is_quick_there_is_nothing_below_a_cell(clock):
    shown = []
    bars = NotebookBars(lambda data, replace: shown.append(replace), clock)
    for clock.now, done in ((0.0, 0), (0.5, 1), (5.0, 2)):
        bars.report("features", done, 2)
    assert shown == []


def test_a_script_shows_nothing_that_was_not_requested(capsys):
    received = []
    with shown_progress(None) as report:
        report("features", 1, 2)
    with shown_progress(lambda *progress: received.append(progress)) as report:
        report("features", 1, 2)
    assert received == [("features", 1, 2)]
    assert capsys.readouterr() == ("", "")


PROMPT = """
import sys
sys.ps1 = ">>> "
from snapshotter.spark.progress import shown_progress
with shown_progress(None) as report:
    for done in range(101):
        report("features", done, 100)
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
    assert rounded_duration_text(seconds) == text

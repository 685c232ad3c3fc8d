from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prana_proxy.events import Event, JsonLines, TextLines, ThrottledLog, log_event, log_to_stderr


def record(message: Any, error: Exception | None = None) -> logging.LogRecord:
    if error is not None:
        try:
            raise error
        except Exception as raised:  # noqa: BLE001  # to have a traceback
            error = raised
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("prana_proxy.x", logging.WARNING, "file.py", 1, message, None, info)


@given(st.text(), st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_an_event_is_one_json_object_in_one_line_whatever_is_in_it(name: str, fields: dict[str, Any]) -> None:
    line = JsonLines({"process": 7}).format(record(Event(name, fields)))
    assert "\n" not in line
    reported = json.loads(line)
    datetime.fromisoformat(reported["time"])
    expected = {**fields, "level": "warning", "event": name, "process": fields.get("process", 7)}
    assert reported == {**expected, "time": reported["time"]}


def test_people_read_an_event_as_a_line() -> None:
    line = TextLines({}).format(
        record(Event("config_refused", {"reason": "line 7: no\nTOML", "services": 3, "ok": True}))
    )
    assert line.endswith(' warning config_refused reason="line 7: no\\nTOML" services=3 ok=true')


@pytest.mark.parametrize("lines", [JsonLines({}), TextLines({})])
def test_an_exception_shows_its_class_and_place_but_never_its_text(lines: logging.Formatter) -> None:
    line = lines.format(record("failed", ValueError("profile 12345")))
    assert "ValueError" in line
    assert "test_events.py:" in line
    assert "12345" not in line


def test_other_libraries_messages_are_events_too() -> None:
    assert json.loads(JsonLines({}).format(record("something else")))["event"] == "something else"


def test_what_comes_often_is_told_seldom_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    throttled = ThrottledLog(logging.getLogger("prana_proxy.x"), 10.0, lambda: now[0])
    for moment in (0, 1, 9.9, 10, 11, 25):
        now[0] = moment
        throttled.log_event(logging.WARNING, "denied", peer=str(moment))
    throttled.log_event(logging.WARNING, "other")
    reported = [entry.getMessage() for entry in caplog.records]
    assert reported == ["denied peer=0", "denied peer=10 suppressed=2", "denied peer=25 suppressed=1", "other"]


def test_logs_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level, ours = root.level, logging.getLogger("prana_proxy").level
    try:
        log_to_stderr("json", process=3)
        log_event(logging.getLogger("prana_proxy.x"), logging.INFO, "ready", services=1)
        logging.getLogger("watchfiles").info("1 change detected")  # which would be logged again and again
        out, errors = capsys.readouterr()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("prana_proxy").setLevel(ours)
    assert out == ""
    reported = json.loads(errors)
    assert reported.pop("time").endswith("+00:00")
    assert reported == {"level": "info", "event": "ready", "process": 3, "services": 1}

"""The result of a task's job, and the message of one that failed, by jobs that really run."""

import json
import os
import signal
import subprocess
import sys

import pytest
from airflow_settings import ROOT


@pytest.fixture
def task(airflow):
    """Runs a script as a task's job, and gives the task's result, or the name and the message of its error."""
    return lambda script: airflow.call("result", f"import os, signal, sys, time\n{script}")


@pytest.mark.parametrize("code", [1, 4, 126, 127, 193, 200, 254, 255])
def test_an_exit_code_that_no_signal_has_shows_the_reason(task, code):
    script = f"sys.stderr.write('error: the index is gone\\n'); sys.stderr.flush(); os._exit({code})"
    assert task(script) == ["AirflowException", "error: the index is gone"]
    assert task(f"os._exit({code})") == ["AirflowException", f"the job ended with {code}"]


def test_a_model_that_should_not_be_used_is_not_trained_again(task):
    assert task("sys.exit(3)") == ["AirflowFailException", "the job ended with 3"]


def test_a_job_that_would_only_fail_again_is_not_retried(task):
    assert task("sys.stderr.write('error: no such spec\\n'); sys.exit(2)") == [
        "AirflowFailException",
        "error: no such spec",
    ]


@pytest.mark.parametrize("number", sorted({*range(1, 32), 34, 35, 50, 63, 64} - {17, 18, 19, 20, 21, 22, 23, 28}))
def test_each_signal_that_ends_a_job_is_named(task, number):
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"SIGRTMIN+{number - signal.SIGRTMIN}"
    script = f"signal.pthread_sigmask(signal.SIG_UNBLOCK, [{number}])\n"
    if number not in (signal.SIGKILL,):
        script += f"signal.signal({number}, signal.SIG_DFL)\n"
    assert task(f"{script}os.kill(os.getpid(), {number})\ntime.sleep(60)") == [
        "AirflowException",
        f"the job was ended by {name}",
    ]


def test_a_reason_goes_with_a_signal(task):
    script = "sys.stderr.write('error: out of memory\\n'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
    assert task(script) == ["AirflowException", "the job was ended by SIGKILL: error: out of memory"]


def test_only_a_json_object_on_standard_output_is_the_result(task):
    noise = "sys.stderr.write('{\"run\": \"wrong\"}\\n{not json\\n'); print('{not json'); print('[1]')\n"
    assert task(f'{noise}print(\'{{"run": "x"}}\')\n{noise}') == {"run": "x"}
    assert task(noise) == {}
    assert task('sys.stdout.write(\'{"run": "no end of line"}\')') == {"run": "no end of line"}


def test_a_marked_result_wins_over_all_that_others_print(task):
    mark = "os.environ['DELOREAN_RESULT_MARK']"
    script = f'print({mark} + \' {{"run": "x"}}\')\nprint(\'{{"run": "of a library"}}\')\n'
    assert task(script) == {"run": "x"}
    assert task(f"sys.stdout = sys.stderr\n{script}") == {"run": "x"}  # wherever spark-submit leads it


def test_much_output_on_both_streams_does_not_block_and_invalid_utf_8_is_no_error(task):
    script = (
        "for _ in range(300):\n"
        "    sys.stderr.write('e' * 5_000 + '\\n'); sys.stdout.write('o' * 5_000 + '\\n')\n"
        "sys.stdout.buffer.write('{\"run\": \"ü\"}\\n'.encode()); sys.stdout.buffer.write(b'\\xff\\xfe\\n')"
    )
    assert task("sys.stdout.reconfigure(write_through=True)\n" + script) == {"run": "ü"}


def test_a_program_that_cannot_be_started_is_named(task, tmp_path):
    script = "os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(127)'])"
    assert task(script) == ["AirflowException", "the job ended with 127"]


def test_commands_mark_their_result_where_a_scheduler_sets_a_mark(tmp_path):
    (tmp_path / "delorean.toml").write_text("")
    command = [sys.executable, "-m", "delorean", "schedule", "--json", "--config", str(tmp_path / "delorean.toml")]
    for environment, start in (({}, "{"), ({"DELOREAN_RESULT_MARK": "m-1"}, "m-1 {")):
        ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, cwd=ROOT)
        assert ran.stdout.startswith(start), ran
        assert "selected" in json.loads(ran.stdout.removeprefix("m-1 "))

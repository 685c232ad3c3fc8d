from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner
from proxy_process import services_toml

from delorean.cli.commands import cli
from prana_proxy.client import PranaClient

ONE = {"one": {"url": "http://127.0.0.1:9/{profile_id}"}}


def test_the_command_line_wins_over_the_file(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = f"[server]\nport = {taken.getsockname()[1]}\nworkers = 3\n"
        path = services_toml(tmp_path / "services.toml", ONE, server)
        command = [sys.executable, "-m", "delorean", "prana", "serve", "--config", str(path), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                ready = process.stdout.readline()
                assert ready.startswith("Prana proxy ready on 127.0.0.1:"), process.stderr.read()
                with PranaClient([ready.removeprefix("Prana proxy ready on ").partition(": ")[0]]) as client:
                    assert list(client.services()) == ["one"]
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
                assert [json.loads(line)["event"] for line in process.stderr] == ["ready", "stopping", "stopped"]
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("server", "options", "message"),
    [
        ("[server]\nworker = 3\n", [], "services.toml, line 2: server.worker: unknown field 'worker' → did you mean"),
        ("", ["--host", "no-such-host.invalid"], "the Prana proxy cannot listen on no-such-host.invalid:9090"),
        ("", ["--port", "65535", "--processes", "2", "--ports", "each"], "port is 65535, but 2 processes need as many"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, server, options, message):
    path = services_toml(tmp_path / "services.toml", ONE, server)
    command = [sys.executable, "-m", "delorean", "prana", "serve", "--config", str(path), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_option_that_cannot_be_is_refused_before_anything_starts():
    assert "0<=x<=65535" in CliRunner().invoke(cli, ["prana", "serve", "--port", "70000"]).output

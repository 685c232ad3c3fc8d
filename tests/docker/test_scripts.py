"""The scripts that come with the stack."""

from __future__ import annotations

import configparser
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from stack_files import DOCKER

SECRETS = {"s3_root", "s3_credentials", "prana_token", "airflow_passwords"}


class Answers(BaseHTTPRequestHandler):
    """Answers /200 with 200, /204 with 204, and so on; and tells of two parts that one of them is well."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()
        if self.path == "/200":
            self.wfile.write(b'{"scheduler": {"status": "healthy"}, "triggerer": {"status": null}}')

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DOCKER / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_container_is_healthy_that_answers_and_says_that_it_is(port: int):
    assert run("healthy.py", f"{port}/200").returncode == 0
    assert run("healthy.py", f"{port}/204").returncode == 1
    assert run("healthy.py", f"{port}/503").returncode == 1


def test_a_container_is_healthy_whose_parts_are(port: int):
    assert run("healthy.py", f"{port}/200", "scheduler").returncode == 0
    assert run("healthy.py", f"{port}/200", "scheduler", "triggerer").returncode == 1
    done = run("healthy.py", f"{port}/200", "dag_processor")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_container_that_does_not_listen_is_not_healthy(port: int):
    with HTTPServer(("127.0.0.1", 0), Answers) as closed:
        free = closed.server_port
    done = run("healthy.py", f"{free}/200")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_secrets_are_made_once_for_their_owner_alone(tmp_path: Path):
    folder = tmp_path / "secrets"
    assert run("make_secrets.py", folder).stdout.startswith("made s3_root, ")
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(made) == SECRETS
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    assert run("make_secrets.py", folder).stdout == "all are there\n"
    assert {path.name: path.read_text() for path in folder.iterdir()} == made
    run("make_secrets.py", tmp_path / "others")
    assert not set(made.values()) & {path.read_text() for path in (tmp_path / "others").iterdir()}


def test_the_store_and_its_clients_are_given_the_same_key(tmp_path: Path):
    run("make_secrets.py", tmp_path)
    client = configparser.ConfigParser()
    client.read(tmp_path / "s3_credentials")
    key = dict(line.split("=", 1) for line in (tmp_path / "s3_root").read_text().splitlines())
    assert list(key.values()) == [client["default"]["aws_access_key_id"], client["default"]["aws_secret_access_key"]]
    assert set(json.loads((tmp_path / "airflow_passwords").read_text())) == {"admin"}


def test_one_of_a_pair_is_never_made_anew(tmp_path: Path):
    run("make_secrets.py", tmp_path)
    (tmp_path / "s3_root").unlink()
    (tmp_path / "prana_token").unlink()
    assert run("make_secrets.py", tmp_path).stdout == "made prana_token\n"

"""The script that fills the environment, short of filling one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "install.py"
SHOW = """
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("install", sys.argv[1])
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)
given = dict(os.environ)
print(json.dumps({name: value for name, value in install.uv_environment().items() if given.get(name) != value}))
"""


def uv_told(tmp_path, **pip):
    """The options that uv gets when pip is configured so."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "SSL_"))}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, str(SCRIPT)],
        env={**environment, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), **pip},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_uv_is_told_what_pip_is_configured_to_use(tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://a.test/simple\ncert = /certs.pem\n")
    reported = uv_told(tmp_path, PIP_EXTRA_INDEX_URL="https://b.test/simple https://c.test/simple")
    assert reported["UV_DEFAULT_INDEX"] == "https://a.test/simple"
    assert reported["UV_INDEX"] == "https://b.test/simple https://c.test/simple"
    assert reported["SSL_CERT_FILE"] == "/certs.pem"


def test_the_environment_wins_over_the_file(tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://a.test/simple\n")
    assert uv_told(tmp_path, PIP_INDEX_URL="https://b.test/simple")["UV_DEFAULT_INDEX"] == "https://b.test/simple"
    assert "UV_DEFAULT_INDEX" not in uv_told(tmp_path, UV_DEFAULT_INDEX="https://c.test/simple")


def test_folders_of_wheels_that_are_not_there_are_left_out(tmp_path):
    (tmp_path / "pip.conf").write_text("")
    reported = uv_told(tmp_path, PIP_FIND_LINKS=f"/nowhere {tmp_path} https://wheels.test/")
    assert reported["UV_FIND_LINKS"] == f"{tmp_path},https://wheels.test/"


def test_a_package_s_lines_of_the_lock_include_its_hashes():
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    lock = (SCRIPT.parents[1] / "requirements.lock").read_text()
    uv = install.pinned("uv", lock)
    assert uv.startswith("uv==")
    assert uv.count("==") == 1
    assert "--hash=sha256:" in uv
    rest = lock.replace(uv, "")
    assert "\nuv==" not in rest
    assert rest.count("==") == lock.count("==") - 1
    assert install.pinned("no-such-package", lock) == ""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import company
import numpy as np
import pyarrow as pa
import pytest
from proxy_process import until

from delorean.ab_tests.files import read_test
from delorean.exposures import read_exposures
from delorean.packaging.files import MANIFEST
from delorean.packaging.golden_rows import read_expected, write_expected
from delorean.packaging.package import ModelPackage
from delorean.serving import serve
from delorean.serving.serve import _listen
from encoders.library.keys import VIDEOS
from schemas.data_keys import global_element
from schemas.errors import ConfigError, GoldenRowsError, PackageError, RegistryError, SetupError
from snapshotter.global_elements import publish_global

SERVE = """
import sys
from delorean.serving import serve
from delorean.serving.serve import _listen
announce = lambda url: print(url, flush=True)
serve(*sys.argv[1:5], port=0, modules=("company_encoders",), log_exposures=True, announce=announce)
print("ended", flush=True)
"""


@pytest.fixture
def arguments(company_package: ModelPackage, services: Any, published: Any, tmp_path: Path) -> list[str]:
    config = tmp_path / "services.toml"
    config.write_text(services.toml())
    return [str(company_package.path), str(config), published.index_uri, published.storage_uri]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_ends_tidily_with_all_that_it_showed_in_the_log(
    arguments: list[str], published: Any, stop: signal.Signals
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(company.__file__).parent)}
    command = [sys.executable, "-W", "error", "-c", SERVE, *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), process.stderr.read()
            request = {"context": {"profile_id": 7, "country": None}, "candidates": [1, 2, 3]}
            with urllib.request.urlopen(f"{url}/rank", json.dumps(request).encode(), timeout=30) as answer:
                assert len(json.loads(answer.read())["ranked"]) == 3
            process.send_signal(stop)
            out, errors = process.communicate(timeout=30)
            assert (process.returncode, out, errors) == (0, "ended\n", "")
        finally:
            process.kill()
    rows = read_exposures(published.storage, None).read_all().to_pylist()
    assert [(row["context"]["profile_id"], sorted(row["items"]["video_id"])) for row in rows] == [(7, [1, 2, 3])]


def test_a_change_of_services_applies_while_it_serves_if_it_is_the_model_s(arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(company.__file__).parent)}
    command = [sys.executable, "-W", "error", "-c", SERVE, *arguments]
    config = Path(arguments[1])
    good = config.read_text()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().strip()
            assert statuses(url) == {"my_list": "ok", "viewing_history": "ok"}
            put(config, re.sub(r"127.0.0.1:[0-9]+/lists", "127.0.0.1:9/lists", good))
            until(lambda: statuses(url) == {"my_list": "error", "viewing_history": "ok"})
            put(config, good.replace("my_list", "our_list"))
            assert "config_refused reason=" in (reported := process.stderr.readline())
            assert "unknown service in the gateway 'my_list'" in reported
            assert statuses(url) == {"my_list": "error", "viewing_history": "ok"}
            put(config, good)
            until(lambda: statuses(url) == {"my_list": "ok", "viewing_history": "ok"})
        finally:
            process.kill()


def put(path: Path, text: str) -> None:
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def statuses(url: str) -> dict[str, str]:
    """What became of asking each service for a request."""
    request = {"context": {"profile_id": 7, "country": None}, "candidates": [1, 2, 3]}
    with urllib.request.urlopen(f"{url}/rank", json.dumps(request).encode(), timeout=30) as answer:
        services = json.loads(answer.read())["services"]
    return {name: reported["status"] for name, reported in services.items()}


def test_a_server_needs_no_scikit_learn() -> None:
    command = "import sys, delorean.serving; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_the_second_part_of_an_answer_does_not_wait_for_the_first() -> None:
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_one_clear_error(arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"cannot listen on 127.0.0.1:{port}: .*in use → choose a free one"):
            serve(*arguments, port=port, modules=company.MODULES)
    with pytest.raises(SetupError, match="cannot listen on 127.0.0.1:70000"):
        serve(*arguments, port=70_000, modules=company.MODULES)


def test_it_refuses_to_start_when_golden_rows_differ(arguments: list[str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(arguments[0], tmp_path / "copy"))
    name = "golden/expected.arrow"
    features, scores = read_expected(name, (folder / name).read_bytes(), 4)
    changed = features.copy()
    changed[3, 3] = np.float32(0.123)
    data = write_expected(changed, scores)
    (folder / name).write_bytes(data)
    with pytest.raises(PackageError, match="checksum differs"):
        serve(str(folder), *arguments[1:], port=0, modules=company.MODULES)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(GoldenRowsError, match="golden row 3 .*'popularity'"):
        serve(str(folder), *arguments[1:], port=0, modules=company.MODULES)


def test_a_test_whose_package_cannot_be_loaded_is_refused_by_its_cell(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tests" / "homepage.toml"
    path.parent.mkdir()
    cells = f'[cells.control]\npackage = "{arguments[0]}"\nshare = 0.5\n[cells.new]\npackage = "PACKAGE"\nshare = 0.5\n'
    for package in ("missing", "registry:missing"):
        path.write_text('unit = "profile_id"\n' + cells.replace("PACKAGE", package))
        with pytest.raises((PackageError, RegistryError), match="test 'homepage', cell 'new': .*missing"):
            serve(*arguments, port=0, modules=company.MODULES, tests=[read_test(path)])


def test_a_version_of_another_type_is_refused(arguments: list[str], published: Any) -> None:
    other = global_element("videos", "struct<video_id: int64, popularity: double>")
    table = pa.table({"video_id": [1], "popularity": [1.0]})
    assert VIDEOS.type != other.type
    assert publish_global(table, other, company.NOW, published.storage, published.index, "other")
    with pytest.raises(ConfigError, match="version 'other' of 'videos' is struct<"):
        serve(*arguments, port=0, modules=company.MODULES)

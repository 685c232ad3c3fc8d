"""docs/API.md lists what `import delorean` gives, and everything that it shows is done here."""

import json
import re
import subprocess
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from project_at_rest import Project, long_labels

import delorean
from delorean import OpenProject
from delorean.project.ab_test_actions import AbTestActions
from delorean.project.actions import ProjectActions
from delorean.project.model_actions import ModelActions
from snapshotter.index import open_index
from snapshotter.storage import open_storage

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "API.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.(?:py|toml))\n")
SERVICES = """
[services.history]
type = "list<struct<video_id: int64, minutes: float>>"
key = { profile_id = "int64" }
url = "http://127.0.0.1:PORT/history/{profile_id}"
answer = "/history"
timeout_seconds = 30.0
"""
PROFILES, MINUTES, VIDEOS = range(40), range(5, 45, 5), range(4)


def rows_of_tables(header):
    """First cells of the tables with a header, without backticks."""
    cells = re.findall(rf"^\| {header} \|.*?\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [re.findall(r"`([^`]+)`", line.split("|")[1]) for rows in cells for line in rows.splitlines()]


def test_the_page_lists_every_public_name_once():
    listed = [name for names in rows_of_tables("name") for name in names]
    assert sorted(listed) == sorted(delorean.__all__)


def test_the_page_lists_every_method_of_a_project():
    listed = {call.split("(")[0] for calls in rows_of_tables("method of `OpenProject`") for call in calls}
    own = {
        name
        for kind in (OpenProject, ProjectActions, ModelActions, AbTestActions)
        for name in vars(kind)
        if not name.startswith("_")
    }
    assert listed == own


def test_every_name_is_imported_from_the_module_that_defines_it():
    lazily = [name for names in delorean._MODULES.values() for name in names.split()]
    assert sorted(lazily) == sorted(delorean.__all__)
    assert all(getattr(delorean, name).__name__ == name for name in delorean.__all__)


def test_importing_the_package_imports_no_library():
    heavy = {"numpy", "pyarrow", "numba", "sklearn", "pyspark", "polars", "msgspec"}
    script = f"import sys, delorean; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class History(BaseHTTPRequestHandler):
    """Answers `GET /history/<profile>`."""

    def do_GET(self):
        profile = int(self.path.rsplit("/", 1)[1])
        body = json.dumps({"history": [{"video_id": profile % 4, "minutes": 12.5}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def folder(tmp_path):
    """The page's project, with captures, label data and a running service."""
    for _, code in BLOCKS:
        if name := NAMED.match(code):
            (tmp_path / name[1]).write_text(code)
    shown = [
        (p, m, v, float((p + v) % 4 == 0 or (p * m + v) % 7 == 0)) for p in PROFILES for m in MINUTES for v in VIDEOS
    ]
    pq.write_table(long_labels(shown), tmp_path / "shown.parquet")
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        project = Project(open_storage(f"file://{tmp_path}/store"), index)
        for run in range(2):
            rows = [((p,), 20 * run, [{"video_id": p % 4, "minutes": float(p % 9 + run)}]) for p in PROFILES]
            project.history(rows, f"history-{run}")
    with ThreadingHTTPServer(("127.0.0.1", 0), History) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "services.toml").write_text(SERVICES.replace("PORT", str(server.server_port)))
        yield tmp_path
        server.shutdown()


def test_everything_on_the_page_works(folder):
    code = "\n".join(code for language, code in BLOCKS if language == "python" and not NAMED.match(code))
    checks = """
    import sys
    assert len(ranking["ranked"]) == 2, ranking
    patient = project.ranker(package, budget=timedelta(seconds=60))
    with patient as ranker: answer = ranker.rank(b'{"context": {"profile_id": 7}, "candidates": [0, 1, 2, 3]}')
    assert answer["services"]["history"]["status"] == "ok", answer
    assert answer["missing"] == [], answer
    assert features.height == 320 and state.height == 40
    assert second.metrics is not None and package.path == project.folder / "packages/homepage-1"
    assert "pyspark" not in sys.modules
    """
    script = folder / "page.py"
    script.write_text(code + "\n".join(line.strip() for line in checks.splitlines()))
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^0\.\d+$", done.stdout, re.MULTILINE)


def test_a_spec_is_an_object_a_name_or_a_path(folder):
    from delorean import ConfigError, open_project

    with open_project(folder) as project:
        by_name = project.spec("homepage")
        assert project.spec("homepage.toml").id == project.spec(folder / "homepage.toml").id == by_name.id
        assert project.spec(by_name) == by_name
        assert by_name.as_of["history"].max_age == timedelta(hours=12)
        with pytest.raises(ConfigError, match="unknown experiment 'hompage' → did you mean 'homepage'"):
            project.run("hompage")
        with pytest.raises(ConfigError, match="nowhere.toml"):
            project.generate("nowhere.toml")

"""A small project as its user would write it, with a live service."""

import json
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from delorean.cli.commands import cli
from prana_proxy.config.services_file import load_gateway_config
from prana_proxy.server import start_proxy

PROFILES, VIDEOS = 120, 20
IN_2099 = 4_070_908_800_000_000  # µs: after the snapshot, whenever the tests run


class History(BaseHTTPRequestHandler):
    """Answers `GET /history/<profile>` with the videos that the profile has watched."""

    def do_GET(self):
        profile = int(self.path.rsplit("/", 1)[1])
        watched = [{"video_id": v, "minutes": 30.0} for v in range(VIDEOS) if likes(profile, v)]
        body = json.dumps(watched).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def likes(profile, video):
    return (profile + video) % 5 == 0


FILES = {
    "delorean.toml": """
        proxies = ["{proxy}"]
        encoders = ["encoders.library", "own_encoders"]
        """,
    "services.toml": """
        [services.history]
        type = "list<struct<video_id: int64, minutes: float>>"
        key = {{ profile_id = "int64" }}
        url = "{service}/history/{{profile_id}}"
        timeout_seconds = 30.0
        """,
    "experiments.toml": """
        [tables]
        profiles = {{ path = "profiles.parquet" }}

        [experiments.everyone]
        query = "SELECT profile_id, country FROM profiles"
        key = ["profile_id", "country"]
        strata = ["country"]
        quota = {{ US = 1000, default = 1000 }}
        """,
    "own_encoders.py": """
        from encoders import feature_encoder
        from schemas.data_keys import global_element, service_element

        HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")
        FILMS = global_element("films", "struct<video_id: int64, popularity: double>")

        @feature_encoder(data=[HISTORY, FILMS], features=["watched"])
        def watched(context, items, data, out, *, at_least: float = 0.0):
            for i in range(len(items.video_id)):
                out.watched[i] = 0.0
                for j in range(len(data.history.video_id)):
                    if data.history.video_id[j] == items.video_id[i] and data.history.minutes[j] >= at_least:
                        out.watched[i] += 1.0

        @feature_encoder(data=[FILMS], features=["films"])
        def films(context, items, data, out):
            for i in range(len(items.video_id)):
                out.films[i] = len(data.films.video_id)
        """,
    "home.toml": """
        encoders = [
            "own_encoders:films",
            {{ encoder = "own_encoders:watched", parameters = {{ at_least = 10 }}, rename = {{ watched = "seen" }} }},
        ]

        [tables]
        shown = {{ path = "shown.parquet" }}

        [labels]
        query = "SELECT *, time + INTERVAL 1 HOUR AS outcome_at FROM shown"
        items = ["video_id"]

        [split]
        by_time = false
        group = "profile_id"
        """,
}


def write_tables(folder):
    profiles = list(range(PROFILES))
    country = ["US" if profile % 3 else "BR" for profile in profiles]
    pq.write_table(pa.table({"profile_id": profiles, "country": country}), folder / "profiles.parquet")
    shown = [
        {
            "profile_id": p,
            "country": country[p],
            "video_id": v,
            "label": float(likes(p, v)),
            "time": 4_070_908_800_000_000,
        }
        for p in profiles
        for v in range(VIDEOS)
    ]
    schema = pa.schema(
        [
            ("profile_id", pa.int64()),
            ("country", pa.string()),
            ("video_id", pa.int64()),
            ("label", pa.float32()),
            ("time", pa.timestamp("us", "UTC")),
        ]
    )
    pq.write_table(pa.Table.from_pylist(shown, schema), folder / "shown.parquet")
    films = pa.table({"video_id": list(range(VIDEOS)), "popularity": [1 / (v + 1) for v in range(VIDEOS)]})
    pq.write_table(films, folder / "films.parquet")


@pytest.fixture(scope="module")
def service():
    with Server(("127.0.0.1", 0), History) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, service):
    """The project's folder; a proxy runs beside it."""
    where = tmp_path_factory.mktemp("project")
    write_tables(where)
    for name, text in FILES.items():
        if name != "delorean.toml":
            (where / name).write_text(textwrap.dedent(text).format(service=service))
    with start_proxy(load_gateway_config(where / "services.toml")) as proxy:
        (where / "delorean.toml").write_text(textwrap.dedent(FILES["delorean.toml"]).format(proxy=proxy.address))
        yield where
    # The next file's project has a module of this name too, and must not get this one's.
    sys.modules.pop("own_encoders", None)
    sys.path[:] = [place for place in sys.path if not Path(place, "own_encoders.py").exists()]


@pytest.fixture
def run(folder, spark, monkeypatch):
    """Runs a command in the project's folder and gives what it says as JSON."""
    monkeypatch.chdir(folder)

    def run(*arguments, code=0):
        result = CliRunner().invoke(cli, [*map(str, arguments), *(["--json"] if code == 0 else [])])
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.stdout) if code == 0 else result.stderr

    return run

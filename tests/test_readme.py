"""Everything that the README shows is done here for real."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delorean.demo.processes import Processes
from delorean.demo.summary import show
from snapshotter.index.cassandra.address import OPTIONS, read_address

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRODUCTS, CUSTOMERS = 30, 240


def blocks(section, language):
    """Code of a section of the README, its subsections included, in order."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [code for found, code in BLOCK.findall(text) if found == language]


def files():
    """The files of the shop, by the names that their first lines give them."""
    code = [*blocks("Start your own project", "toml"), *blocks("Start your own project", "python")]
    return {block.split("\n")[0].removeprefix("# "): block for block in code}


def in_shell(commands, folder):
    """Run commands as a person would, with `delorean` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Baskets(BaseHTTPRequestHandler):
    """Answers `GET /baskets/<customer>`."""

    def do_GET(self):
        customer = int(self.path.rsplit("/", 1)[1])
        added_at = datetime.now(UTC).isoformat()
        basket = [
            {"product_id": product, "quantity": 1 + product % 2, "added_at": added_at}
            for product in (customer % PRODUCTS, (customer + 5) % PRODUCTS)
        ]
        body = json.dumps(basket).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def write_tables(folder):
    country = [("US", "BR", "DE")[customer % 3] for customer in range(CUSTOMERS)]
    pq.write_table(
        pa.table(
            {
                "customer_id": pa.array(range(CUSTOMERS), pa.int64()),
                "country": country,
                "last_seen": pa.array([date(2026, 1, 3)] * CUSTOMERS),
            }
        ),
        folder / "customers.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "product_id": pa.array(range(PRODUCTS), pa.int64()),
                "price": [1.5 * (product + 1) for product in range(PRODUCTS)],
                "category": [f"category {product % 5}" for product in range(PRODUCTS)],
            }
        ),
        folder / "products.parquet",
    )
    time = datetime.now(UTC) + timedelta(hours=1)  # what is captured in this test comes before
    rows = [
        {
            "customer_id": customer,
            "country": country[customer],
            "time": time,
            "decided_at": time + timedelta(hours=1),
            "product_id": product,
            "bought": float(product % 5 == customer % 5),
        }
        for customer in range(CUSTOMERS)
        for product in range(customer % 3, PRODUCTS, 3)
    ]
    times = pa.timestamp("us", "UTC")
    types = {"customer_id": pa.int64(), "country": pa.string(), "time": times, "decided_at": times}
    schema = pa.schema([*types.items(), ("product_id", pa.int64()), ("bought", pa.float32())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "shown.parquet")


@pytest.fixture
def shop(tmp_path):
    """The shop's folder as the README writes it, its basket service running, and free ports for its servers."""
    with Server(("127.0.0.1", 0), Baskets) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ports = {"8001": str(server.server_port), "9090": free_port(), "8000": free_port()}
        write_tables(tmp_path)
        for name, text in files().items():
            (tmp_path / name).write_text(
                with_ports(text, ports).replace("timeout_seconds = 2.0", "timeout_seconds = 60.0")
            )
        yield tmp_path, ports
        server.shutdown()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def with_ports(text, ports):
    for reported, real in ports.items():
        text = re.sub(rf"(?<=[ :]){reported}\b", real, text)
    return text


def test_the_shop_works_as_it_is_told(shop, monkeypatch):
    folder, ports = shop
    monkeypatch.chdir(folder)
    answers = []
    with Processes(folder / "logs") as processes:
        for block in blocks("Start your own project", "sh"):
            commands = with_ports(block, ports).replace("\\\n", " ").strip()
            arguments = shlex.split(commands)
            if "serve" in arguments:
                server = processes.start(arguments[1], ["-m", *arguments])
                server.wait_for(r"(ready)")
            elif arguments[0] == "curl":
                answers.append(asked(arguments))
            else:
                in_shell(commands, folder)
    [ranked] = answers
    assert len(ranked["ranked"]) == 2
    assert ranked["missing"] == []


def asked(arguments):
    """Do what a curl command does; curl itself is not on every machine."""
    url = next(argument for argument in arguments if argument.startswith("http"))
    name, value = arguments[arguments.index("-H") + 1].split(": ")
    request = urllib.request.Request(url, arguments[arguments.index("-d") + 1].encode(), {name: value})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def explored(demo, tmp_path):
    """A copy of the demo's project, where the README says that it is."""
    shutil.copytree(demo.folder, tmp_path / ".demo" / "latest", ignore=shutil.ignore_patterns("logs", "packages"))
    return tmp_path


def test_one_can_look_around_in_what_the_demo_leaves(explored):
    [commands] = blocks("Explore the demo's project", "sh")
    shown = in_shell(commands, explored)
    assert "viewing_history" in shown
    assert "feature set" in shown


def test_one_can_travel_in_python(explored):
    [code] = blocks("Explore the demo's project", "python")
    folder = explored / ".demo" / "latest"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "for homepage, confidence 1.000" in done.stdout


def test_the_demo_ends_with_the_output_that_the_readme_shows(demo, capsys):
    output = next(code for code in blocks("Two commands", "") if "NDCG" in code)
    show(demo)
    shown = capsys.readouterr().out

    def names(text):
        return [line.strip().split("  ")[0] for line in text.splitlines() if line.strip() and "{" not in line][:-1]

    assert names(output) == names(shown)
    summary = json.loads(shown.splitlines()[-1])
    assert re.findall(r'"(\w+)": ', output.splitlines()[-1].replace('{"my_list": 1.0, …}', "1")) == list(summary)[:6]


def test_it_names_only_commands_that_make_has():
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"make (\w+)", re.sub(r"`make` alone", "", "\n".join(BLOCK.findall(README)[0]))):
        assert f"make {name} " in listed


def test_an_index_in_cassandra_is_prepared_and_used_as_shown(tmp_path, cassandra_keyspace):
    [project], [commands] = blocks("In production", "toml"), blocks("In production", "sh")
    uri = re.search(r'index = "(.*)"', project)[1]
    (tmp_path / "cassandra.toml").write_text('user = "…"\npassword = "…"\n')
    assert read_address(uri.replace("/etc/delorean/cassandra.toml", str(tmp_path / "cassandra.toml"))).authority
    here = f"{cassandra_keyspace}_of_readme"
    (tmp_path / "delorean.toml").write_text(project.replace(uri, here))
    message = in_shell(commands.replace("--replication 3", "--replication 1 --json"), tmp_path)
    assert json.loads(message) == {"index": here, "new": True}
    assert json.loads(in_shell("delorean index init --json; delorean index runs --json", tmp_path).splitlines()[1]) == {
        "runs": []
    }
    options = re.findall(r"^\| (`.*?) \|", README.split("## In production")[1].split("## More")[0], re.MULTILINE)
    named = {name.split("=")[0] for row in options for name in re.findall(r"`(.*?)`", row)}
    assert named == set(OPTIONS)

"""Three small online services behind one port, for snapshots of tests."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway.config import GatewayConfig

PATIENT = 30.0  # seconds: on a busy machine too no answer is late


class Company:
    """Three online services in one HTTP server, each failing on demand.

    failing: number → how the contexts of this profile_id modulo ten fail: "error", "invalid", or "once" with an error
    asked: every path asked for
    open: while it is not set, nobody gets an answer
    items: of the longest histories, which a third of the profiles have
    """

    def __init__(self) -> None:
        company = self
        self.failing: dict[int, str] = {}
        self.asked: list[str] = []
        self.seconds = 0.0
        self.items = 2
        self.open = threading.Event()
        self.open.set()

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                company.asked.append(self.path)
                time.sleep(company.seconds)
                company.open.wait()
                status, answer = company.answer(self.path)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def answer(self, path: str) -> tuple[int, Any]:
        service, _, key = path.strip("/").partition("?")[0].partition("/")
        if service != "history":
            return 200, [{"video_id": len(key)}]
        number = int(key)
        failing = self.failing.get(number % 10)
        if failing == "error" or (failing == "once" and self.asked.count(path) == 1):
            return 500, "broken"
        minutes = "long" if failing == "invalid" else number / 2
        return 200, [
            {"video_id": number + i**5 % 1_000_003, "minutes": minutes} for i in range(number % 3 * self.items // 2)
        ]

    def config(self) -> GatewayConfig:
        return gateway_config({"services": self.services})

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """What a proxy must know of them."""
        video = "list<struct<video_id: int64>>"
        return {
            "history": {
                "type": "list<struct<video_id: int64, minutes: float>>",
                "key": {"profile_id": "int64"},
                "url": self.url + "/history/{profile_id}",
                "timeout_seconds": PATIENT,
                "breaker": {"forced": "closed"},  # it fails on purpose, and often
            },
            "my_list": {
                "type": video,
                "key": {"profile_id": "int64", "country": "string"},
                "url": self.url + "/list/{country}/{profile_id}",
                "timeout_seconds": PATIENT,
            },
            "popular": {
                "type": video,
                "key": {"country": "string"},
                "url": self.url + "/popular/{country}",
                "timeout_seconds": PATIENT,
            },
        }

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

"""The page's server for tests, and a client that asks as the page does."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn

from fpsgan.cli.web import fields
from fpsgan.web.jobs import Queue
from fpsgan.web.server import Settings, make_app

PATIENCE = 120  # seconds: a job loads torch first


def is_over(job: dict[str, Any]) -> bool:
    return job["state"] in ("done", "failed")


class Client:
    """Asks a server as the page does."""

    def __init__(self, port: int) -> None:
        self.port, self.name = port, f"127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); headers given as "" are left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Host": self.name} | ({} if method == "GET" else {"Origin": f"http://{self.name}"})
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def post(self, path: str, given: Any = None) -> Any:
        status, _, body = self.ask("POST", path, json.dumps(given or {}))
        assert status == 200, body
        return json.loads(body)

    def upload(self, path: Path, name: str | None = None) -> str:
        status, _, body = self.ask("POST", f"/api/upload?name={quote(name or path.name)}", path.read_bytes())
        assert status == 200, body
        return str(json.loads(body)["id"])

    def job(self, id: str) -> dict[str, Any]:
        jobs = json.loads(self.ask("GET", "/api/state")[2])["jobs"]
        return next(job for job in jobs if job["id"] == id)

    def until(self, id: str, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while not met(job := self.job(id)):
            assert time.monotonic() < end, job
            time.sleep(0.1)
        return job

    def known(self, id: str) -> dict[str, Any]:
        return self.until(id, lambda job: job["tasks"]["look"]["state"] in ("done", "failed"))


class Server(Client):
    """A server in a thread of its own, and its client."""

    def __init__(self, settings: Settings, port: int = 0) -> None:
        settings.check()
        self.settings = settings
        self.queue = Queue(settings.place, settings.fields)
        self.socket = socket.create_server(("127.0.0.1", port))
        super().__init__(self.socket.getsockname()[1])
        self.server = uvicorn.Server(uvicorn.Config(make_app(settings, self.queue), log_config=None))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def close(self) -> None:
        """End it as Ctrl-C does; a second time does nothing."""
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
        self.queue.close()


@contextmanager
def servers(place: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that work in ``place``, as many as are asked for, and ends them."""
    begun: list[Server] = []

    def begin(**settings: Any) -> Server:
        begun.append(Server(Settings(place, fields(), **settings)))
        return begun[-1]

    yield begin
    for server in begun:
        server.close()

"""The page's server: which requests are allowed, for whom, and what is sent.

Every request passes `Gate` first. Files are addressed by the id of a job and one of a few words, never by a path; the
users' file names are for display only.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
import shutil
import socket
import time
import webbrowser
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fpsgan import __version__
from fpsgan.errors import FpsganError, OptionError, OutputError
from fpsgan.web import work
from fpsgan.web.jobs import Queue

__all__ = ["Settings", "make_app", "serve"]

PAGE = Path(__file__).parent / "page"
WRONG = '<p class="problem" role="alert">That is not the password.</p>'
ASSETS = {
    "app.js": "text/javascript",
    "compare.js": "text/javascript",
    "app.css": "text/css",
    "icon.svg": "image/svg+xml",
}
KINDS = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".avi": "video/x-msvideo",
    ".ts": "video/mp2t",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
COOKIE = "fpsgan"
TRIES, WINDOW = 5, 60.0  # wrong passwords allowed per address within so many seconds
KNOWN_ADDRESSES = 1000
SPARE = 10**9  # bytes that uploads leave free on the disk
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
OPEN = ("/login", "/assets/app.css", "/assets/icon.svg")  # without the password
BODY = 1 << 16  # largest request that is not an upload, in bytes
JOBS = 500
OWN = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; " \
      "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"  # fmt: skip
# Results and uploads must not act with the page's origin: the report's own scripts run in a sandbox.
FOREIGN = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:; " \
          "sandbox allow-scripts"  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """``folders``: clips below them may be opened by path. ``largest``: upload, in bytes. ``fields``: the options that
    the page offers, as declared for the command line."""

    place: Path
    fields: tuple[work.Field, ...]
    host: str = "127.0.0.1"
    port: int = 8765
    password: str | None = None
    folders: tuple[Path, ...] = ()
    largest: int = 8 * 10**9

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> None:
        """Raise OptionError for what would be unsafe, or does not exist."""
        if not self.local and not self.password:
            raise OptionError(f"--host {self.host}: others could reach it, so it needs a --password")
        for folder in self.folders:
            if not folder.is_dir():
                raise OptionError(f"--folder {folder}: no such folder")


class Gate:
    """Refuses requests under a foreign host name, from another page, or without the password, if there is one."""

    def __init__(self, app: ASGIApp, settings: Settings, sessions: set[str]) -> None:
        self.app, self.settings, self.sessions = app, settings, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # lifespan; there are no web sockets
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", OWN)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"  # none would blank the Origin of the login form
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        await (refused or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # With a foreign name that resolves to this machine (DNS rebinding), a foreign page shares our origin.
        if self.settings.local and re.sub(r":\d+$", "", host).lower() not in {*LOCAL_NAMES, self.settings.host}:
            return PlainTextResponse(f"{host}: not a name of this server", 421)
        path, safe = scope["path"], scope["method"] in ("GET", "HEAD")
        if not safe and headers.get("origin", "").partition("://")[2] != host:
            return PlainTextResponse("asked for by another page", 403)
        followed = safe and path == "/" and headers.get("sec-fetch-mode") == "navigate"  # a link to the page is fine
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not followed:
            return PlainTextResponse("asked for by another page", 403)
        known = HTTPConnection(scope).cookies.get(COOKIE) in self.sessions
        if self.settings.password and not known and path not in OPEN:
            return (
                FileResponse(PAGE / "login.html") if path == "/" else PlainTextResponse("the password is needed", 401)
            )
        return None


def make_app(settings: Settings, queue: Queue) -> ASGIApp:
    """The page as an ASGI application."""
    sessions: set[str] = set()
    failures: dict[str, deque[float]] = {}
    folders = tuple(folder.resolve() for folder in settings.folders)

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404)
        return FileResponse(PAGE / name, media_type=ASSETS[name], headers={"Cache-Control": "no-cache"})

    async def login(request: Request) -> Response:
        address = request.client.host if request.client else ""
        if len(failures) > KNOWN_ADDRESSES:
            failures.clear()
        tried = failures.setdefault(address, deque(maxlen=TRIES))
        if len(tried) == TRIES and time.monotonic() - tried[0] < WINDOW:
            return PlainTextResponse("too many wrong passwords; wait a minute", 429)
        given = unquote_to_bytes((await _body(request)).removeprefix(b"password=").replace(b"+", b" "))
        if settings.password and hmac.compare_digest(given, settings.password.encode()):
            session = secrets.token_urlsafe(32)
            sessions.add(session)
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return answer
        tried.append(time.monotonic())
        form = (PAGE / "login.html").read_text(encoding="utf-8")
        return HTMLResponse(form.replace("<!-- problem -->", WRONG), 401)

    async def logout(request: Request) -> Response:
        sessions.discard(request.cookies.get(COOKIE, ""))
        return RedirectResponse("/", 303)

    async def setup(request: Request) -> Response:
        return JSONResponse(
            {
                "version": __version__,
                "fields": [asdict(field) for field in settings.fields],
                "intents": work.INTENTS,
                "targets": work.TARGETS,
                "largest": settings.largest,
                "paths": bool(folders),
                "password": bool(settings.password),
                "shown": work.SHOWN,
            }
        )

    async def state(request: Request) -> Response:
        return JSONResponse({"jobs": queue.snapshot()})

    async def upload(request: Request) -> Response:
        """The body is the file, as it is; its name is in the query."""
        name = Path(request.query_params.get("name", "").replace("\\", "/")).name or "clip"
        suffix = Path(name).suffix.lower()
        length = int(request.headers.get("content-length", "0"))
        limit = min(settings.largest, shutil.disk_usage(queue.place).free - SPARE)
        too_large = HTTPException(
            413, f"{name}: larger than {settings.largest / 1e9:.3g} GB, or than the disk has room for"
        )
        _room(queue)
        if length > limit:
            raise too_large
        id, folder = queue.new_folder()
        target = folder / f"source{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix, re.ASCII) else ''}"
        size, whole = 0, False
        try:
            with target.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise too_large
                    await run_in_threadpool(file.write, chunk)
            whole = True
        except ClientDisconnect:
            return PlainTextResponse("stopped", 400)
        finally:
            if not whole:
                queue.discard(id)
        queue.add(id, name, target)
        return JSONResponse({"id": id})

    async def add(request: Request) -> Response:
        """A file on this machine, if it is below one of the folders; does not reveal whether others exist."""
        path = str((await _json(request)).get("path", ""))
        found = _below(path, folders)
        if found is None:
            raise HTTPException(403, f"{path}: no such file below the folders that --folder allows")
        _room(queue)
        id, _ = queue.new_folder()
        queue.add(id, found.name, found)
        return JSONResponse({"id": id})

    actions: dict[str, Callable[[str, dict[str, Any]], None]] = {
        "choose": lambda id, given: queue.choose(
            id, _texts(given.get("options")), str(given.get("intent", "")), str(given.get("suffix", ""))
        ),
        "start": lambda id, _: queue.start(id),
        "pause": lambda id, _: queue.pause(id),
        "cancel": lambda id, _: queue.cancel(id),
        "remove": lambda id, _: queue.remove(id),
        "up": lambda id, _: queue.move(id, -1),
        "down": lambda id, _: queue.move(id, 1),
        "preview": lambda id, given: queue.preview(id, float(given.get("at", 0))),
        "copies": lambda id, _: queue.copies(id),
        "report": lambda id, _: queue.report(id),
    }

    async def act(request: Request) -> Response:
        action = actions.get(request.path_params["action"])
        if action is None:
            raise HTTPException(404)
        given = await _json(request)
        try:
            await run_in_threadpool(action, request.path_params["id"], given)
        except KeyError as error:
            raise HTTPException(404, "no such clip") from error
        except ValueError as error:
            raise HTTPException(400, "not a number") from error
        return JSONResponse({"jobs": queue.snapshot()})

    async def media(request: Request) -> Response:
        try:
            job = queue.job(request.path_params["id"])
        except KeyError as error:
            raise HTTPException(404) from error
        folder, what = queue.folder(job.id), request.path_params["what"]
        hdr = bool(job.found and job.found["facts"]["hdr"])
        files = {"source": Path(job.source), "report": folder / "report.html"}
        if what == "frame":
            files["frame"] = await run_in_threadpool(queue.last_frame, job.id)
        if job.state == "done":
            files["result"] = queue.target(job)
        for kind in ("preview", "copies"):
            if job.tasks.get(kind, {}).get("state") == "done":
                files |= {f"{kind}-{side}": work.viewed(folder / kind, side, hdr=hdr) for side in ("before", "after")}
        if re.fullmatch(r"map-\d{1,6}", what, re.ASCII):
            files[what] = folder / "preview" / "maps" / f"{int(what[4:]):06}.png"
        path = files.get(what)
        if path is None or not path.is_file():
            if what == "frame" or what.startswith("map-"):
                return Response(status_code=204)  # none yet, or a frame of the source: as it should be
            raise HTTPException(404)
        given = {"report": "text/html", "map": "image/png", "frame": "image/jpeg"}.get(what.split("-")[0])
        name = f"{Path(job.name).stem}-fpsgan{path.suffix}" if "download" in request.query_params else None
        return FileResponse(
            path, media_type=given or KINDS.get(path.suffix.lower(), "application/octet-stream"), filename=name,
            headers={"Content-Security-Policy": FOREIGN},
        )  # fmt: skip

    def problem(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return PlainTextResponse(error.detail, error.status_code)
        return PlainTextResponse(str(error), 400)

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/assets/{name}", asset),
            Route("/login", login, methods=["POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route("/api/setup", setup),
            Route("/api/state", state),
            Route("/api/upload", upload, methods=["POST"]),
            Route("/api/add", add, methods=["POST"]),
            Route("/api/jobs/{id}/{action}", act, methods=["POST"]),
            Route("/media/{id}/{what}", media),
        ],
        exception_handlers={HTTPException: problem, FpsganError: problem},
    )
    return Gate(app, settings, sessions)


def serve(settings: Settings, *, on_ready: Callable[[str], None], browse: bool = False) -> None:
    """Serve the page until Ctrl-C. ``on_ready`` gets its address; ``browse`` opens it in the user's browser.

    Raises OptionError for settings that would be unsafe, OutputError if the port or the folder cannot be used.
    """
    settings.check()
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise OutputError(f"{settings.host}, port {settings.port}: cannot be had ({error.strerror})") from error
    with listening:
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        queue = Queue(settings.place, settings.fields)
        try:
            config = uvicorn.Config(
                make_app(settings, queue), log_config=None, server_header=False, timeout_graceful_shutdown=2
            )
            on_ready(address)
            if browse:
                webbrowser.open(address)
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # the usual end
        finally:
            queue.close()


def _below(path: str, folders: tuple[Path, ...]) -> Path | None:
    """The file at a path, perhaps relative to one of the folders, if it is below one of them with links resolved."""
    if "\0" in path:
        return None
    for folder in folders:
        try:
            found = (folder / path).resolve()
            if found.is_relative_to(folder) and found.is_file():
                return found
        except (OSError, RuntimeError):  # a name too long, a link to itself
            continue
    return None


def _room(queue: Queue) -> None:
    if len(queue.snapshot()) >= JOBS:
        raise HTTPException(409, f"{JOBS} clips are here already; remove some")


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY:
            raise HTTPException(413, "too long")
    return body


async def _json(request: Request) -> dict[str, Any]:
    try:
        given = json.loads(await _body(request) or b"{}")
    except ValueError as error:
        raise HTTPException(400, "not JSON") from error
    if not isinstance(given, dict):
        raise HTTPException(400, "not a JSON object")
    return given


def _texts(given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise OptionError("options: must be an object")
    return {str(name): str(value) for name, value in given.items()}

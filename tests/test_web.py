"""The page's server, asked over HTTP: who may ask, what is taken and sent, the queue, and a restart."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
import pytest
from conftest import MakeClip, raw_planes
from webserver import Client, Server, is_over, servers

from fpsgan.errors import OptionError, OutputError
from fpsgan.web import work
from fpsgan.web.jobs import Queue
from fpsgan.web.look import look
from fpsgan.web.server import Settings

TINY = {"video": "testsrc2=s=64x48", "rate": "10", "seconds": 1, "sound": False}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    with servers(tmp_path / "work") as begin:
        yield begin


def state_of(job: dict[str, Any]) -> str:
    return str(job["state"])


def pixels(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_from_upload_to_download(start: Callable[..., Server], make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("a clip.mp4", **TINY)
    server = start()
    id = server.upload(clip)
    job = server.known(id)
    assert job["tasks"]["look"]["found"]["words"][0] == "64×48, h264, 10 frames a second, 1.0 s."
    server.post(f"/api/jobs/{id}/choose", {"options": {"multi": "2", "deblur": "off"}, "intent": "", "suffix": ".mkv"})
    estimate = server.until(id, lambda job: job["tasks"].get("estimate", {}).get("state") == "done")
    assert estimate["tasks"]["estimate"]["found"]["frames_out"] == 20
    server.post(f"/api/jobs/{id}/start")
    job = server.until(id, is_over)
    assert job["state"] == "done", job["error"]
    assert job["progress"]["done"] == job["progress"]["total"] == 20
    assert "10 frames at 10 a second became 20 at 20" in job["proof"][0]
    status, headers, body = server.ask("GET", f"/media/{id}/result?download")
    assert status == 200 and "a%20clip-fpsgan.mkv" in headers["content-disposition"]
    (tmp_path / "page.mkv").write_bytes(body)
    own = [sys.executable, "-m", "fpsgan", "enhance", str(clip), "-o", str(tmp_path / "own.mkv"), "--multi", "2"]
    subprocess.run([*own, "--deblur", "off"], check=True, capture_output=True)
    ours, theirs = raw_planes(tmp_path / "page.mkv"), raw_planes(tmp_path / "own.mkv")
    assert len(ours) == len(theirs) == 20
    assert all(
        np.array_equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )
    status, headers, body = server.ask("GET", f"/media/{id}/result", Range="bytes=0-9")
    assert status == 206 and len(body) == 10
    server.post(f"/api/jobs/{id}/remove")
    assert not (server.settings.place / "jobs" / id).exists()
    assert server.ask("GET", f"/media/{id}/result")[0] == 404


def test_preview_shows_both_sides_and_guesses(
    start: Callable[..., Server], make_clip: MakeClip, tmp_path: Path
) -> None:
    server = start()
    id = server.upload(make_clip(**TINY))
    server.known(id)
    server.post(f"/api/jobs/{id}/choose", {"options": {"multi": "2", "deblur": "off"}, "intent": "", "suffix": ".mp4"})
    server.post(f"/api/jobs/{id}/preview", {"at": 0.5})
    job = server.until(id, lambda job: job["tasks"]["preview"]["state"] in ("done", "failed"))
    assert job["tasks"]["preview"]["state"] == "done", job["tasks"]["preview"]
    for side, count in (("before", 5), ("after", 10)):
        path = tmp_path / f"{side}.mp4"
        path.write_bytes(server.ask("GET", f"/media/{id}/preview-{side}")[2])
        assert len(pixels(path)) == count
    assert server.ask("GET", f"/media/{id}/map-1")[1]["content-type"] == "image/png"
    assert server.ask("GET", f"/media/{id}/map-0")[0] == 204  # a frame of the source


def test_a_broken_file_is_told_and_stops_nothing(
    start: Callable[..., Server], make_clip: MakeClip, tmp_path: Path
) -> None:
    server = start()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    bad, good = server.upload(broken), server.upload(make_clip(**TINY))
    assert "not a video that can be read" in server.known(bad)["tasks"]["look"]["error"]
    server.known(good)
    assert server.ask("POST", f"/api/jobs/{bad}/start", "{}")[0] == 400
    server.post(f"/api/jobs/{good}/start")
    assert server.until(good, is_over)["state"] == "done"


def test_pause_resume_cancel(start: Callable[..., Server], make_clip: MakeClip) -> None:
    server = start()
    id = server.upload(make_clip(**TINY | {"seconds": 60}))
    server.known(id)
    server.post(f"/api/jobs/{id}/start")
    server.until(id, lambda job: server.ask("GET", f"/media/{id}/frame")[0] == 200)
    _, headers, picture = server.ask("GET", f"/media/{id}/frame")
    assert headers["content-type"] == "image/jpeg" and picture[:2] == b"\xff\xd8"
    assert server.job(id)["state"] == "running"
    server.post(f"/api/jobs/{id}/pause")
    server.until(id, lambda job: not server.queue._processes)
    assert server.job(id)["state"] == "paused"
    server.post(f"/api/jobs/{id}/start")
    server.until(id, lambda job: state_of(job) == "running" and job["progress"].get("done", 0) > 0)
    server.post(f"/api/jobs/{id}/cancel")
    server.until(id, lambda job: not server.queue._processes)
    assert server.job(id)["state"] == "draft"
    assert [path.name for path in server.queue.folder(id).iterdir()] == ["source.mp4"]


def test_one_job_at_a_time_in_order(start: Callable[..., Server], make_clip: MakeClip) -> None:
    server = start()
    clip = make_clip(**TINY)
    ids = [server.upload(clip, f"{n}.mp4") for n in range(3)]
    for id in ids:
        server.known(id)
    server.post(f"/api/jobs/{ids[2]}/up")
    for id in ids:
        server.post(f"/api/jobs/{id}/start")
    ended: list[str] = []
    while len(ended) < 3:
        jobs = json.loads(server.ask("GET", "/api/state")[2])["jobs"]
        assert [job["state"] for job in jobs].count("running") <= 1
        ended += [job["id"] for job in jobs if job["state"] == "done" and job["id"] not in ended]
        time.sleep(0.05)
    assert ended == [ids[0], ids[2], ids[1]]


def test_a_restarted_server_goes_on(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(**TINY | {"seconds": 60})
    command = [sys.executable, "-m", "fpsgan", "web", "--port=0", "--no-browse", f"--work={tmp_path / 'work'}"]

    @contextlib.contextmanager
    def served(end: signal.Signals) -> Iterator[Client]:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            port = re.search(r":(\d+) ", process.stderr.readline())
            assert port is not None
            yield Client(int(port[1]))
            process.send_signal(end)
            assert process.wait(60) in (0, 130, -end)

    def segments() -> int:
        return len(list((tmp_path / "work").rglob("segments-*/0*.json")))

    with served(signal.SIGKILL) as client:  # not even time to say goodbye
        id = client.upload(clip)
        client.known(id)
        client.post(f"/api/jobs/{id}/start")
        client.until(id, lambda job: segments() > 0)
    with served(signal.SIGINT) as client:
        before = segments()
        assert client.job(id)["state"] in ("waiting", "running")
        client.until(id, lambda job: segments() > before)
    with served(signal.SIGTERM) as client:
        job = client.until(id, is_over)
    assert job["state"] == "done", job["error"]
    assert job["proof"][0].startswith("600 frames at 10 a second became 3600")
    assert any(each.startswith("Resuming: ") for each in job["proof"])


def test_asked_by_another_page(start: Callable[..., Server]) -> None:
    server = start()
    for headers in ({"Origin": "http://evil.example"}, {"Origin": ""}, {"Origin": "null"},
                    {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}):  # fmt: skip
        assert server.ask("POST", "/api/add", "{}", **headers)[0] == 403, headers
        assert server.ask("POST", "/api/upload?name=a.mp4", b"x", **headers)[0] == 403, headers
    assert server.ask("GET", "/api/state", Sec_Fetch_Site="cross-site")[0] == 403
    assert server.ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link to it
    for host in ("evil.example", f"evil.example:{server.port}", f"127.0.0.1.evil.example:{server.port}", "[x"):
        assert server.ask("GET", "/api/state", Host=host)[0] == 421, host


def test_password(start: Callable[..., Server]) -> None:
    server = start(password="päss word")
    assert b"Password" in server.ask("GET", "/")[2]
    for method, path in (("GET", "/api/state"), ("GET", "/api/setup"), ("GET", "/assets/app.js"),
                         ("GET", "/media/x/source"), ("POST", "/api/upload?name=a"), ("POST", "/api/add")):  # fmt: skip
        assert server.ask(method, path)[0] == 401, path
        assert server.ask(method, path, Cookie="fpsgan=x")[0] == 401, path
    status, headers, _ = server.ask("POST", "/login", f"password={quote('päss word')}")
    assert status == 303
    assert {"httponly", "samesite=strict"} <= {each.strip().lower() for each in headers["set-cookie"].split(";")}
    cookie = headers["set-cookie"].split(";")[0]
    assert server.ask("GET", "/api/state", Cookie=cookie)[0] == 200
    assert server.ask("POST", "/logout", Cookie=cookie)[0] == 303
    assert server.ask("GET", "/api/state", Cookie=cookie)[0] == 401
    for _ in range(5):
        status, headers, body = server.ask("POST", "/login", "password=wrong")
        assert status == 401 and b"not the password" in body and "set-cookie" not in headers
    assert server.ask("POST", "/login", f"password={quote('päss word')}")[0] == 429  # also the right one, for a minute


def test_others_need_a_password(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "myhost"):
        with pytest.raises(OptionError, match="--password"):
            Settings(tmp_path, (), host=host).check()
        Settings(tmp_path, (), host=host, password="x").check()
    for host in ("127.0.0.1", "::1", "localhost"):
        Settings(tmp_path, (), host=host).check()


def test_paths_stay_below_the_folders(start: Callable[..., Server], make_clip: MakeClip, tmp_path: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "allowed too"
    (allowed / "in").mkdir(parents=True)
    other.mkdir()
    clip, secret = allowed / "in" / "clip.mp4", other / "secret.mp4"
    make_clip(**TINY).rename(clip)
    secret.write_bytes(clip.read_bytes())
    (allowed / "link.mp4").symlink_to(secret)
    (allowed / "folder").symlink_to(other)
    server = start(folders=(allowed,))
    for path in (str(secret), "../allowed too/secret.mp4", f"{allowed}/../allowed too/secret.mp4", "link.mp4",
                 "folder/secret.mp4", "/etc/passwd", "in", "", ".", "nothing.mp4", "in/clip.mp4\0", "a" * 5000, "~",
                 "file:in/clip.mp4"):  # fmt: skip
        status, _, body = server.ask("POST", "/api/add", json.dumps({"path": path}))
        assert status == 403 and b"no such file below" in body, path
    for path in ("in/clip.mp4", str(clip)):
        server.known(server.post("/api/add", {"path": path})["id"])


def test_removing_leaves_the_users_own_files(start: Callable[..., Server], make_clip: MakeClip) -> None:
    clip = make_clip(**TINY)
    server = start(folders=(clip.parent,))
    id = server.post("/api/add", {"path": clip.name})["id"]
    server.known(id)
    server.post(f"/api/jobs/{id}/remove")
    assert clip.exists()


def test_uploads_have_a_limit(start: Callable[..., Server]) -> None:
    server = start(largest=1000)
    status, _, body = server.ask("POST", "/api/upload?name=a.mp4", b"x" * 1001)
    assert status == 413 and b"larger than" in body
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)  # no length told: counted as it comes
    connection.request("POST", "/api/upload?name=a.mp4", iter([b"x" * 600] * 2), {"Origin": f"http://{server.name}"},
                       encode_chunked=True)  # fmt: skip
    assert connection.getresponse().status == 413
    connection.close()
    assert list((server.settings.place / "jobs").iterdir()) == []
    assert server.ask("POST", "/api/add", b"{" * 100_000)[0] == 413


def test_names_are_only_shown(start: Callable[..., Server]) -> None:
    server = start()
    for name in ("../../x.mp4", "..\\..\\x.mp4", "/etc/x.mp4", "$(touch x).mp4", "-y.mp4", "a;b|c.mp4", "x.mp4/",
                 "<img src=x>.mp4", "x.%2e%2e", "x.mp4\n", "é" * 300 + ".mp4", "", ".", "..", "x.html"):  # fmt: skip
        status, _, body = server.ask("POST", f"/api/upload?name={quote(name)}", b"not a video")
        assert status == 200, name
        id = json.loads(body)["id"]
        kept = [path.name for path in server.queue.folder(id).iterdir()]
        assert len(kept) == 1 and re.fullmatch(r"source(\.[a-z0-9]{1,5})?", kept[0]), name
        status, headers, _ = server.ask("GET", f"/media/{id}/source?download")
        assert status == 200 and not headers["content-type"].startswith(("text/", "image/svg")), name
        assert "sandbox" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    kept = {path.name for path in server.settings.place.iterdir()}
    assert kept <= {"jobs", "lock", "queue.json", "part-queue.json"}


def test_nothing_is_listed_or_sent_but_what_is_named(start: Callable[..., Server]) -> None:
    server = start()
    for path in ("/assets/", "/assets/server.py", "/assets/../server.py", "/assets/%2e%2e/server.py",
                 "/assets/..%2fserver.py", "/media/", "/media/x/source", "/api/jobs/x/start", "/queue.json", "/jobs/",
                 "/docs", "/openapi.json"):  # fmt: skip
        assert server.ask("GET", path)[0] in (404, 405), path


def test_options_are_the_pages_own(start: Callable[..., Server], make_clip: MakeClip) -> None:
    server = start()
    id = server.upload(make_clip(**TINY))
    for options in ({"overwrite": "1"}, {"output": "/tmp/x"}, {"confidence_map": "/tmp/x"}, {"weights": "/etc/passwd"},
                    {"fps": "60 --output=/tmp/x"}, {"crf": "1\n"}, {"pix_fmt": "$(x)"}, {"codec": "x"},
                    {"fps": "6" * 41}, {"fps": ["60"]}):  # fmt: skip
        given = json.dumps({"options": options, "intent": "", "suffix": ".mp4"})
        assert server.ask("POST", f"/api/jobs/{id}/choose", given)[0] == 400, options
    for more in ({"suffix": ".exe"}, {"suffix": "/../x.mp4"}, {"intent": "x"}):
        given = json.dumps({"options": {}, "intent": "", "suffix": ".mp4"} | more)
        assert server.ask("POST", f"/api/jobs/{id}/choose", given)[0] == 400, more
    assert server.job(id)["suffix"] == ".mp4"


def test_a_value_that_makes_no_sense_is_told_before_the_start(
    start: Callable[..., Server], make_clip: MakeClip
) -> None:
    server = start()
    id = server.upload(make_clip(**TINY))
    server.known(id)
    server.post(f"/api/jobs/{id}/choose", {"options": {"fps": "-3"}, "intent": "", "suffix": ".mp4"})
    job = server.until(id, lambda job: job["tasks"].get("estimate", {}).get("state") == "failed")
    assert "fps" in job["tasks"]["estimate"]["error"]


@pytest.mark.parametrize("playlist", ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
                                      "ffconcat version 1.0\nfile {}\n"])  # fmt: skip
def test_files_that_point_to_others_are_refused(make_clip: MakeClip, tmp_path: Path, playlist: str) -> None:
    clip = make_clip("victim.ts", **TINY)
    for suffix in (".mp4", ".m3u8", ".ffconcat", ""):
        pointing = tmp_path / f"pointing{suffix}"
        pointing.write_text(playlist.format(clip.name))
        with pytest.raises(Exception, match="points to other files"):
            look(pointing)


def test_what_a_clip_is_in_words(make_clip: MakeClip) -> None:
    held = look(make_clip("held.mp4", video="testsrc2=s=64x48", rate="12", seconds=2, filters="fps=24"))
    assert any("repeat the one before" in each for each in held["words"]) and held["suggested"] == "smoother"
    blurred = look(make_clip("soft.mp4", video="testsrc2=s=320x240", rate="25", filters="gblur=4"))
    assert any("blurred" in each for each in blurred["words"]) and blurred["suggested"] == "rescue"
    fast = look(make_clip("fast.mp4", video="testsrc2=s=320x240", rate="60", sound=False))
    assert fast["suggested"] == "slowmo" and "No sound." in fast["words"]
    woven = look(make_clip("woven.mp4", video="testsrc2=s=64x48", rate="50", filters="interlace",
                           encode=("-c:v", "libx264", "-flags", "+ildct+ilme", "-pix_fmt", "yuv420p")))  # fmt: skip
    assert any("Interlaced" in each for each in woven["words"])


def test_two_servers_do_not_share_a_folder(start: Callable[..., Server], tmp_path: Path) -> None:
    start()
    with pytest.raises(OutputError, match="another `fpsgan web`"):
        Queue(tmp_path / "work", ())


def test_every_page_asks_this_server_only() -> None:
    page = Path(work.__file__).parent / "page"
    for path in page.iterdir():
        outside = re.findall(r"https?://[\w.]+", path.read_text(encoding="utf-8"))
        assert set(outside) <= {"http://www.w3.org"}, path  # the name of SVG


@pytest.mark.parametrize("command", [["--version"], ["probe", "--help"], ["enhance", "--help"]])
def test_other_commands_do_not_load_it(command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['fpsgan', *{command}]\n"
        "from fpsgan.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "sys.exit(bool({'starlette', 'uvicorn', 'fpsgan.web.server', 'fpsgan.web.work'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True).returncode == 0

"""The page in a real browser, as people use it: Chromium, driven by Playwright, without internet.

Left out where there is no Chromium: `apt-get install chromium-headless-shell` (or chromium), or CHROMIUM=its path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeClip, raw_planes
from webserver import PATIENCE, Server, servers

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")
expect = sync_api.expect
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium-headless-shell, or set CHROMIUM"
)
WAIT = 1000 * PATIENCE  # ms
CLIP = {"video": "testsrc2=s=64x48", "rate": "10", "seconds": 2}
SIZES = {"desk": (1280, 900), "phone": (390, 844)}

# Pairs of things to see, neither inside the other, that lie on top of one another.
OVERLAPS = """() => {
  const seen = [...document.querySelectorAll('button, a, select, input, label, h1, h2, h3, h4, p, li, output, summary')]
    .filter((each) => each.checkVisibility() && !each.closest('.stage, .drop, #offline'));
  const apart = (a, b) =>
    a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
  return seen.flatMap((one, k) => seen.slice(k + 1)
    .filter((other) => !one.contains(other) && !other.contains(one)
      && !apart(one.getBoundingClientRect(), other.getBoundingClientRect()))
    .map((other) => [one.outerHTML, other.outerHTML]));
}"""
# Controls that a screen reader could not name.
NAMELESS = """() => [...document.querySelectorAll('button, a, select, input, progress, video, img')]
  .filter((each) => each.checkVisibility() && each.ariaHidden !== 'true' && each.getAttribute('alt') !== '')
  .filter((each) => !(each.ariaLabel || each.alt || (each.matches('button, a') && each.textContent.trim())
    || [...(each.labels ?? [])].some((label) => label.textContent.trim())))
  .map((each) => each.outerHTML)"""
# Text whose contrast with what is behind it is below 4.5 (WCAG AA).
FAINT = """() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const parse = (color) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const linear = (c) => (c <= 10 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (each) => {
    const color = parse(getComputedStyle(each).backgroundColor);
    return color[3] === 255 || !each.parentElement ? color : behind(each.parentElement);
  };
  return [...document.querySelectorAll('body *')]
    .filter((each) => each.checkVisibility() && !each.disabled && !each.closest('.stage'))
    .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((each) => [light(parse(getComputedStyle(each).color)), light(behind(each)), each.outerHTML])
    .filter(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5);
}"""
VIDEOS = "[...document.querySelectorAll('.stage video')]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sandbox = [] if hasattr(os, "geteuid") and os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    with servers(tmp_path / "work") as begin:
        yield begin


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """visit(server, …) → the page; in the end it has asked nobody else and complained of nothing but ``allowed``."""
    visits: list[tuple[Any, Server, list[str], list[str], tuple[str, ...]]] = []

    def begin(server: Server, *, size: str = "desk", dark: bool = False, allowed: tuple[str, ...] = ()) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        page = context.new_page()
        page.set_default_timeout(WAIT)
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        visits.append((context, server, asked, complaints, allowed))
        page.goto(f"http://{server.name}/")
        return page

    yield begin
    for context, server, asked, complaints, allowed in visits:
        context.close()
        others = [url for url in asked if not url.startswith((f"http://{server.name}/", "blob:", "data:"))]
        assert others == []
        assert [each for each in complaints if not any(known in each for known in allowed)] == []


def card(page: Any, name: str) -> Any:
    return page.get_by_role("article", name=name, exact=True)


def add(page: Any, *clips: Path) -> None:
    page.set_input_files("#files", clips)


def button(where: Any, name: str) -> Any:
    return where.get_by_role("button", name=name, exact=True)


def until(page: Any, true: str) -> None:
    """Wait until an expression holds. (The page's own rules forbid Playwright's wait_for_function to evaluate one.)"""
    end = time.monotonic() + PATIENCE
    while not page.evaluate(true):
        assert time.monotonic() < end, f"never: {true}"
        page.wait_for_timeout(50)


def times(page: Any) -> tuple[float, float]:
    """Where the two videos of a comparison stand, in seconds."""
    before, after = page.evaluate(f"{VIDEOS}.map((each) => each.currentTime)")
    return before, after


def test_a_clip_from_upload_to_download(
    serve: Callable[..., Server], visit: Callable[..., Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    clip = make_clip("holiday.mp4", **CLIP)
    page = visit(serve())
    add(page, clip)
    mine = card(page, "holiday.mp4")
    expect(mine.locator(".words")).to_contain_text("64×48, h264, 10 frames a second, 2.0 s.", timeout=WAIT)
    mine.get_by_role("radio", name="Rescue a shaky clip").check()
    expect(mine.locator(".estimate")).to_contain_text("Becomes 40 frames at 20 a second", timeout=WAIT)
    mine.get_by_text("All options").click()
    mine.get_by_label("multi", exact=True).fill("3")
    mine.get_by_label("Kind of file").select_option(".mkv")
    expect(mine.locator(".estimate")).to_contain_text("Becomes 60 frames at 30 a second", timeout=WAIT)
    assert mine.get_by_label("multi", exact=True).input_value() == "3"

    button(mine, "Preview").click()
    stage = mine.locator(".stage")
    expect(stage).to_be_visible(timeout=WAIT)
    until(page, f"{VIDEOS}[1].readyState >= 3")
    button(mine, "One frame on").click()
    button(mine, "One frame on").click()
    until(page, f"{VIDEOS}.every((each) => !each.seeking)")
    before, after = times(page)
    assert before == pytest.approx(after, abs=0.001) and after == pytest.approx(2.5 / 30, abs=0.001)
    boundary = mine.get_by_role("slider", name="Boundary between before and after, holiday.mp4")
    boundary.focus()
    page.keyboard.press("Home")
    assert stage.locator("video").nth(1).evaluate("(video) => video.style.clipPath") == "inset(0px 0px 0px 0%)"
    mine.get_by_label("Show guesses").check()
    until(page, "document.querySelector('.stage canvas').width > 1")  # the map of a frame that was made
    button(mine, "Play").click()
    until(page, f"{VIDEOS}[1].currentTime > 0.5")
    before, after = times(page)
    assert abs(before - after) < 0.15

    button(mine, "Start").click()
    expect(mine.get_by_role("progressbar", name="Progress of holiday.mp4")).to_be_visible(timeout=WAIT)
    expect(mine.locator(".proof")).to_contain_text("20 frames at 10 a second became 60 at 30", timeout=WAIT)
    expect(mine.locator(".proof")).to_contain_text(re.compile(r"Sound is [+-]0\.\d\d ms from where it was"))
    until(page, f"{VIDEOS}[1]?.readyState >= 3")  # the result as it is, or a copy
    button(mine, "Play").click()
    until(page, f"{VIDEOS}[1].currentTime > 0.3")
    with page.expect_download() as download:
        mine.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "holiday-fpsgan.mkv"
    download.value.save_as(tmp_path / "page.mkv")
    own = [sys.executable, "-m", "fpsgan", "enhance", str(clip), "-o", str(tmp_path / "own.mkv"), "--multi", "3"]
    subprocess.run(own, check=True, capture_output=True)
    ours, theirs = raw_planes(tmp_path / "page.mkv"), raw_planes(tmp_path / "own.mkv")
    assert len(ours) == len(theirs) == 60
    for one, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_slow_motion_keeps_both_at_the_same_moment(
    serve: Callable[..., Server], visit: Callable[..., Any], make_clip: MakeClip
) -> None:
    page = visit(serve())
    add(page, make_clip("jump.mp4", **CLIP))
    mine = card(page, "jump.mp4")
    mine.get_by_role("radio", name="Slow motion").check()
    button(mine, "Preview").click()
    until(page, f"{VIDEOS}[1]?.readyState >= 3")
    assert mine.locator(".stage video").nth(1).evaluate("(video) => video.duration") == pytest.approx(4, abs=0.2)
    mine.get_by_role("slider", name="Time").fill("3")
    until(page, f"Math.abs({VIDEOS}[0].currentTime - 1.5) < 0.01")


def test_two_files_one_broken(
    serve: Callable[..., Server], visit: Callable[..., Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    page = visit(serve())
    name = "<img src=x onerror=alert(1)>.mp4"  # shown as it is, and nothing else: an alert would be asked for, or 404
    add(page, broken, make_clip(name, **CLIP))
    expect(card(page, "broken.mp4").get_by_role("alert")).to_contain_text("not a video that can be read", timeout=WAIT)
    good = card(page, name)
    button(good, "Start").click()
    expect(good.locator(".proof")).to_be_visible(timeout=WAIT)
    button(page, "Remove broken.mp4").click()
    expect(card(page, "broken.mp4")).to_have_count(0)


def test_cancel_and_a_restart_in_mid_job(
    serve: Callable[..., Server], visit: Callable[..., Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    server = serve()
    page = visit(server, allowed=("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE"))
    add(page, make_clip("long.mp4", **CLIP | {"seconds": 60}))
    mine = card(page, "long.mp4")
    button(mine, "Start").click()
    expect(mine.locator(".work")).to_contain_text("left", timeout=WAIT)
    button(mine, "Cancel").click()
    expect(button(mine, "Start")).to_be_visible()
    expect(mine.locator(".estimate")).to_be_visible(timeout=WAIT)
    button(mine, "Start").click()
    expect(mine.locator(".work")).to_contain_text("left", timeout=WAIT)
    server.close()
    expect(page.locator("#offline")).to_be_visible()
    again = Server(server.settings, server.port)
    try:
        expect(page.locator("#offline")).to_be_hidden()
        expect(mine.locator(".proof")).to_contain_text("600 frames at 10 a second became", timeout=WAIT)
    finally:
        again.close()


def test_password(serve: Callable[..., Server], visit: Callable[..., Any]) -> None:
    page = visit(serve(password="open sesame"), allowed=("401",))
    for given, seen in (("wrong", "That is not the password."), ("open sesame", "Add clips")):
        page.get_by_label("Password").fill(given)
        page.keyboard.press("Enter")
        expect(page.get_by_text(seen)).to_be_visible()
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in page.context.cookies())
    button(page, "Log out").click()
    expect(page.get_by_label("Password")).to_be_visible()


def test_paths_and_limits(
    serve: Callable[..., Server], visit: Callable[..., Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    clip = make_clip("clip.mp4", **CLIP)
    (tmp_path / "allowed").mkdir()
    clip.rename(tmp_path / "allowed" / "clip.mp4")
    page = visit(serve(folders=(tmp_path / "allowed",), largest=100_000), allowed=("403",))
    path = page.get_by_label("Or a path on the machine that runs fpsGAN")
    path.fill("../secret.mp4")
    button(page, "Add").click()
    expect(page.locator("#problem")).to_contain_text("no such file below the folders that --folder allows")
    path.fill("clip.mp4")
    page.keyboard.press("Enter")
    expect(card(page, "clip.mp4").locator(".words")).to_be_visible(timeout=WAIT)
    expect(page.locator("#problem")).to_be_hidden()
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(100_001))
    add(page, large)
    expect(page.locator("#uploads")).to_contain_text("large.mp4 is larger than 100 kB")
    expect(card(page, "large.mp4")).to_have_count(0)


def test_layout_names_and_keyboard(
    serve: Callable[..., Server], visit: Callable[..., Any], make_clip: MakeClip, tmp_path: Path
) -> None:
    server = serve(folders=(tmp_path,), password="x")
    name = "a clip with a rather long name that has to be broken somewhere, " + "x" * 60 + ".mp4"
    clip = make_clip(**CLIP)
    first = True
    for size in SIZES:
        for dark in (False, True):
            page = visit(server, size=size, dark=dark)
            page.get_by_label("Password").fill("x")
            assert page.evaluate(NAMELESS) == [] and page.evaluate(OVERLAPS) == [] and page.evaluate(FAINT) == []
            page.keyboard.press("Enter")
            if first:
                first = False
                page.set_input_files(
                    "#files",
                    [{"name": each, "mimeType": "video/mp4", "buffer": clip.read_bytes()} for each in (name, "b.mp4")],
                )
                button(card(page, name), "Preview").click()
            mine = card(page, name)
            expect(mine.locator(".estimate")).to_be_visible(timeout=WAIT)
            expect(mine.locator(".stage")).to_be_visible(timeout=WAIT)
            mine.get_by_text("All options").focus()
            page.keyboard.press("Enter")  # by the keyboard alone
            expect(mine.get_by_label("scene threshold")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            assert page.evaluate(NAMELESS) == []
            assert page.evaluate(OVERLAPS) == []
            assert page.evaluate(FAINT) == []
            page.locator("#files").focus()
            reached = []
            for _ in range(90):
                page.keyboard.press("Tab")
                reached.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
            assert {"Preview", "Start", "Play", "One frame on", f"Remove {name}", f"Move {name} down"} <= set(reached)

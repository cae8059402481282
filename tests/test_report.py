"""The report of a clip: one page that needs no other file, and the same as data."""

from __future__ import annotations

import base64
import json
import re
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import MakeClip
from test_cli import run

from fpsgan.errors import InputError, OutputError
from fpsgan.training.page import Moment, curves, page_text, table_text
from fpsgan.training.report import OURS, _keep, report


class Page(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def clip(make_clip: MakeClip) -> Path:
    """2.5 s, cut at 1.25 s."""
    return make_clip("a <b>.mp4", rate="12", seconds=2.5, sound=False, filters="negate=enable='gte(n,15)'")


def test_the_page_stands_alone(clip: Path, tmp_path: Path) -> None:
    result = report(clip, tmp_path / "page.html", device="cpu", half=False)
    page = Page(result.page)
    text = result.page.read_text(encoding="utf-8")
    assert not [script for script in page.all("script") if "src" in script]
    assert "<b>.mp4" not in text
    assert not page.all("link")
    assert len(result.worst) == len({int(time) for time in result.worst})
    assert text.count('"name":"Line"') >= 4 * 3 and '"click_policy":"hide"' in text  # of each line bokeh has three
    assert len(page.all("input")) == len(result.worst) + 1
    images = page.all("img")
    assert {image["alt"] for image in images} == {"hold", "blend", "minterpolate", OURS, "truth", f"error of {OURS} ×4"}
    for image in images:
        kind, _, code = str(image["src"]).partition(",")
        assert kind == "data:image/jpeg;base64"
        assert cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR).shape == (64, 96, 3)


def test_a_curve_for_each_method_with_its_worst_moments_on_it() -> None:
    psnr = {"hold": [20.0, 30.0, 25.0], "<ours>": [31.0, 35.0, 33.0]}
    plot = curves(psnr, [0.5, 1.0, 1.5], "time, s", marks=[Moment(0.5, {"<ours>": 31.0})], ours="<ours>", cuts=[0.75])
    hold, ours, cuts, worst = plot.renderers
    assert [line.data_source.data for line in (hold, ours)] == [
        {"x": [0.5, 1.0, 1.5], "y": values} for values in psnr.values()
    ]
    assert hold.glyph.line_color != ours.glyph.line_color
    assert cuts.data_source.data["x"] == [0.75]
    assert (worst.data_source.data["x"], worst.data_source.data["y"]) == ([0.5], [31.0])
    assert [item.label.value for item in plot.legend[0].items] == list(psnr)


def test_names_are_text_and_no_tags() -> None:
    page = page_text("<i>", [table_text([["", "<b>"], ["<u>", "1"]])])
    assert not {"<i>", "<b>", "<u>"} & set(re.findall("<.*?>", page))
    assert page.count("<th>") == 2 and page.count("<td>") == 2


def test_figures_are_those_of_the_curve(clip: Path, tmp_path: Path) -> None:
    result = report(clip, tmp_path / "page.html", device="cpu", half=False)
    assert (result.hidden, result.shots, result.still) == (14, 2, 0)  # 7 of 15 frames, twice
    assert result.times == sorted(result.times)
    assert result.times[0] == pytest.approx(1 / 12)
    for name, values in result.psnr.items():
        assert len(values) == 14
        assert result.methods[name]["psnr"] == pytest.approx(np.mean(values))
    assert result.worst[0] == result.times[int(np.argmin(result.psnr[OURS]))]
    part = report(clip, tmp_path / "part.html", start=Fraction(5, 4), device="cpu", half=False)
    assert (part.hidden, part.shots) == (7, 1)


def test_repeats_are_no_truth(make_clip: MakeClip, tmp_path: Path) -> None:
    """A clip on twos is that of half its rate; where one frame in five is repeated, those around it are left out."""
    once = report(make_clip("once.mp4", rate="12", seconds=1.25, sound=False), tmp_path / "once.html", half=False)
    twice = make_clip("twice.mp4", rate="12", seconds=1.25, sound=False, filters="fps=24")
    result = report(twice, tmp_path / "twice.html", device="cpu", half=False)
    assert (result.hidden, result.repeats, result.uneven) == (once.hidden, 15, 0)
    assert result.methods["hold"]["psnr"] == pytest.approx(once.methods["hold"]["psnr"], abs=1)
    assert set(result.worst) <= set(result.times)
    assert "15 that repeat the one before" in result.page.read_text(encoding="utf-8")
    now_and_then = make_clip("five.mp4", rate="20", seconds=2, sound=False, filters="fps=25")
    result = report(now_and_then, tmp_path / "five.html", device="cpu", half=False)
    assert result.repeats == pytest.approx(10, abs=1)
    assert result.hidden > 5
    assert result.uneven > 5
    assert result.methods["hold"]["psnr"] < result.methods[OURS]["psnr"]


def test_the_worst_moments_are_a_second_apart() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(20, 40, 200)
    worst: dict[int, Moment] = {}
    for k, value in enumerate(values):
        _keep(worst, Moment(k / 20, {OURS: float(value)}))
    lowest = sorted(values.reshape(10, 20).min(1))[:5]
    assert sorted(moment.psnr[OURS] for moment in worst.values()) == pytest.approx(lowest)


def test_mistakes(clip: Path, tmp_path: Path, make_clip: MakeClip) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(OutputError, match="-y replaces it"):
        report(clip, page)
    assert page.read_text() == "mine"
    with pytest.raises(InputError, match="nothing to rebuild"):
        report(make_clip("short.mp4", rate="12", seconds=0.1, sound=False), tmp_path / "short.html")
    assert not (tmp_path / "short.html").exists()


def test_the_command(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, monkeypatch, "report", clip, "-o", page, "--json", "--end", "0.5", "--no-half")
    assert code == 0
    told = json.loads(out)
    assert told["page"] == str(page)
    assert (told["repeats"], told["uneven"]) == (0, 0)
    assert told["hidden"] == len(told["times"]) == len(told["psnr"]["blend"]) == 2

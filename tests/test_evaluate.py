"""Evaluation: which frames are hidden, what is left out, what the figures mean, what is written."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import MakeClip, ffmpeg
from test_cli import run

from deblur.fpn import Deblur, DeblurConfig
from fpsgan import weights
from fpsgan.errors import InputError, OptionError, OutputError, SetupError
from fpsgan.job import enhance
from fpsgan.options import Options
from fpsgan.stages.timeline import Relation
from fpsgan.training.evaluate import evaluate, rebuilt, shot, table, video, windows
from fpsgan.training.manifest import Clip, write_manifest
from fpsgan.training.metrics import psnr, vmaf_ffmpeg
from fpsgan.training.peers import hold, minterpolate
from fpsgan.video.codecs import EncodeOptions
from fpsgan.video.decode import decode
from fpsgan.video.frame import Frame
from fpsgan.video.probe import probe

SIDE = 64
FFV1 = ("-c:v", "ffv1", "-pix_fmt", "yuv420p")


def picture(seed: int, width: int = SIDE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE // 8, width // 8, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


def slide(count: int, seed: int = 0) -> list[np.ndarray]:
    wide = picture(seed, SIDE + 8 * count)
    return [np.ascontiguousarray(wide[:, 2 * k : 2 * k + SIDE]) for k in range(count)]


def data_set(
    folder: Path, clips: dict[str, list[np.ndarray]], *, split: str = "test", subset: str = "", blurred: bool = False
) -> Path:
    """A manifest over PNG files; with `blurred` each has a partner, which is not written."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, frames in clips.items():
        files = [f"{name}-{k}.png" for k in range(len(frames))]
        for file, frame in zip(files, frames, strict=True):
            cv2.imwrite(str(folder / file), frame[..., ::-1])
        soft = tuple(f"soft-{file}" for file in files) if blurred else ()
        made.append(Clip(name, name, split, len(files), SIDE, SIDE, subset=subset, frames=tuple(files), blurred=soft))
    write_manifest(folder, made)
    return folder


@pytest.fixture
def deblurrer(tmp_path: Path) -> str:
    """Weights that change nothing: the network's last layer begins at zero."""
    return str(weights.save(tmp_path / "nothing.safetensors", Deblur(DeblurConfig(num_filters=8)), {}))


def test_windows_keep_every_nth_frame_at_its_own_time() -> None:
    times = [Fraction(t) for t in (0, 1, 4, 5, 6, 7, 8)]
    images = [Frame.of_image(np.full((16, 16, 3), k, np.uint8), t) for k, t in enumerate(times)]
    frames = [(image, Relation.CUT if k == 5 else Relation.MOTION) for k, image in enumerate(images)]
    first, second = windows(frames, 2)  # frame 5 is another shot, and too short
    assert [(w.run, w.number, w.hidden) for w in (first, second)] == [(0, 0, (images[1],)), (0, 2, (images[3],))]
    assert (first.frame0, first.frame1, second.frame0, second.frame1) == (images[0], images[2], images[2], images[4])
    assert (first.times, second.times) == ((Fraction(1, 4),), (Fraction(1, 2),))
    (only,) = windows(frames, 4)
    assert only.times == (Fraction(1, 6), Fraction(4, 6), Fraction(5, 6))


def test_a_cut_is_never_inside_a_window(make_clip: MakeClip) -> None:
    path = make_clip("cut.mp4", seconds=0.5, sound=False, filters="negate=enable='gte(n,7)'")
    assert [k for k, (_, relation) in enumerate(video(probe(path))) if relation is Relation.CUT] == [7]
    found = [(window.run, window.number) for window in windows(video(probe(path)), 2)]
    assert found == [(0, 0), (0, 2), (0, 4), (1, 7), (1, 9)]


def repeated(often: Sequence[int]) -> list[tuple[Frame, Relation]]:
    """Frames that slide, each the given number of times."""
    given = [(image, k) for image, count in zip(slide(len(often)), often, strict=True) for k in range(count)]
    return [
        (Frame.of_image(image, Fraction(number, 25)), Relation.HELD if k else Relation.MOTION)
        for number, (image, k) in enumerate(given)
    ]


def test_repeats_are_no_truth() -> None:
    pictures = slide(5)
    twos = list(windows(repeated([2] * 5), 2))
    assert [window.number for window in twos] == [0, 2]
    assert all(window.even and window.times == (0.5,) for window in twos)
    for window, first in zip(twos, (0, 2), strict=True):
        given = (window.frame0, *window.hidden, window.frame1)
        assert all(np.array_equal(a.image, b) for a, b in zip(given, pictures[first : first + 3], strict=True))
    now_and_then = list(windows(repeated([1, 1, 1, 2, 1, 1, 1]), 2))
    assert [window.even for window in now_and_then] == [True, False, True]
    assert [bool(made) for _, made in rebuilt(now_and_then, {"hold": hold})] == [True, False, True]


def test_where_nothing_changes_nothing_is_made() -> None:
    frames = [*slide(3), *(slide(3)[-1] for _ in range(4))]
    found = list(rebuilt(windows(shot(frames), 2), {"hold": hold, "minterpolate": minterpolate}))
    assert [sorted(made) for _, made in found] == [["hold", "minterpolate"], [], []]


def test_what_is_scored_is_what_a_job_makes(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: a job that is given every other frame makes the others. There is a fade, and a logo that stands."""
    drawn = "fade=t=out:st=0.5:d=1,drawbox=8:8:40:16:black:fill,drawbox=12:12:6:8:white:fill"
    settings: dict[str, Any] = {"device": "cpu", "half": False}
    full = make_clip("full.mkv", seconds=25 / 24, sound=False, video="testsrc2=s=160x96", filters=drawn, encode=FFV1)
    ffmpeg("-i", str(full), "-vf", "framestep=2", *FFV1, str(tmp_path / "half.mkv"))
    options = Options(deblur="off", multi=Fraction(2), encode=EncodeOptions("ffv1", pix_fmt="gbrp"), **settings)
    enhance(tmp_path / "half.mkv", tmp_path / "job.mkv", options=options)
    made, true = ([frame.image for frame in decode(probe(path))] for path in (tmp_path / "job.mkv", full))
    found = []

    def watched(*given: Any) -> Iterator[Any]:
        for window, by_method in rebuilt(*given):
            found.extend(by_method["interpolator-base"])
            yield window, by_method

    monkeypatch.setattr("fpsgan.training.evaluate.rebuilt", watched)
    result = evaluate([full], every=[2], peers=[], vmaf=False, **settings)
    assert [score.frame for score in result.images] == list(range(1, 24, 2))
    for score, image in zip(result.images, found, strict=True):
        assert np.array_equal(image, made[score.frame])
        assert score.psnr == psnr(image, true[score.frame])


def test_figures_are_those_of_the_pictures(tmp_path: Path) -> None:
    """One triplet, one sequence: PSNR as worked out here, means over the images of a clip, then over clips."""
    clips = {"long": slide(5), "triplet": slide(3, seed=1)}
    place = data_set(tmp_path / "bench", clips)
    result = evaluate([place], peers=["blend"], every=[2], vmaf=False, device="cpu", half=False)
    expected = {
        name: [psnr(cv2.addWeighted(f[k - 1], 0.5, f[k + 1], 0.5, 0), f[k]) for k in range(1, len(f) - 1, 2)]
        for name, f in clips.items()
    }
    assert {c: [s.psnr for s in result.images if s.clip == c and s.method == "blend"] for c in clips} == expected
    by_clip = [float(np.mean(expected[name])) for name in clips]
    assert result.sets["bench ×2"]["blend"]["psnr"] == pytest.approx(np.mean(by_clip))
    assert result.sets["bench ×2"]["blend"]["images"] == 3
    assert result.sets["bench ×2"]["interpolator-base"]["psnr"] > result.sets["bench ×2"]["blend"]["psnr"] + 3
    assert {"psnr", "ssim", "flicker", "images"} == set(result.sets["bench ×2"]["blend"])
    text = table(result)
    assert f"{np.mean(by_clip):.2f}" in text
    assert len({len(line) for line in text.splitlines()[:4]}) == 1


def test_plain_videos_at_half_and_quarter_rate(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("clip.mp4", rate="24", seconds=0.4, sound=False)  # 10 frames
    seen = []
    result = evaluate([path.parent], output=tmp_path / "out", device="cpu", half=False, on_progress=seen.append)
    assert {name: m["hold"]["images"] for name, m in result.sets.items()} == {"×2": 4, "×4": 6}
    assert list(result.sets["×2"]) == ["hold", "blend", "minterpolate", "dis", "interpolator-base"]
    assert (seen[-1].done, seen[-1].total, seen[-1].eta) == (10, 10, 0)
    assert ("vmaf" in result.sets["×2"]["hold"]) == (vmaf_ffmpeg() is not None)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["page.html", "results.json", "table.md"]
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    for rate in (2, 4):
        own = [score for score in result.images if (score.set, score.method) == (f"×{rate}", "interpolator-base")]
        worst = min(own, key=lambda score: score.psnr)
        shown = f"frame {worst.frame}, the worst: .*interpolator-base {worst.psnr:.1f} dB"
        assert f"<h2>×{rate}: clip.mp4</h2>" in page and re.search(shown, page)
    assert page.count('<img alt="dis" src="data:image/jpeg') == 2 == page.count('<img alt="truth"')
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == dataclasses.asdict(result)
    with pytest.raises(OutputError, match="another evaluation"):
        evaluate([path], output=tmp_path / "out")
    assert len(evaluate([path], every=[2], peers=[], limit=1, vmaf=False).images) == 1


def test_deblurring_of_pairs_and_of_shaken_photos(tmp_path: Path, deblurrer: str) -> None:
    sharp = slide(3)
    place = data_set(tmp_path / "pairs", {"a": sharp}, blurred=True, subset="linear")
    for k, image in enumerate(sharp):
        cv2.imwrite(str(place / f"soft-a-{k}.png"), cv2.GaussianBlur(image, (0, 0), 2)[..., ::-1])
    result = evaluate([place], weights=[deblurrer], vmaf=False, device="cpu", half=False)
    figures = result.sets["linear"]
    assert figures["blurred"]["images"] == 3
    assert figures["blurred"]["psnr"] == pytest.approx(figures[deblurrer]["psnr"], abs=0.01)
    assert 15 < figures["blurred"]["psnr"] < 40
    assert "flicker" in figures["blurred"]

    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "one.png"), picture(7))
    result = evaluate([photos], weights=[deblurrer], device="cpu", half=False)
    paths = [score for score in result.images if score.set == "shaken" and score.method == "blurred"]
    assert [score.frame for score in paths] == [5, 8, 11, 14, 17, 21]
    assert paths[0].psnr > paths[-1].psnr
    assert result.sets["sharp"]["blurred"]["psnr"] == 60


def test_sequences_without_pairs_are_exposed(tmp_path: Path, deblurrer: str) -> None:
    place = data_set(tmp_path / "own", {"a": slide(9)}, split="val")
    notes: list[str] = []
    result = evaluate([place], weights=[deblurrer], device="cpu", half=False, on_note=notes.append)
    assert notes == [f"{place}: its val split, 1 clips"]
    (score,) = (score for score in result.images if score.method == "blurred")
    assert (score.set, score.frame) == ("own", 4)
    assert score.psnr < 40


def test_frames_of_videos_are_added_up(make_clip: MakeClip, tmp_path: Path, deblurrer: str) -> None:
    """Three, five and seven of them; never across a cut, nor where nothing moves."""
    path = make_clip("cut.mp4", seconds=16 / 24, sound=False, filters="negate=enable='gte(n,7)'")
    result = evaluate([path.parent], weights=[deblurrer], vmaf=False, device="cpu", half=False)
    found = {name: [s.frame for s in result.images if s.set == name and s.method == "blurred"] for name in result.sets}
    assert found == {"mean of 3": [1, 4, 8, 11, 14], "mean of 5": [2, 9], "mean of 7": [3, 10]}
    figures = [result.sets[name]["blurred"]["psnr"] for name in found]
    assert 50 > figures[0] > figures[-1]
    still = make_clip("still.mp4", seconds=0.5, sound=False, video="color=gray:s=96x64")
    with pytest.raises(InputError, match="nothing moves in it"):
        evaluate([still], weights=[deblurrer], device="cpu", half=False)


def test_mistakes_are_said_in_one_line(tmp_path: Path, deblurrer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = data_set(tmp_path / "own", {"a": slide(3)})
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (OptionError, "one kind of network", {"weights": ["interpolator-base", deblurrer]}),
        (OptionError, "--every 1", {"every": [1]}),
        (OptionError, "--limit -1", {"limit": -1}),
        (OptionError, "--peer film: not known", {"peers": ["film"]}),
        (OptionError, "--peer hold: an interpolator", {"weights": [deblurrer], "peers": ["hold"]}),
        (InputError, "--split takes one of test", {"split": "val"}),
        (InputError, "nothing to score", {"every": [4]}),
        (OptionError, "2 clips would be called", {"places": [place, place]}),
    ]
    for kind, said, options in cases:
        places = options.pop("places", [place])
        with pytest.raises(kind, match=said) as caught:
            evaluate(places, **options)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("fpsgan.training.evaluate.vmaf_ffmpeg", lambda: None)
    with pytest.raises(SetupError, match="--vmaf"):
        evaluate([place], vmaf=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = data_set(tmp_path / "own", {"a": slide(3)})
    code, out, _ = run(capsys, monkeypatch, "evaluate", place, "--peer", "hold", "--no-half")
    assert code == 0
    assert out.startswith("| own ×2: 1 images of 1 |")
    code, out, _ = run(capsys, monkeypatch, "evaluate", place, "--peer", "hold", "--no-half", "--json")
    assert json.loads(out)["sets"]["own ×2"]["hold"]["images"] == 1
    code, out, err = run(capsys, monkeypatch, "evaluate", tmp_path / "none")
    assert (code, out, err.count("\n")) == (1, "", 1)

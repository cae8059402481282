"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from fpsgan.errors import SetupError
from fpsgan.training import metrics
from fpsgan.training.metrics import Vmaf, flicker, psnr, ssim, vmaf_ffmpeg


def flat(code: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), code, np.uint8)


def texture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_psnr() -> None:
    assert psnr(flat(100), flat(110)) == pytest.approx(20 * math.log10(255 / 10))
    one = flat(100)
    one[0, 0, 0] = 0  # an error of 100 in one value of 3072
    assert psnr(one, flat(100)) == pytest.approx(10 * math.log10(255**2 / (100**2 / 3072)))
    assert psnr(one, one) == math.inf
    with pytest.raises(ValueError, match="one shape"):
        psnr(flat(1), flat(1, 16))


def test_ssim() -> None:
    """Of flat pictures only the luminance term is left; of a picture and its negative the covariance is negative."""
    c1 = (0.01 * 255) ** 2
    assert ssim(flat(100), flat(150)) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-4)
    picture = texture(0)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, 255 - picture) < 0
    assert 0.5 < ssim(picture, np.asarray(cv2.GaussianBlur(picture, (0, 0), 1), np.uint8)) < 0.999
    with pytest.raises(ValueError, match="11 px"):
        ssim(flat(1, 8), flat(1, 8))


def test_flicker() -> None:
    truth = [flat(100), flat(120), flat(140)]
    assert flicker(truth, truth) == 0
    assert flicker([image + 5 for image in truth], truth) == 0  # an error that stays is no flicker
    assert flicker([truth[0], truth[1] + 6, truth[2]], truth) == 6  # comes and goes: 6 twice over two steps
    with pytest.raises(ValueError, match="two or more"):
        flicker(truth[:1], truth[:1])


def test_vmaf_without_a_filter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "vmaf_ffmpeg", lambda: None)
    with pytest.raises(SetupError, match="libvmaf"):
        Vmaf(64, 64)


@pytest.mark.skipif(vmaf_ffmpeg() is None, reason="no ffmpeg with libvmaf here")
def test_vmaf_tells_good_from_bad() -> None:
    frames = [texture(1, 96, 192)[:, 4 * k : 4 * k + 128] for k in range(4)]
    scores = {}
    for name, sigma in (("same", 0.0), ("soft", 2.0)):
        with Vmaf(96, 128) as judge:
            for frame in frames:
                image = np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8) if sigma else frame
                judge.add(image, frame)
            scores[name] = judge.scores()
    assert [len(found) for found in scores.values()] == [4, 4]
    assert np.mean(scores["same"]) > 90
    assert np.mean(scores["soft"]) < np.mean(scores["same"]) - 10

"""The pair on the device: each function equal to its counterpart on the CPU, and the whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fpsgan.demo import render_scene
from fpsgan.device import colour, exposure, overlays
from fpsgan.stages.exposure import exposure_change
from fpsgan.stages.overlays import OverlayFinder
from fpsgan.video.frame import Color, Frame, PixelFormat, from_rgb, to_rgb

FORMATS = ["yuv420p", "yuv422p10le", "yuv444p", "yuv410p", "gray", "gray12le", "gbrp", "gbrp10le"]


def grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def batch(*pictures: np.ndarray) -> torch.Tensor:
    """[B,1,H,W] of grey pictures."""
    return torch.from_numpy(np.stack(pictures))[:, None].float()


def up(planes: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(plane.astype(np.int32))[None] for plane in planes)


@pytest.mark.parametrize("size", [(64, 96), (37, 51)])
@pytest.mark.parametrize("site", ["left", "center", "topleft"])
@pytest.mark.parametrize("name", FORMATS)
def test_colour(name: str, site: str, size: tuple[int, int]) -> None:
    form, color = PixelFormat.of(name), Color(matrix="bt709", chroma_location=site)
    picture = render_scene(0.3, size[1], size[0]).astype(np.float32) / np.float32(255)
    planes = from_rgb(picture, form, color)
    expected = to_rgb(planes, form, color)
    rgb = colour.to_rgb(up(planes), form, color)
    assert np.abs(rgb[0].permute(1, 2, 0).numpy() - expected).max() < 1e-4
    found = colour.from_rgb(torch.from_numpy(picture).permute(2, 0, 1)[None], form, color)
    for one, other in zip(found, planes, strict=True):
        codes = one[0].numpy().view(form.dtype)
        assert codes.shape == other.shape
        difference = np.abs(codes.astype(int) - other)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # what lies half between two codes
    luma = colour.luma_of(up(planes), form, color)
    assert np.abs(luma[0].numpy() - Frame(planes, form, color, 0, 0).luma).max() <= 1  # type: ignore[arg-type]


def test_exposure() -> None:
    """A fade, a flash that clips, motion alone, nothing at all, as one batch."""
    scene, later = grey(render_scene(0.2, 320, 180)), grey(render_scene(0.25, 320, 180))
    faded = np.clip(0.6 * later + 10, 0, 255).astype(np.uint8)
    bright = np.clip(later.astype(int) + 60, 0, 255).astype(np.uint8)
    seconds = [faded, bright, later, scene]
    expected = [exposure_change(scene, second) for second in seconds]
    found = exposure.exposure_change(batch(*[scene] * 4), batch(*seconds))
    assert expected[0] is not None and expected[2] is None and expected[3] is None
    for k, change in enumerate(expected):
        gain, offset = (1.0, 0.0) if change is None else change
        assert float(found.gain[k]) == pytest.approx(gain, rel=1e-3)
        assert float(found.offset[k]) == pytest.approx(offset, abs=1e-3)
        if change is not None:
            picture = np.float32(scene / 255)
            moved = found.select(torch.tensor([k])).move(batch(picture), 0.25, torch.full((1, 1, 1, 1), 0.8))
            assert np.abs(moved[0, 0].numpy() - change.move(picture, 0.25, 0.8)).max() < 1e-3
            assert float(found.best[k]) == change.best


@pytest.mark.parametrize("size", [(180, 320), (133, 251)])
def test_overlays(size: tuple[int, int]) -> None:
    """A pan with a logo; another scene begins at the sixth pair. In batches of three and four."""
    height, width = size
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (height, width + 100), np.uint8), (0, 0), 2)
    ground = cv2.normalize(ground, None, 20, 160, cv2.NORM_MINMAX)

    def frame(k: int) -> np.ndarray:
        picture = np.ascontiguousarray(ground[:, 5 * k : 5 * k + width])
        cv2.putText(picture, "LOGO", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 3)
        return picture

    frames = [frame(k) for k in range(8)]
    begins = [k == 5 for k in range(7)]
    finder, expected = OverlayFinder(), []
    for k in range(7):
        if begins[k]:
            finder.forget()
        overlay = finder.find(frames[k], frames[k + 1])
        expected.append(np.zeros(size, np.uint8) if overlay is None else overlay)
    first, since = overlays.overlays(batch(*frames[:3]), batch(*frames[1:4]), begins[:3])
    second, _ = overlays.overlays(batch(*frames[3:7]), batch(*frames[4:8]), begins[3:], since)
    found = torch.cat((first, second))[:, 0].numpy() * 255
    assert expected[3].max() == 255 and not expected[5].any()
    for one, other in zip(found, expected, strict=True):
        assert (np.abs(one - other) > 2).mean() < 2e-3

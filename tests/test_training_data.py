"""Training samples: exact flow is exact, and stays so through packing and augmentation."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.interpolator import Synthesis
from fpsgan.training.data import Sample, _augment, pack, photo_samples, triplet_batches, video_samples
from fpsgan.training.losses import flow_loss, laplacian
from fpsgan.training.metrics import psnr
from fpsgan.warp import warp


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(3)]
    for path in paths:
        noise = rng.integers(0, 256, (400, 420, 3), np.uint8)
        picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
        cv2.imwrite(str(path), picture)
    return paths


def samples(photos: list[Path], count: int, size: int = 128) -> list[Sample]:
    source = photo_samples(photos, np.random.default_rng(1), size)
    return [next(source) for _ in range(count)]


def errors(sample: Sample) -> Tensor:
    """Grey-level error of frame0 and of frame1, warped by the exact flow, against the truth: [2,S,S]."""
    frames = torch.from_numpy(sample.frames.copy()).permute(0, 3, 1, 2).float()
    flows = F.interpolate(torch.from_numpy(sample.exact.astype(np.float32)), scale_factor=4.0, mode="bilinear")
    return (warp(frames[[0, 2]], flows) - frames[1]).abs().mean(dim=1)


def pan(t: float, velocity: tuple[float, float], size: int = 128) -> Sample:
    """A texture that moves by velocity (x, y) from frame0 to frame1, with everything known about it."""
    noise = np.random.default_rng(4).integers(0, 256, (size + 80, size + 80, 3), np.uint8)
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    motion = np.array(velocity, np.float32)
    frames = []
    for time in (0.0, t, 1.0):
        x, y = motion * time - 40
        frames.append(cv2.warpAffine(picture, np.float32([[1, 0, x], [0, 1, y]]), (size, size), flags=cv2.INTER_CUBIC))
    flows = np.ones((2, 2, size // 4, size // 4), np.float32) * motion[:, None, None]
    prior = flows * np.array([1, -1], np.float32)[:, None, None, None]
    exact = flows * np.array([-t, 1 - t], np.float32)[:, None, None, None]
    return Sample(np.stack(frames), t, prior, exact)


def test_exact_flow_of_the_renderer_maps_frames_onto_the_truth(photos: list[Path]) -> None:
    for sample in samples(photos, 6):
        assert errors(sample).amin(dim=0).median() < 2.0  # what one frame hides, the other mostly shows
        assert np.isfinite(sample.prior).all() and 0.0 < sample.t < 1.0


@pytest.mark.parametrize("t", [0.25, 0.5])
def test_augmentation_keeps_frames_time_and_flows_together(t: float) -> None:
    rng, sample, moved = np.random.default_rng(2), pan(t, (6.0, -3.0)), set()
    assert errors(sample)[:, 16:-16, 16:-16].mean() < 1.0
    for _ in range(60):
        new = _augment(sample, 96, rng)
        assert new.frames.shape == (3, 96, 96, 3) and new.prior.shape == (2, 2, 24, 24)
        assert errors(new)[:, 40:-40, 40:-40].mean() < 1.0
        velocity = new.exact[1] - new.exact[0]
        assert np.allclose(new.prior[0], velocity, atol=1e-4) and np.allclose(new.prior[1], -velocity, atol=1e-4)
        assert np.allclose(new.exact[0], -new.t * velocity, atol=1e-4)
        moved.add((round(float(np.abs(velocity[0]).mean())), round(float(np.abs(velocity[1]).mean()))))
    assert {(6, 3), (3, 6)} <= moved
    assert (len(moved) > 4) == (t == 0.5)  # opposite shifts: at any other time that is no straight motion


def test_packs_come_back_as_batches(photos: list[Path], tmp_path: Path) -> None:
    assert pack(iter(samples(photos, 3)), 5, tmp_path / "pack", size=128) == 3
    batches = triplet_batches([tmp_path / "pack"], [1.0], 4, 64, np.random.default_rng(0), drop_prior=0.5)
    seen = [next(batches) for _ in range(12)]
    assert {("flow01" in batch) for batch in seen} == {True, False}
    for batch in seen:
        assert batch["truth"].shape == batch["frame0"].shape == (4, 3, 64, 64)
        assert batch["flow_t0"].shape == (4, 2, 16, 16)
        assert batch["truth"].min() >= 0.0 and batch["truth"].max() <= 1.0
        assert ((batch["t"] > 0) & (batch["t"] < 1)).all()


def test_cuts_and_held_frames_never_enter_a_triplet(tmp_path: Path) -> None:
    """A clip of two scenes, each panning 2 px a frame, with a cut at frame 20 and every third frame held."""
    rng = np.random.default_rng(3)
    scenes = [cv2.GaussianBlur(rng.integers(0, 256, (320, 480, 3), np.uint8), (0, 0), s) for s in (5, 9)]
    scenes = [cv2.normalize(s, None, 0, 255, cv2.NORM_MINMAX) for s in scenes]
    path = tmp_path / "clip.mp4"

    def write(held: bool) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 320, 288, "yuv420p"
            stream.options = {"crf": "10"}
            for index in range(40):
                x = 2 * (index - index % 2 if held else index)
                picture = np.ascontiguousarray(scenes[index >= 20][:288, x : x + 320])
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)

    write(held=False)
    found = list(video_samples(path, 80, np.random.default_rng(0), 128))
    assert len(found) > 20
    for sample in found:
        ends = [F.avg_pool2d(torch.from_numpy(f).permute(2, 0, 1).float(), 32) for f in sample.frames[[0, 2]]]
        assert (ends[0] - ends[1]).abs().mean() < 40.0
        # a pan is linear motion: the prior says how far, t says how much of it
        shift = np.median(sample.prior[0][0]) * sample.t
        truth = torch.from_numpy(sample.frames[1]).permute(2, 0, 1)[None].float()
        start = torch.from_numpy(sample.frames[0]).permute(2, 0, 1)[None].float()
        flow = torch.zeros(1, 2, 128, 128)
        flow[:, 0] = -float(shift)
        assert (warp(start, flow) - truth)[..., 24:-24].abs().mean() < 4.0
    write(held=True)
    assert not list(video_samples(path, 80, np.random.default_rng(0), 128))


def test_losses_are_zero_where_nothing_is_wrong_and_ignore_unknown_flow() -> None:
    image = torch.rand(1, 3, 64, 64)
    both = torch.cat((image, 1.0 - image))
    same, other = laplacian(both, image.expand(2, -1, -1, -1)).tolist()
    assert same < 0.05 < 0.5 < other
    flow = torch.zeros(1, 2, 64, 64)
    levels = [(torch.zeros(1, 2, 2 * 2**i, 2 * 2**i),) * 2 for i in range(4)]
    result = Synthesis(image, flow, flow, image[:, :1], levels)
    off, unknown = torch.full((1, 2, 16, 16), 3.0), torch.full((1, 2, 16, 16), torch.nan)
    assert flow_loss(result, off, off) == pytest.approx((18**0.5 + 0.01) ** 0.5 - 0.1, rel=1e-4)
    assert flow_loss(result, unknown, unknown) == 0.0


def test_psnr() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + 255) == pytest.approx(0.0)
    assert psnr(black, black + 1) == pytest.approx(48.13, abs=0.01)
    with pytest.raises(ValueError, match="uint8"):
        psnr(black, black.astype(np.float32))  # type: ignore[arg-type]

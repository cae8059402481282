"""From flows to a frame: warping, overlapped compensation, confidence and what replaces a guess."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.demo import render_scene
from fpsgan.interpolator import STRIDE, flow_prior, synthesis
from fpsgan.interpolator.synthesis import (
    Intermediate,
    compose,
    confidence,
    distrust_leaving,
    downsample,
    fall_back,
    overlapped,
    warp,
)

SIDE = 128
T = torch.tensor([0.25])


def smooth(*shape: int, seed: int = 0) -> Tensor:
    small = torch.rand(shape[0], shape[1], 6, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=shape[2:], mode="bicubic")


def test_a_whole_shift_moves_pixels_and_repeats_the_border() -> None:
    frame = torch.arange(5.0).expand(1, 3, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0] = 2.0
    assert warp(frame, flow)[0, 0, 0].tolist() == [2.0, 3.0, 4.0, 4.0, 4.0]
    flow[:, 0] = -0.5
    assert warp(frame, flow)[0, 0, 0].tolist() == pytest.approx([0.0, 0.5, 1.5, 2.5, 3.5], abs=1e-5)


def test_gradients_reach_frame_and_flow() -> None:
    frame, flow = smooth(1, 3, 16, 16).requires_grad_(), smooth(1, 2, 16, 16, seed=2).requires_grad_()
    warp(frame, flow).square().sum().backward()
    assert frame.grad is not None and frame.grad.abs().sum() > 0
    assert flow.grad is not None and flow.grad.abs().sum() > 0


@pytest.mark.parametrize("channels", [3, 16])
def test_half_precision_frames_keep_exact_positions(channels: int) -> None:
    frame, flow = smooth(1, channels, 24, 1500), torch.full((1, 2, 24, 1500), 0.25)
    found = warp(frame.bfloat16(), flow)
    assert found.dtype == torch.bfloat16
    # bf16 could not tell column 1400 from 1404
    assert (found.float() - warp(frame, flow)).abs().max() < 0.01


def picture(seed: int) -> Tensor:
    """[1,3,128,128] of some texture."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.random((1, 3, SIDE // 4, SIDE // 4), np.float32))
    return F.interpolate(small, scale_factor=4.0, mode="bicubic").clamp(0, 1)


def decided(flow: Tensor, mask: float = 0.5) -> Intermediate:
    """A constant velocity [2,64,64], px of the frame, seen at t = ½."""
    size = flow.shape[-2:]
    return Intermediate(-flow[None] / 2, flow[None] / 2, torch.full((1, 1, *size), mask), torch.zeros(1, 3, *size))


def test_matches_of_what_leaves_the_picture_are_not_trusted_and_all_else_stays() -> None:
    flow = torch.zeros(1, 2, 40, 48)
    flow[:, 0] = 24.0  # px of the frame, 6 of the flow: the last 6 columns leave a picture of 192 px
    trust = torch.ones(1, 1, 40, 48)
    flow[..., -6:], trust[..., -6:] = -16.0, 0.5  # and match something inside
    flow[..., 10, 10], trust[..., 10, 10] = 0.0, 0.3
    found = distrust_leaving(flow, trust, 4, (160, 192))
    assert (found[..., -6:] < 0.01).all()
    assert torch.equal(found[..., :-6], trust[..., :-6])
    trust[..., -6:] = 1.0  # what both flows and both frames agree on stays: a thing of its own at the border
    assert torch.equal(distrust_leaving(flow, trust, 4, (160, 192)), trust)


def test_where_all_moves_alike_nothing_changes() -> None:
    frame = picture(0)
    found = decided(torch.tensor([7.0, -3.0]).view(2, 1, 1).expand(2, 64, 64))
    assert torch.equal(overlapped(downsample(frame), downsample(picture(1)), found).residual, found.residual)


def test_ground_that_a_passing_square_drags_along_comes_nearer_to_the_truth() -> None:
    """A square passes over still ground by 20 px; its flow covers 8 px of the ground on every side."""
    ground, square = picture(2), picture(3)[..., :40, :40]

    def scene(left: int) -> Tensor:
        image = ground.clone()
        image[..., 44:84, left : left + 40] = square
        return image

    frame0, truth, frame1 = scene(30), scene(40), scene(50)
    flow = torch.zeros(2, 64, 64)
    flow[0, 18:46, 16:44] = 20.0
    found = decided(flow)
    before = compose(frame0, frame1, found)
    after = compose(frame0, frame1, overlapped(downsample(frame0), downsample(frame1), found))
    halo = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    halo[36:92, 32:88] = True
    halo[44:84, 40:80] = False
    error = [(image - truth).square()[..., halo].mean() for image in (before, after)]
    assert error[1] < 0.6 * error[0], error
    inside = [(image - truth).square()[..., 56:72, 52:68].mean() for image in (before, after)]
    assert inside[1] < inside[0] + 1e-4
    assert torch.equal(before[..., :20, :], after[..., :20, :])


def test_swapped_frames_give_the_same_and_samples_of_a_batch_do_not_mix() -> None:
    rng = torch.Generator().manual_seed(0)
    half0, half1 = torch.rand(2, 3, 48, 64, generator=rng), torch.rand(2, 3, 48, 64, generator=rng)
    flows = [20 * torch.randn(2, 2, 48, 64, generator=rng) for _ in range(2)]
    mask, residual = torch.rand(2, 1, 48, 64, generator=rng), torch.rand(2, 3, 48, 64, generator=rng)
    there = overlapped(half0, half1, Intermediate(*flows, mask, residual)).residual
    back = overlapped(half1, half0, Intermediate(*flows[::-1], 1 - mask, residual)).residual
    assert (there - residual).abs().max() > 0.05
    assert (there - back).abs().max() < 1e-5
    alone = overlapped(half0[1:], half1[1:], Intermediate(*(x[1:] for x in (*flows, mask, residual)))).residual
    assert (there[1:] - alone).abs().max() < 1e-6


def test_it_is_done_where_motion_varies_most_and_there_only() -> None:
    frames = [torch.from_numpy(render_scene(t, 256, 256) / np.float32(255)).permute(2, 0, 1)[None] for t in (0.2, 0.3)]
    rng = torch.Generator().manual_seed(0)
    found = decided(30 * torch.randn(2, 128, 128, generator=rng))
    changed = (overlapped(*(downsample(frame) for frame in frames), found).residual != 0).any(1).float().mean()
    assert 0.15 < float(changed) <= synthesis.MOST


def ramp(height: int, width: int) -> Tensor:
    """A slope in x, 1/100 per px."""
    return (torch.arange(width) / 100).expand(1, 3, height, width)


def test_agreeing_frames_are_believed() -> None:
    quarter0 = ramp(16, 24)
    flow = torch.zeros(1, 2, 16, 24)
    flow[:, 0] = 20.0  # 5 px at 1/4, where the picture has become darker by 0.05
    found = confidence(quarter0, quarter0 - 0.05, -0.25 * flow, 0.75 * flow, torch.full((1, 1, 16, 24), 0.5))
    assert found.shape == (1, 1, 16, 24)
    assert found[..., 8:-8].min() == 1


def test_disagreement_counts_where_both_frames_are_mixed() -> None:
    quarter0, quarter1 = torch.zeros(1, 3, 16, 24), torch.ones(1, 3, 16, 24)
    still = torch.zeros(1, 2, 16, 24)
    mask = torch.full((1, 1, 16, 24), 0.5)
    mask[..., 12:] = 1  # the right half comes from frame0 alone
    found = confidence(quarter0, quarter1, still, still, mask)
    assert found[..., :6].max() == 0
    assert found[..., -6:].min() == 1


def test_a_guess_becomes_the_mixture_and_nothing_else_changes() -> None:
    frame0, frame1 = torch.rand(1, 3, 37, 50), torch.rand(1, 3, 37, 50)
    frame = torch.rand(1, 3, 37, 50)
    made = frame.clone()
    sure = torch.ones(1, 1, 10, 13)
    assert torch.equal(fall_back(made, frame0, frame1, T, sure), frame)
    sure[..., 2:, :6] = 0
    found = fall_back(made, frame0, frame1, T, sure)
    assert torch.allclose(found[..., 12:, :20], (0.75 * frame0 + 0.25 * frame1)[..., 12:, :20])
    assert torch.equal(found[..., 28:], frame[..., 28:]) and torch.equal(found[..., :4, :], frame[..., :4, :])


@pytest.mark.parametrize("effort", ["base", "best"])
def test_flow_that_follows_compression_is_dropped_and_faint_motion_is_kept(effort: str) -> None:
    """Optical flow explains what two compressions of one picture make of it a little better than standing still."""
    scene = render_scene(0.2, 384, 288)
    compressed = [
        cv2.imdecode(cv2.imencode(".jpg", np.roll(scene, by, 1), [cv2.IMWRITE_JPEG_QUALITY, 25])[1], cv2.IMREAD_COLOR)
        for by in (0, 3)  # other blocks
    ]
    still = compressed[0], np.roll(compressed[1], -3, 1)
    faint = (scene // 4 + 96).astype(np.uint8)
    panned = faint, np.roll(faint, 3, 1)
    moving = []
    for pictures in (still, panned):
        flows = [torch.from_numpy(flow)[None] for flow in flow_prior(*pictures, effort=effort)]
        smalls = [
            F.avg_pool2d(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255.0, STRIDE[effort])
            for picture in pictures
        ]
        motion, _ = synthesis.check_consistency(flows, *smalls, STRIDE[effort], scene.shape[:2])
        inside = (..., slice(8, -8), slice(8, -8))
        found = flows[0][inside].norm(dim=1) > 0.05
        moving.append(float((motion[inside][:, :2].norm(dim=1) > 0.05)[found].float().mean()))
    assert moving[0] < 0.3 and moving[1] > 0.85

from __future__ import annotations

import numpy as np
import torch

from fpsgan import overlap
from fpsgan.demo import render_scene
from fpsgan.overlap import overlapped
from fpsgan.warp import Fine, compose, halve

SIDE = 128


def picture(seed: int) -> torch.Tensor:
    """[1,3,128,128] of some texture."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.random((1, 3, SIDE // 4, SIDE // 4), np.float32))
    return torch.nn.functional.interpolate(small, scale_factor=4.0, mode="bicubic").clamp(0, 1)


def decided(flow: torch.Tensor, mask: float = 0.5) -> Fine:
    """A constant velocity [2,64,64], px of the frame, seen at t = ½."""
    size = flow.shape[-2:]
    return Fine(-flow[None] / 2, flow[None] / 2, torch.full((1, 1, *size), mask), torch.zeros(1, 3, *size))


def test_where_all_moves_alike_nothing_changes() -> None:
    frame = picture(0)
    fine = decided(torch.tensor([7.0, -3.0]).view(2, 1, 1).expand(2, 64, 64))
    assert torch.equal(overlapped(halve(frame), halve(picture(1)), fine).residual, fine.residual)


def test_ground_that_a_passing_square_drags_along_comes_nearer_to_the_truth() -> None:
    """A square passes over still ground by 20 px; its flow covers 8 px of the ground on every side."""
    ground, square = picture(2), picture(3)[..., :40, :40]

    def scene(left: int) -> torch.Tensor:
        image = ground.clone()
        image[..., 44:84, left : left + 40] = square
        return image

    frame0, truth, frame1 = scene(30), scene(40), scene(50)
    flow = torch.zeros(2, 64, 64)
    flow[0, 18:46, 16:44] = 20.0
    fine = decided(flow)
    before = compose(frame0, frame1, fine)
    after = compose(frame0, frame1, overlapped(halve(frame0), halve(frame1), fine))
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
    there = overlapped(half0, half1, Fine(*flows, mask, residual)).residual
    back = overlapped(half1, half0, Fine(*flows[::-1], 1 - mask, residual)).residual
    assert (there - residual).abs().max() > 0.05
    assert (there - back).abs().max() < 1e-5
    alone = overlapped(half0[1:], half1[1:], Fine(*(x[1:] for x in (*flows, mask, residual)))).residual
    assert (there[1:] - alone).abs().max() < 1e-6


def test_it_is_done_where_motion_varies_most_and_there_only() -> None:
    frames = [torch.from_numpy(render_scene(t, 256, 256) / np.float32(255)).permute(2, 0, 1)[None] for t in (0.2, 0.3)]
    rng = torch.Generator().manual_seed(0)
    fine = decided(30 * torch.randn(2, 128, 128, generator=rng))
    changed = (overlapped(*(halve(frame) for frame in frames), fine).residual != 0).any(1).float().mean()
    assert 0.15 < float(changed) <= overlap.MOST

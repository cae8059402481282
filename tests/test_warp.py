"""Backward warping, against plain arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.warp import warp


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
    warp(frame, flow).square().sum().backward()  # type: ignore[no-untyped-call]
    assert frame.grad is not None and frame.grad.abs().sum() > 0
    assert flow.grad is not None and flow.grad.abs().sum() > 0


@pytest.mark.parametrize("channels", [3, 16])
def test_half_precision_frames_keep_exact_positions(channels: int) -> None:
    frame, flow = smooth(1, channels, 24, 1500), torch.full((1, 2, 24, 1500), 0.25)
    found = warp(frame.bfloat16(), flow)
    assert found.dtype == torch.bfloat16
    # bf16 could not tell column 1400 from 1404
    assert (found.float() - warp(frame, flow)).abs().max() < 0.01

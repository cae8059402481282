"""Backward warping: both paths agree with each other and with plain arithmetic."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.warp import Fine, around, cast, compose, halve, pad, quads, twice, warp


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


@pytest.mark.parametrize("channels", [1, 3])
def test_the_opencv_path_equals_the_torch_path(channels: int) -> None:
    frame, flow = smooth(2, channels, 37, 53), 30.0 * (smooth(2, 2, 37, 53, seed=1) - 0.5)
    by_opencv = warp(frame, flow)
    by_torch = warp(frame, flow.clone().requires_grad_()).detach()
    # 1/32 px, where this OpenCV rounds positions, times the steepest slope of this picture
    assert (by_opencv - by_torch).abs().max() < 0.01
    assert (by_opencv - by_torch).abs().mean() < 1e-3


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


@pytest.mark.parametrize("size", [(37, 53), (72, 96)])
def test_what_opencv_does_to_whole_frames_equals_torch(size: tuple[int, int]) -> None:
    frame = smooth(2, 3, *size)
    for made in (halve, twice, partial(pad, multiple=16), partial(around, side=5)):
        by_torch = made(frame.clone().requires_grad_()).detach()
        assert (made(frame) - by_torch).abs().max() < 1e-5
        assert (made(quads(frame)) - by_torch).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(37, 53), (150, 96)])  # the taller one in several strips
def test_frames_are_composed_alike_by_opencv_and_torch(size: tuple[int, int]) -> None:
    frame0, frame1 = smooth(2, 3, *size), smooth(2, 3, *size, seed=1)
    half = (-(-size[0] // 2) + 3, -(-size[1] // 2) + 5)  # padded, as the network's
    flow0, flow1 = (8.0 * (smooth(2, 2, *half, seed=k) - 0.5) for k in (2, 3))
    fine = Fine(flow0, flow1, smooth(2, 1, *half, seed=4), 0.1 * smooth(2, 3, *half, seed=5))
    by_torch = compose(frame0, frame1, fine._replace(flow_t0=flow0.clone().requires_grad_())).detach()
    for pair in ((frame0, frame1), (quads(frame0), quads(frame1))):
        assert (compose(*pair, fine) - by_torch).abs().max() < 0.01
        assert (compose(*pair, fine) - by_torch).abs().mean() < 1e-3


def test_a_cast_takes_the_fourth_channel_along_and_hides_it() -> None:
    frame = smooth(2, 3, 8, 12)
    for given in (frame, quads(frame), quads(frame)[..., 2:, 4:]):
        assert torch.equal(cast(given, torch.bfloat16), given.bfloat16())

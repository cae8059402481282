"""Believed where both frames agree or one is enough; where not, the frames as they rest."""

from __future__ import annotations

import torch
from torch import Tensor

from fpsgan.confidence import confidence, fall_back

T = torch.tensor([0.25])


def ramp(height: int, width: int) -> Tensor:
    """A slope in x, 1/100 per px."""
    return (torch.arange(width) / 100).expand(1, 3, height, width)


def flows(height: int, width: int, motion: float, scale: int = 1) -> tuple[Tensor, Tensor]:
    """From the frame at ¼ to both frames, of a picture that moves right by ``motion``."""
    flow = torch.zeros(1, 2, height // scale, width // scale)
    flow[:, 0] = motion
    return -0.25 * flow, 0.75 * flow


def test_agreeing_frames_are_believed_at_any_resolution_of_the_flow() -> None:
    frame0 = ramp(64, 96)
    for scale in (1, 2):
        flow0, flow1 = flows(64, 96, 20, scale)
        found = confidence(frame0, frame0 - 0.2, flow0, flow1, torch.full_like(flow0[:, :1], 0.5))
        assert found.shape == (1, 1, 16, 24)
        assert found[..., 8:-8].min() == 1


def test_disagreement_counts_where_both_frames_are_mixed() -> None:
    frame0, frame1 = torch.zeros(1, 3, 64, 96), torch.ones(1, 3, 64, 96)
    still = torch.zeros(1, 2, 64, 96)
    mask = torch.full((1, 1, 64, 96), 0.5)
    mask[..., 48:] = 1  # the right half comes from frame0 alone
    found = confidence(frame0, frame1, still, still, mask)
    assert found[..., :6].max() == 0
    assert found[..., -6:].min() == 1


def test_a_guess_becomes_the_mixture_and_nothing_else_changes() -> None:
    frame0, frame1 = torch.rand(1, 3, 37, 50), torch.rand(1, 3, 37, 50)
    frame = torch.rand(1, 3, 37, 50)
    sure = torch.ones(1, 1, 10, 13)
    assert torch.equal(fall_back(frame, frame0, frame1, T, sure), frame)
    sure[..., :6] = 0
    found = fall_back(frame, frame0, frame1, T, sure)
    assert torch.allclose(found[..., :20], (0.75 * frame0 + 0.25 * frame1)[..., :20])
    assert torch.allclose(found[..., 28:], frame[..., 28:])

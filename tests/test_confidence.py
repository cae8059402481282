"""Believed where both frames agree or one is enough; where not, the frames as they rest."""

from __future__ import annotations

import torch
from torch import Tensor

from fpsgan.confidence import confidence, fall_back

T = torch.tensor([0.25])


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

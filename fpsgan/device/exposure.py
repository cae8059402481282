"""Fades and flashes in torch, batched: `fpsgan.stages.exposure`, equal to it in tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fpsgan.stages.exposure import LEAST_CHANGE, LEFT_IN_PLACE, LEFT_SORTED, MOST_GAIN

__all__ = ["Exposure", "area_resized", "exposure_change"]


class Exposure(NamedTuple):
    """Of B pairs: frame1 = gain · frame0 + offset, apart from motion; 1 and 0 where exposure does not change."""

    gain: Tensor  # [B,1,1,1]
    offset: Tensor

    @property
    def best(self) -> Tensor:
        """0 or 1: the frame with more contrast, in whose exposure motion is estimated."""
        return (self.gain > 1).float()

    def select(self, index: Tensor) -> Exposure:
        """The pairs at these indices, [N] int64."""
        return Exposure(self.gain.index_select(0, index), self.offset.index_select(0, index))

    def move(self, picture: Tensor, time0: Tensor | float, time1: Tensor | float) -> Tensor:
        """Pictures [B,C,H,W] 0..1 in the exposure of time0, brought to that of time1; times [B,1,1,1], 0 to 1."""
        gain0, gain1 = (1 + (self.gain - 1) * t for t in (time0, time1))
        return picture * (gain1 / gain0) + self.offset * (time1 - time0 * gain1 / gain0)


def exposure_change(luma0: Tensor, luma1: Tensor) -> Exposure:
    """The changes of exposure between pictures [B,1,H,W], 0..255; see `fpsgan.stages.exposure.exposure_change`."""
    sorted0, sorted1 = (
        area_resized(luma, 128, 128).round().flatten(1).sort(1).values[:, 32::64] for luma in (luma0, luma1)
    )
    gain = (sorted1.std(1, correction=0) + 1e-3) / (sorted0.std(1, correction=0) + 1e-3)
    offset = sorted1.mean(1) - gain * sorted0.mean(1)
    there = ((sorted1 - sorted0).abs().mean(1) >= LEAST_CHANGE) & (gain >= 1 / MOST_GAIN) & (gain <= MOST_GAIN)
    places0, places1 = (area_resized(luma, 9, 16).round().flatten(1) for luma in (luma0, luma1))
    for before, after, left in ((sorted0, sorted1, LEFT_SORTED), (places0, places1, LEFT_IN_PLACE)):
        unexplained = (after - (gain[:, None] * before + offset[:, None])).abs().mean(1) / gain.clamp(min=1.0)
        there = there & (unexplained <= left * (after - before).abs().mean(1))
    gain, offset = torch.where(there, gain, 1.0), torch.where(there, offset / 255, 0.0)
    return Exposure(gain.view(-1, 1, 1, 1), offset.view(-1, 1, 1, 1))


def area_resized(x: Tensor, height: int, width: int) -> Tensor:
    """[B,C,H,W] → [B,C,height,width]: each pixel the mean of the area that it covers."""
    return _coverage(x.shape[-2], height, x.device) @ x @ _coverage(x.shape[-1], width, x.device).T


def _coverage(size: int, target: int, device: torch.device) -> Tensor:
    """[target,size]: the share of each target pixel that each pixel covers."""
    scale = size / target
    begin, pixel = torch.arange(target, device=device)[:, None] * scale, torch.arange(size, device=device)
    covered = torch.minimum(begin + scale, pixel + 1) - torch.maximum(begin, pixel)
    return covered.clamp(min=0) / scale

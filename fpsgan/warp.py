"""Backward warping, and the few other things that are done to whole frames.

Plain torch, on any device and with gradients. `fpsgan.fast` does the same on a CPU, several times faster.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Fine", "around", "compose", "halve", "pad", "twice", "warp"]


class Fine(NamedTuple):
    """What `compose` makes a frame of, fp32 at half its size, or padded to more."""

    flow_t0: Tensor  # [B,2,h,w] from the frame at t to frame0, in pixels of the frames
    flow_t1: Tensor  # [B,2,h,w] from the frame at t to frame1
    mask: Tensor  # [B,1,h,w] the weight of the warped frame0, 0..1
    residual: Tensor  # [B,3,h,w]


def warp(frame: Tensor, flow: Tensor) -> Tensor:
    """Samples frame at x + flow(x), bilinearly; outside the frame its border pixels go on.

    Args:
        frame: [B,C,H,W], any floating dtype and range.
        flow: [B,2,H,W], (x, y) in pixels of this frame.

    Returns:
        [B,C,H,W] in frame's dtype. The arithmetic is fp32 whatever the dtypes: bf16 has 8 bits, too few for a
        coordinate on a 720p frame.
    """
    height, width = frame.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    # grid_sample with align_corners=False puts pixel i's centre at (2i + 1) / size - 1
    grid_x = (2.0 * (x + flow[:, 0].float()) + 1.0) / width - 1.0
    grid_y = (2.0 * (y[:, None] + flow[:, 1].float()) + 1.0) / height - 1.0
    grid = torch.stack((grid_x, grid_y), dim=-1)
    warped = F.grid_sample(frame.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.to(frame.dtype)


def compose(frame0: Tensor, frame1: Tensor, fine: Fine) -> Tensor:
    """Two warps at full size, blended, and a residual: of two [B,3,H,W] one, in frame0's dtype, not clamped."""
    height, width = frame0.shape[-2:]
    flow0, flow1, mask, residual = (twice(x)[..., :height, :width] for x in fine)
    frame = torch.lerp(warp(frame1.float(), flow1), warp(frame0.float(), flow0), mask) + residual
    return frame.to(frame0.dtype)


def halve(x: Tensor) -> Tensor:
    """The mean of 2×2 pixels, in fp32: [B,C,H,W] to [B,C,⌈H/2⌉,⌈W/2⌉]; an odd last row or column counts twice."""
    return F.avg_pool2d(pad(x.float(), 2), 2)


def twice(x: Tensor) -> Tensor:
    """Bilinearly to double the size: [B,C,h,w] to [B,C,2h,2w], in x's dtype."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def around(x: Tensor, side: int) -> Tensor:
    """The mean over side × side pixels (odd) around each, without what is outside of the picture: [B,C,H,W]."""
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)


def pad(x: Tensor, multiple: int) -> Tensor:
    """Below and to the right, by repeating the border, to sides that are multiples of `multiple`."""
    bottom, right = (-size % multiple for size in x.shape[-2:])
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x

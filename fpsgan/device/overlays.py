"""Logos, subtitles and displays in torch, batched: `fpsgan.stages.overlays`, equal to it in tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.device.exposure import area_resized
from fpsgan.stages.overlays import EDGE, ONE_WAY, REACH, STILL_FOR, TEXTURE

__all__ = ["overlays"]


def overlays(
    luma0: Tensor, luma1: Tensor, begins: Sequence[bool], since: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The overlays of consecutive pairs.

    Args:
        luma0, luma1: [B,1,H,W], whole numbers 0..255.
        begins: for each pair, whether a scene begins with it.
        since: what the last call returned; None at the beginning.

    Returns:
        Opacity [B,1,H,W], 0..1, and for how many pairs each pixel has not changed, [1,1,H,W].
    """
    change = (luma0 - luma1).abs()
    contrast0, contrast1 = _contrast(luma0), _contrast(luma1)
    least, most = torch.minimum(contrast0, contrast1), torch.maximum(contrast0, contrast1)
    # an edge that moves by d px changes its pixels by about d/2 of its contrast
    still = change <= (0.1 * least + 3).round()
    moves = (change > (0.2 * most + 2).round()) & (most >= TEXTURE)
    rests = still & (least >= TEXTURE)
    counted = []
    count = torch.zeros_like(change[:1]) if since is None else since
    for k, begin in enumerate(begins):
        count = ((0 if begin else count) + still.new_ones((), dtype=torch.float32)) * still[k : k + 1]
        counted.append(count)
    lasting = torch.cat(counted) >= STILL_FOR
    edges = lasting & (least >= EDGE) & _in_motion(moves, rests)
    edges = edges & _both_ways(edges, luma1)
    near = F.max_pool2d(edges.float(), 2 * REACH + 1, 1, REACH)
    mask = F.max_pool2d(near * lasting, 3, 1, 1)
    mask = -F.max_pool2d(-mask, 3, 1, 1)
    return (_blur(255 * mask, 3).round() / 255), count.clamp(max=255)


def _contrast(luma: Tensor) -> Tensor:
    return F.max_pool2d(luma, 3, 1, 1) + F.max_pool2d(-luma, 3, 1, 1)


def _in_motion(moves: Tensor, rests: Tensor) -> Tensor:
    """[B,1,H,W]: where most of the texture moves, in a window a third of the picture wide, or in all of it."""
    height, width = moves.shape[-2:]
    small = -(-height // 8), -(-width // 8)
    moving, resting = (area_resized(255.0 * x, *small).round() for x in (moves, rests))
    everywhere = moving.mean((2, 3), keepdim=True) > resting.mean((2, 3), keepdim=True) + 2
    window = max(3, min(small) // 3)
    here = (_blur(moving, window) > _blur(resting, window) + 2).float()
    return everywhere | (F.interpolate(here, size=(height, width)) > 0)


def _both_ways(edges: Tensor, luma: Tensor) -> Tensor:
    """[B,1,H,W]: where edges in a window of 28 px have more than one direction (the structure tensor's eigenvalues)."""
    height, width = luma.shape[-2:]
    padded = F.pad(luma, (1, 1, 1, 1), mode="reflect")
    rows, columns = padded[..., 2:, :] - padded[..., :-2, :], padded[..., 2:] - padded[..., :-2]
    across = (columns[..., :-2, :] + 2 * columns[..., 1:-1, :] + columns[..., 2:, :]) * edges
    down = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) * edges
    products = torch.cat((across * across, down * down, across * down), 1)
    xx, yy, xy = _blur(area_resized(products, -(-height // 4), -(-width // 4)), 7).chunk(3, 1)
    half, spread = (xx + yy) / 2, torch.hypot((xx - yy) / 2, xy)
    found = (half - spread > ONE_WAY * (half + spread)).float()
    return F.interpolate(found, size=(height, width)) > 0


def _blur(x: Tensor, side: int) -> Tensor:
    """The mean over side × side pixels, mirrored at the border; even windows extend one pixel more to the left."""
    before, after = side // 2, side - 1 - side // 2
    mode = "reflect" if min(x.shape[-2:]) > before else "replicate"
    return F.avg_pool2d(F.pad(x, (before, after, before, after), mode=mode), side, 1)

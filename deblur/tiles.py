"""A network run on pictures of any size: on its device, in tiles where the memory asks for them.

Overlapping tiles are blended by linear ramps, so that no seam shows. Where memory runs out the tile is halved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "OVERLAP",
    "SMALLEST_TILE",
    "OutOfMemory",
    "Runner",
    "TileError",
    "blend_tiles",
    "out_of_memory",
    "picture_of",
    "tile_spans",
]

Picture = NDArray[np.float32]
R = TypeVar("R")

OVERLAP = 64  # pixels that neighbouring tiles share; their weights fall linearly across it
SMALLEST_TILE = 192
STEP = 4  # px: tiles begin at multiples of it, for networks that look at pictures a quarter the size


class OutOfMemory(MemoryError):
    """A picture does not fit in the device's memory even in the smallest tiles."""


class TileError(ValueError):
    """A tile size that cannot be."""


class Runner:
    """A network on its device, with the tile size in px that it has learnt to use (0: the whole picture).

    TileError for a tile below SMALLEST_TILE.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, tile: int = 0) -> None:
        if tile and tile < SMALLEST_TILE:
            raise TileError(f"tile {tile}: must be 0 (whole frames) or at least {SMALLEST_TILE}")
        to: Callable[..., nn.Module] = network.to  # torch's types leave the memory format out
        self.network = to(device=device, dtype=dtype, memory_format=torch.channels_last).eval()
        self.device, self.dtype, self.tile = device, dtype, tile

    def tensor(self, picture: Picture) -> Tensor:
        """A picture [H,W,C] as [1,C,H,W] on the device."""
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).to(self.device, non_blocking=True)
        return tensor.permute(2, 0, 1).unsqueeze(0)

    def within_memory(self, run: Callable[[], R], height: int, width: int) -> R:
        """What `run` returns; where memory runs out, the tile is halved and it runs again, down to SMALLEST_TILE.

        height, width: of the whole picture in px. OutOfMemory where the smallest tiles do not fit either.
        """
        while True:
            try:
                return run()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            tile = max(SMALLEST_TILE, -(-(self.tile or max(height, width)) // 2 // 32) * 32)
            if tile == self.tile or max(height, width) <= tile:
                where = f"the memory of {self.device} even in tiles of {SMALLEST_TILE}"
                raise OutOfMemory(f"{width}×{height} frames do not fit in {where}")
            self.tile = tile


def out_of_memory(error: Exception) -> bool:
    """Whether it says that memory ran out: torch has no class of its own for that on a CPU."""
    text = str(error).lower()
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in text or "out of memory" in text


def tile_spans(size: int, tile: int) -> list[tuple[int, int]]:
    """(begin, end) of the tiles along one side: all ``tile`` long, begins at multiples of STEP, sharing ≥ OVERLAP."""
    if not tile or tile >= size:
        return [(0, size)]
    count = -(-(size - OVERLAP) // (tile - OVERLAP))
    last = size - tile
    begins = [last * k // (count - 1) // STEP * STEP for k in range(count - 1)]
    return [(begin, begin + tile) for begin in begins] + [(last // STEP * STEP, size)]


def blend_tiles(
    height: int, width: int, tile: int, channels: Sequence[int], run: Callable[[slice, slice], Tensor]
) -> Tensor:
    """Put a picture together from ``run(rows, columns)`` → [B,C,h,w] over overlapping tiles, weighted by linear ramps.

    ``channels``: (B, C). Returns [B,C,height,width] float32.
    """
    total: Tensor | None = None
    weights: Tensor | None = None
    for top, bottom in tile_spans(height, tile):
        for left, right in tile_spans(width, tile):
            part = run(slice(top, bottom), slice(left, right)).float()
            if (bottom - top, right - left) == (height, width):
                return part
            if total is None or weights is None:
                total = torch.zeros(*channels, height, width, device=part.device)
                weights = torch.zeros(1, 1, height, width, device=part.device)
            ramp = _ramp(top, bottom, height, part.device)[:, None] * _ramp(left, right, width, part.device)
            total[:, :, top:bottom, left:right] += part * ramp
            weights[:, :, top:bottom, left:right] += ramp
    assert total is not None and weights is not None
    return total / weights


def _ramp(begin: int, end: int, size: int, device: torch.device) -> Tensor:
    inside = torch.arange(end - begin, device=device, dtype=torch.float32)
    up = (inside + 1) / OVERLAP if begin > 0 else torch.ones_like(inside)
    down = (end - begin - inside) / OVERLAP if end < size else torch.ones_like(inside)
    return torch.minimum(up, down).clamp(max=1)


def picture_of(tensor: Tensor) -> Picture:
    """A tensor [C,H,W] as a picture [H,W,C] in main memory."""
    return np.ascontiguousarray(tensor.permute(1, 2, 0).cpu().numpy())

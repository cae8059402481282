"""Running the networks on the machine at hand: device, precision, memory.

The networks take any size themselves; here numpy pictures become tensors on the device, frames that do not fit are
cut into overlapping tiles whose seams are blended away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.fast import FastDeblur
from deblur.fpn import MINIMUM, Deblur
from deblur.shake import Undone, doubts, undo_shake
from fpsgan.errors import OptionError, SetupError

__all__ = ["DeblurRunner", "at_once", "pick_device", "pick_dtype", "sharing_cores"]

Array = NDArray[np.uint8]
Picture = NDArray[np.float32]
R = TypeVar("R")

OVERLAP = 64  # pixels that neighbouring tiles share; their weights fall linearly across it
SMALLEST_TILE = 192
ALIGNED = 4  # tiles begin at multiples of so many pixels: confidence and flow have one value for as many
BLACK = 4 / 255  # in a bar, as compression leaves it
IN_FLIGHT = 2**23  # pixels of all frames that a CPU works on at a time; each takes some 200 bytes


def pick_device(name: str = "auto") -> torch.device:
    """The torch device called ``name`` ("cpu", "cuda", "cuda:1", "mps", "xpu"), or the best one there is for "auto".

    Raises SetupError if this machine, or this build of torch, does not have it.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"--device {name}: unknown; known are auto, {', '.join(available)}") from error
    there = available.get(device.type, False)
    if there and device.type == "cuda" and device.index is not None:
        there = device.index < torch.cuda.device_count()
    if not there:
        found = ", ".join(kind for kind, there in available.items() if there)
        raise SetupError(f"--device {name}: not there; this machine and torch {torch.__version__} have {found}")
    return device


def pick_dtype(device: torch.device, half: bool | None) -> torch.dtype:
    """Precision of the networks: fp32, or with ``half`` fp16 on a GPU and bf16 on a CPU. None: half on a GPU, and on
    a CPU whose matrix unit (AMX) makes bf16 the faster one."""
    if half is None:
        half = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
    if not half:
        return torch.float32
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def at_once(device: torch.device, pixels: int) -> int:
    """How many frames of so many pixels to work on at a time: on a CPU one a core, as far as memory goes."""
    return max(1, min(torch.get_num_threads(), IN_FLIGHT // pixels)) if device.type == "cpu" else 1


@contextmanager
def sharing_cores(workers: int) -> Iterator[None]:
    """While so many threads run networks at once: each gets its share of the cores that one would use."""
    threads, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(max(1, threads // workers))
    cv2.setNumThreads(max(1, of_opencv // workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(of_opencv)


class _Runner:
    """A network on its device, with the tile size it has learnt to use (0: the whole picture)."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, tile: int = 0) -> None:
        if tile and tile < SMALLEST_TILE:
            raise OptionError(f"--tile {tile}: must be 0 (whole frames) or at least {SMALLEST_TILE}")
        self.network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.device, self.dtype, self.tile = device, dtype, tile

    def _tensor(self, picture: Picture) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).to(self.device, non_blocking=True)
        return tensor.permute(2, 0, 1).unsqueeze(0)

    def _within_memory(self, run: Callable[[], R], height: int, width: int) -> R:
        """Run; where memory runs out, halve the tile and run again, down to SMALLEST_TILE."""
        while True:
            try:
                return run()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not _out_of_memory(error):
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            tile = max(SMALLEST_TILE, -(-(self.tile or max(height, width)) // 2 // 32) * 32)
            if tile == self.tile or max(height, width) <= tile:
                raise SetupError(
                    f"{width}×{height} frames do not fit in the memory of {self.device} even in tiles of "
                    f"{SMALLEST_TILE}; close other programs or use --device cpu"
                )
            self.tile = tile


def _out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text


def tile_spans(size: int, tile: int) -> list[tuple[int, int]]:
    """(begin, end) of the tiles along one side: all ``tile`` long, begins at multiples of 4, sharing ≥ OVERLAP."""
    if not tile or tile >= size:
        return [(0, size)]
    count = -(-(size - OVERLAP) // (tile - OVERLAP))
    last = size - tile
    begins = [last * k // (count - 1) // ALIGNED * ALIGNED for k in range(count - 1)]
    return [(begin, begin + tile) for begin in begins] + [(last // ALIGNED * ALIGNED, size)]


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


def _picture(tensor: Tensor) -> Picture:
    return np.ascontiguousarray(tensor.permute(1, 2, 0).cpu().numpy())


class DeblurRunner(_Runner):
    """Pictures [H, W, 3] in, sharper pictures of the same size out.

    Weights that want it get the picture with its camera shake undone (deblur.shake), which takes a second for each
    and more for large ones; ``quick`` leaves that out.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, dtype: torch.dtype, tile: int = 0, *, quick: bool = False
    ) -> None:
        self.undoes_shake = isinstance(network, Deblur) and network.config.undo_shake and not quick
        if isinstance(network, Deblur) and network.config.norm == "running":
            network = FastDeblur(network)
        else:
            dtype = torch.float32  # statistics of a whole picture need it
        super().__init__(network, device, dtype, tile)

    def doubts(self, picture: Picture) -> Picture | None:
        """`deblur.shake.doubts` of what a picture shows inside of black bars; None where no shake will be undone."""
        inside = _inside_bars(picture)
        return doubts(picture[inside]) if self.undoes_shake and picture[inside].size else None

    @torch.inference_mode()
    def sharpen(
        self, picture: Picture, strength: float = 1.0, *, cautious: bool = False, gamma: float | None = None
    ) -> Picture:
        """``strength``: 0 returns the picture, 1 the network's result, or where a shake was undone that share of it
        which is best; between them the mixture. ``cautious``: weights that want the shake undone leave a picture alone
        in which none is found; they did more harm than good there. ``gamma``: as for `deblur.shake.undo_shake`.

        What the network changes is added to the picture as it came: values outside 0..1 stay, and a precision of the
        network that is lower than the picture's concerns the change alone. The mean of each channel stays the same, by
        a factor on all (black stays black): a sharpened frame among untouched ones has their colour. Black bars, as of
        a letterbox, are left out of it all: they are not blurred, and their sharp edges would ring.

        A picture that is left alone, or black, comes back itself, not as a copy.
        """
        inside = _inside_bars(picture)
        if min(side.stop - side.start for side in inside) < MINIMUM:
            return picture
        shown = picture[inside]
        undone = undo_shake(shown, gamma) if self.undoes_shake else Undone(shown, 1.0)
        if undone is None and cautious:
            return picture
        start, share = undone or Undone(shown, 1.0)
        sharpened = picture.copy()
        sharpened[inside] = self._sharpen(shown, start, strength * share)
        return sharpened

    def _sharpen(self, picture: Picture, start: Picture, strength: float) -> Picture:
        height, width = picture.shape[:2]

        def run() -> Picture:
            whole = self._tensor(picture).float()
            given = whole if start is picture else self._tensor(start)
            result = blend_tiles(
                height, width, self.tile, (1, 3), lambda rows, columns: self.network(given[:, :, rows, columns])
            )
            change = result - whole.clamp(0, 1)
            level, drift = (part.mean((2, 3), keepdim=True) for part in (result, change))
            change -= result * (drift / level.clamp(min=1 / 255))
            return _picture((whole + strength * change)[0])

        return self._within_memory(run, height, width)


def _inside_bars(picture: Picture) -> tuple[slice, slice]:
    """Rows and columns of a picture [H, W, 3] without black bars around it; both empty where all is black."""
    left, top, width, height = cv2.boundingRect((picture.max(axis=2) > BLACK).astype(np.uint8))
    return slice(top, top + height), slice(left, left + width)

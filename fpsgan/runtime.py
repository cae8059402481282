"""The machine at hand: device, precision, how many frames in parallel, and errors for when memory runs out.

What runs the networks is in `deblur` and `fpsgan.interpolator`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

from deblur.tiles import TileError
from fpsgan.errors import OptionError, SetupError

__all__ = ["at_once", "library_errors", "memory", "pick_device", "pick_dtype", "sharing_cores"]

IN_FLIGHT = 2**23  # pixels of all frames that a CPU works on in parallel; each takes some 200 bytes


def pick_device(name: str = "auto") -> torch.device:
    """The torch device called ``name`` ("cpu", "cuda", "cuda:1", "mps", "xpu"), or for "auto" the best one here.

    Raises OptionError for an unknown name, SetupError if this machine, or this build of torch, does not have it.
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
    a CPU with a matrix unit (AMX), on which bf16 is faster."""
    if half is None:
        half = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
    if not half:
        return torch.float32
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def memory(device: torch.device) -> int | None:
    """Total memory of a device in bytes; None where the system does not say (Windows, for a CPU)."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "xpu":
        return int(torch.xpu.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


def at_once(device: torch.device, pixels: int) -> int:
    """How many frames of so many pixels to process in parallel: on a CPU one per core, as far as memory allows."""
    return max(1, min(torch.get_num_threads(), IN_FLIGHT // pixels)) if device.type == "cpu" else 1


@contextmanager
def sharing_cores(workers: int) -> Iterator[None]:
    """While this many threads run networks at once, each gets its share of the cores that one would use."""
    threads, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(max(1, threads // workers))
    cv2.setNumThreads(max(1, of_opencv // workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(of_opencv)


@contextmanager
def library_errors() -> Iterator[None]:
    """Turns what deblur, numpy and torch raise for lack of memory, or for too small a tile, into errors for users.

    Around a block, or as a decorator on every call that runs networks.
    """
    try:
        yield
    except TileError as error:
        raise OptionError(f"--{error}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise SetupError(f"{str(error) or 'out of memory'}; close other programs or use --device cpu") from error

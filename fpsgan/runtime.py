"""The machine at hand: device, precision, how many frames at once, and what is said when it is too small.

Tiles, and what runs deblurring, are in `deblur`. The interpolator's runner keeps what one pair has computed for the
next.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deblur.tiles import Runner, TileError, blend_tiles, picture_of
from fpsgan.confidence import enlarged
from fpsgan.errors import OptionError, SetupError
from fpsgan.fast import FastInterpolator
from fpsgan.interpolator import Interpolator
from fpsgan.prior import flow_prior

__all__ = ["InterpolatorRunner", "at_once", "library_errors", "pick_device", "pick_dtype", "sharing_cores"]

Array = NDArray[np.uint8]
Picture = NDArray[np.float32]
Encoded = tuple[Tensor, Any]  # a picture on the device, and what the network makes of it as a whole

IN_FLIGHT = 2**23  # pixels of all frames that a CPU works on at a time; each takes some 200 bytes
BATCH = 4  # timesteps of one pair that a GPU computes together


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


@contextmanager
def library_errors() -> Iterator[None]:
    """What deblur, numpy and torch raise for lack of memory, or a tile that is too small, as errors for people.

    Around a block, or as a decorator on every call that runs networks.
    """
    try:
        yield
    except TileError as error:
        raise OptionError(f"--{error}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise SetupError(f"{str(error) or 'out of memory'}; close other programs or use --device cpu") from error


class InterpolatorRunner(Runner):
    """Pictures between two pictures. What was computed for frame1 alone is kept: it is the next pair's frame0.

    So many threads as there are ``workers`` may ask at once, for pairs that follow one another.
    """

    def __init__(
        self, network: Interpolator, device: torch.device, dtype: torch.dtype, tile: int = 0, workers: int = 1
    ) -> None:
        super().__init__(network, device, dtype, tile)
        self.interpolator, self.workers = network, workers
        self.model = FastInterpolator(network) if device.type == "cpu" else network
        self._kept: list[tuple[Picture, bool, Future[Encoded]]] = []
        self._lock = threading.Lock()

    def prior(self, frame0: Array, frame1: Array) -> tuple[Picture, Picture]:
        """The flow prior that these weights go with, of uint8 frames; for another thread than the network's."""
        return flow_prior(frame0, frame1, effort=self.interpolator.config.prior)

    @torch.inference_mode()
    def between(
        self,
        frame0: Picture,
        frame1: Picture,
        times: Sequence[float],
        prior: Sequence[NDArray[np.float32]],
        sure: list[Picture] | None = None,
    ) -> list[Picture]:
        """The pictures at ``times``, each in (0, 1), between two pictures [H, W, 3]; ``prior`` from ``flow_prior``
        or ``with_acceleration``.

        Where fpsgan.confidence finds a picture to be a guess it is the mixture of both. A list ``sure`` receives the
        confidence of each, [H, W, 1], 0 (a guess) to 1.
        """
        height, width = frame0.shape[:2]
        channels = 3 if sure is None else 4

        def run() -> list[Picture]:
            whole = not self.tile or self.tile >= max(height, width)
            stride = self.interpolator.config.stride
            tensor0, features0 = self._encoded(frame0, whole)
            tensor1, features1 = self._encoded(frame1, whole)
            flows = [torch.from_numpy(flow).to(self.device).unsqueeze(0) for flow in prior]
            pairs: dict[tuple[int, int], Any] = {}

            def tile(rows: slice, columns: slice, t: Tensor) -> Tensor:
                part0, part1 = (tensor[:, :, rows, columns] for tensor in (tensor0, tensor1))
                place = (rows.start, columns.start)
                if place not in pairs:
                    pairs.clear()  # one at a time: where there are tiles, memory is short
                    small = [flow[:, :, _cells(rows, stride), _cells(columns, stride)] for flow in flows]
                    pairs[place] = self.model.prepare(part0, part1, small, features0, features1)
                frame, believed = self.model.generate(part0, part1, pairs[place], t)
                return frame if sure is None else torch.cat((frame, enlarged(believed, frame)), dim=1)

            results: list[Picture] = []
            # a GPU fills up with several t at once; a CPU is full with one
            size = 1 if isinstance(self.model, FastInterpolator) else BATCH
            for t in torch.split(torch.tensor([float(time) for time in times], device=self.device), size):
                done = blend_tiles(height, width, self.tile, (len(t), channels), partial(tile, t=t))
                results += [picture_of(picture) for picture in done]
            if sure is not None:
                sure[:] = [picture[..., 3:] for picture in results]
            return [picture[..., :3] for picture in results]

        return self.within_memory(run, height, width)

    def _encoded(self, frame: Picture, whole: bool) -> Encoded:
        with self._lock:
            known = next((found for kept, how, found in self._kept if kept is frame and how == whole), None)
            found: Future[Encoded] = known or Future()
            if known is None:
                self._kept = [*self._kept, (frame, whole, found)][-self.workers :]
        if known is None:
            try:
                tensor = self.tensor(frame)
                found.set_result((tensor, self.model.encode(tensor) if whole else None))
            except BaseException as error:  # noqa: BLE001 (raised below)
                with self._lock:
                    self._kept = [kept for kept in self._kept if kept[2] is not found]
                found.set_exception(error)
        return found.result()


def _cells(span: slice, stride: int) -> slice:
    """Of the prior, for a span of the frame."""
    return slice(span.start // stride, -(-span.stop // stride))

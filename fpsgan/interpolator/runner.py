"""Pictures in, pictures between them out: the interpolator on the machine at hand.

What was computed for one frame is cached for the next pair, a GPU computes several moments at once, and frames that do
not fit in memory are cut into tiles.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deblur.tiles import Runner, blend_tiles, picture_of
from fpsgan.interpolator.cpu import CpuInterpolator
from fpsgan.interpolator.cpu_flow import flow_prior
from fpsgan.interpolator.network import Interpolator
from fpsgan.interpolator.synthesis import enlarge

__all__ = ["InterpolatorRunner"]

Picture = NDArray[np.float32]
Encoded = tuple[Tensor, Any]  # a picture on the device, and what the network makes of it as a whole

BATCH = 4  # moments of one pair that a GPU computes together


class InterpolatorRunner(Runner):
    """Pictures between two pictures. What was computed for frame1 alone is cached: it is the next pair's frame0.

    As many threads as there are ``workers`` may call this at once, for consecutive pairs.
    """

    def __init__(
        self, network: Interpolator, device: torch.device, dtype: torch.dtype, tile: int = 0, workers: int = 1
    ) -> None:
        super().__init__(network, device, dtype, tile)
        self.interpolator, self.workers = network, workers
        self.model = CpuInterpolator(network) if device.type == "cpu" else network
        self._kept: list[tuple[Picture, bool, Future[Encoded]]] = []
        self._lock = threading.Lock()

    def prior(self, frame0: NDArray[np.uint8], frame1: NDArray[np.uint8]) -> tuple[Picture, Picture]:
        """The optical flow that these weights expect, of uint8 frames; may run in another thread than the network."""
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

        Where the confidence is low a picture becomes a blend of both. A list ``sure`` receives the confidence of each,
        [H, W, 1], 0 (a guess) to 1.
        """
        height, width = frame0.shape[:2]
        channels = 3 if sure is None else 4

        def run() -> list[Picture]:
            whole = not self.tile or self.tile >= max(height, width)
            stride = self.interpolator.config.stride
            tensor0, encoded0 = self._encoded(frame0, whole)
            tensor1, encoded1 = self._encoded(frame1, whole)
            flows = [torch.from_numpy(flow).to(self.device).unsqueeze(0) for flow in prior]
            pairs: dict[tuple[int, int], Any] = {}

            def tile(rows: slice, columns: slice, t: Tensor) -> Tensor:
                part0, part1 = (tensor[:, :, rows, columns] for tensor in (tensor0, tensor1))
                place = (rows.start, columns.start)
                if place not in pairs:
                    pairs.clear()  # one at a time: tiles mean that memory is short
                    small = [flow[:, :, _cells(rows, stride), _cells(columns, stride)] for flow in flows]
                    pairs[place] = self.model.prepare(part0, part1, small, encoded0, encoded1)
                frame, believed = self.model.generate(part0, part1, pairs[place], t)
                return frame if sure is None else torch.cat((frame, enlarge(believed, frame)), dim=1)

            results: list[Picture] = []
            # several t keep a GPU busy; one is enough for a CPU
            size = 1 if isinstance(self.model, CpuInterpolator) else BATCH
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
    """The part of the flow for a span of the frame."""
    return slice(span.start // stride, -(-span.stop // stride))

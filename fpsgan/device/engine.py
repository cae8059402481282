"""Interpolation entirely on one device: planes are uploaded once and downloaded once, with no synchronisation between.

The definition of what `fpsgan.stages.interpolation` does with compiled code pair by pair, here for a batch of pairs and
all their moments at once. It runs on any device, slowly on a CPU, which is where it is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deblur.tiles import OutOfMemory, out_of_memory
from fpsgan.device import colour
from fpsgan.device.exposure import Exposure, exposure_change
from fpsgan.device.overlays import overlays
from fpsgan.interpolator.flow import accelerations, find_flow
from fpsgan.interpolator.network import Interpolator
from fpsgan.interpolator.synthesis import enlarge
from fpsgan.video.frame import Color, Frame, PixelFormat

__all__ = ["DeviceInterpolator", "Made", "Prepared", "Wanted"]

T = TypeVar("T")
R = TypeVar("R")

BATCH = 8  # pairs at most
BYTES_PER_PIXEL = 400  # of memory, per pair in a batch and pixel of a frame
GREY = PixelFormat.of("gray")


class Uploaded(NamedTuple):
    """A frame on the device: RGB [1,3,H,W] float32, luma [1,1,H,W] 0..255, opacity [1,1,H,W] 0..1 if it has any."""

    rgb: Tensor
    luma: Tensor
    alpha: Tensor | None


class Prepared(NamedTuple):
    """What can be computed for a pair without its neighbours: views [1,…] of a batch."""

    frame0: Uploaded
    frame1: Uploaded
    exposure: Exposure
    overlay: Tensor  # [1,1,H,W] opacity
    flows: tuple[Tensor, Tensor]  # (flow01, flow10), [1,2,h,w] in pixels of the frame


class Wanted(NamedTuple):
    """A pair, and the ``times`` of the frames to generate, each in (0, 1). ``before``, ``after``: the adjoining pairs
    and their durations in durations of this one; the pair itself, and 0, if there is none."""

    pair: Prepared
    before: tuple[Prepared, float]
    after: tuple[Prepared, float]
    times: list[float]


class Made(NamedTuple):
    """The generated frames of one batch, being downloaded: `arrays` waits for them."""

    planes: list[Tensor]  # of the target format, [N,h,w], on the CPU
    confidence: Tensor | None  # [N,1,H,W]
    done: torch.cuda.Event | None

    def arrays(self, form: PixelFormat) -> tuple[list[NDArray[np.generic]], NDArray[np.float32] | None]:
        """Planes [N,h,w] in the format's dtype, and the confidence [N,H,W,1]."""
        if self.done is not None:
            self.done.synchronize()
        believed = None if self.confidence is None else self.confidence.permute(0, 2, 3, 1).numpy()
        return [plane.numpy().view(form.dtype) for plane in self.planes], believed


class DeviceInterpolator:
    """`prepare` pairs in order, then `generate` their moments, `batch` pairs at once (None: as many as fit).

    If memory runs out the batch is halved; OutOfMemory if a single pair does not fit.
    """

    def __init__(
        self, network: Interpolator, device: torch.device, dtype: torch.dtype, batch: int | None = None
    ) -> None:
        # torch's stubs do not know memory_format
        self.network = network.to(device=device, dtype=dtype).eval()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.dtype, self.batch = device, dtype, batch
        self._since: Tensor | None = None  # for how many pairs each pixel has not changed

    def batch_for(self, pixels: int) -> int:
        """How many pairs of frames of so many pixels to process at once."""
        if self.batch is None:
            free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 2**31
            self.batch = max(1, min(BATCH, int(free) // (BYTES_PER_PIXEL * pixels)))
        return self.batch

    @torch.inference_mode()
    def upload(self, frames: Sequence[Frame]) -> list[Uploaded]:
        """Frames of one size and format, each either untouched or already RGB."""
        if not frames:
            return []
        form, color = frames[0].format, frames[0].color
        own = [frame for frame in frames if frame.rgb is None]
        changed = [frame for frame in frames if frame.rgb is not None]
        found: dict[int, Uploaded] = {}
        for group in (own, changed):
            if not group:
                continue
            codes = [self._codes([frame.planes[k] for frame in group], form) for k in range(form.planes)]
            if group is own:
                rgb = colour.to_rgb(tuple(codes), form, color)
                luma = colour.luma_of(tuple(codes), form, color)
            else:
                rgb = self._up(np.stack([frame.as_rgb() for frame in group])).permute(0, 3, 1, 2).contiguous()
                luma = colour.from_rgb(rgb, GREY, color)[0].float()
            alpha = codes[-1].float()[:, None] / ((1 << form.depth) - 1) if form.alpha else None
            for k, frame in enumerate(group):
                here = slice(k, k + 1)
                opacity = None if alpha is None else alpha[here]
                found[id(frame)] = Uploaded(rgb[here], luma[here, None], opacity)
        return [found[id(frame)] for frame in frames]

    @torch.inference_mode()
    def prepare(self, pairs: Sequence[tuple[Uploaded, Uploaded]], begins: Sequence[bool]) -> list[Prepared]:
        """Exposure, overlays and flow of consecutive pairs; `begins`: whether a scene begins with each."""

        def run(items: Sequence[tuple[tuple[Uploaded, Uploaded], bool]]) -> list[Prepared]:
            luma0, luma1 = (torch.cat([pair[side].luma for pair, _ in items]) for side in (0, 1))
            exposure = exposure_change(luma0, luma1)
            overlay, since = overlays(luma0, luma1, [begin for _, begin in items], self._since)
            luma0, luma1 = (
                (exposure.move(luma / 255, t, exposure.best) * 255).round().clamp(0, 255)
                for luma, t in ((luma0, 0.0), (luma1, 1.0))
            )
            effort = self.network.config.prior
            flows01, flows10 = find_flow(luma0, luma1, effort)
            self._since = since
            return [
                Prepared(
                    *pair,
                    Exposure(exposure.gain[k : k + 1], exposure.offset[k : k + 1]),
                    overlay[k : k + 1],
                    (flows01[k : k + 1], flows10[k : k + 1]),
                )
                for k, (pair, _) in enumerate(items)
            ]

        return list(self._within_memory(run, list(zip(pairs, begins, strict=True))))

    @torch.inference_mode()
    def generate(
        self,
        wanted: Sequence[Wanted],
        form: PixelFormat,
        color: Color,
        *,
        confidence: bool = False,
    ) -> list[Made]:
        """The frames that are wanted, in a format; several Made if memory ran out."""

        def run(items: Sequence[Wanted]) -> list[Made]:
            moments = [(number, t) for number, item in enumerate(items) for t in item.times]
            if not moments:
                return []
            pairs = [item.pair for item in items]
            # a single small upload: number and time of each moment, then the durations of the neighbours
            lengths = [(item.before[1], item.after[1]) for item in items]
            numbers = self._up(np.array([*moments, *lengths], np.float32))
            index, t = numbers[: len(moments), 0].long(), numbers[: len(moments), 1]
            at = t.view(-1, 1, 1, 1)
            flows = _flows(pairs)
            before, after = _flows([item.before[0] for item in items]), _flows([item.after[0] for item in items])
            stride = self.network.config.stride
            motion = (*flows, *accelerations(flows, before, after, numbers[len(moments) :], stride))
            exposure = Exposure(*(torch.cat([pair.exposure[part] for pair in pairs]) for part in (0, 1)))
            best, moved = exposure.best, exposure.select(index)
            rgb0 = torch.cat([pair.frame0.rgb for pair in pairs])
            rgb1 = torch.cat([pair.frame1.rgb for pair in pairs])
            shown0, shown1 = exposure.move(rgb0, 0.0, best), exposure.move(rgb1, 1.0, best)
            made, believed = self._between(shown0, shown1, motion, index, t)
            made = moved.move(made, moved.best, at)
            opacity = torch.cat([pair.overlay for pair in pairs]).index_select(0, index)
            still = torch.lerp(rgb0.index_select(0, index), rgb1.index_select(0, index), at)
            planes = list(colour.from_rgb(made + opacity * (still - made), form, color))
            if form.alpha:
                planes.append(self._alpha(pairs, motion, index, t, form))
            sure = enlarge(believed, made) if confidence else None
            return [self.download(planes, sure)]

        return list(self._within_memory(run, wanted))

    def _between(
        self, frame0: Tensor, frame1: Tensor, motion: Sequence[Tensor], index: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Frames and confidence at every moment, for pairs [B,3,H,W] with their motion and moments [N]."""
        pair = self.network.prepare(frame0, frame1, motion).select(index)
        return self.network.generate(frame0.index_select(0, index), frame1.index_select(0, index), pair, t)

    def _alpha(
        self, pairs: Sequence[Prepared], motion: Sequence[Tensor], index: Tensor, t: Tensor, form: PixelFormat
    ) -> Tensor:
        """The opacity at every moment, interpolated as a grey picture."""
        opaque0 = [torch.ones_like(p.overlay) if p.frame0.alpha is None else p.frame0.alpha for p in pairs]
        opaque1 = [torch.ones_like(p.overlay) if p.frame1.alpha is None else p.frame1.alpha for p in pairs]
        grey0, grey1 = (torch.cat(each).expand(-1, 3, -1, -1) for each in (opaque0, opaque1))
        moved, _ = self._between(grey0, grey1, motion, index, t)
        resting = (grey0 == grey1).flatten(1).all(1).index_select(0, index).view(-1, 1, 1, 1)
        moved = torch.where(resting, grey0.index_select(0, index), moved)
        return colour.quantised(moved.mean(1).clamp(0, 1) * ((1 << form.depth) - 1), form)

    def _codes(self, planes: Sequence[NDArray[np.generic]], form: PixelFormat) -> Tensor:
        """Planes [h,w] of one kind as [B,h,w], uint8 or int32."""
        stacked = np.stack(planes)
        return self._up(stacked) if form.depth == 8 else self._up(stacked.view(np.int16)).int() & 0xFFFF

    def _up(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def download(self, planes: list[Tensor], sure: Tensor | None) -> Made:
        """Start to download the planes [N,h,w], and the confidence [N,1,H,W] if any."""
        if self.device.type != "cuda":
            return Made([plane.cpu() for plane in planes], sure if sure is None else sure.cpu(), None)

        def copied(x: Tensor) -> Tensor:
            target = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            return target.copy_(x, non_blocking=True)

        down, believed = [copied(plane) for plane in planes], None if sure is None else copied(sure)
        done = torch.cuda.current_stream(self.device).record_event()
        return Made(down, believed, done)

    def _within_memory(self, run: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> Iterator[R]:
        """What `run` makes of the items; if memory runs out, of each half of them."""
        try:
            yield from run(items)
            return
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(items) == 1:
            where = f"the memory of {self.device}; --engine cpu works in tiles"
            raise OutOfMemory(f"a pair of frames does not fit in {where}")
        middle = len(items) // 2
        self.batch = max(1, middle)
        yield from self._within_memory(run, items[:middle])
        yield from self._within_memory(run, items[middle:])


def _flows(pairs: Sequence[Prepared]) -> tuple[Tensor, Tensor]:
    """Those of all pairs, as one batch."""
    return torch.cat([pair.flows[0] for pair in pairs]), torch.cat([pair.flows[1] for pair in pairs])

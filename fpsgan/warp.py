"""Backward warping, and the few other things that are done to whole frames.

All of it is plain torch, on any device and with gradients. On the CPU, without gradients, OpenCV does the same work
several times faster, to 1/32 px; that is most of what an interpolated frame costs there besides the convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fpsgan.threads import in_threads

__all__ = ["Fine", "around", "cast", "compose", "halve", "pad", "quads", "twice", "warp"]

Array = NDArray[np.float32]
STRIP = 32  # rows, even
MOST_CHANNELS = 128  # of a picture in OpenCV


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
    if frame.shape[1] <= MOST_CHANNELS and _opencv_can(frame, flow):
        moved = [_moved(image, motion) for image, motion in zip(_quads(frame), _images(flow), strict=True)]
        return _tensor(moved, frame.shape[1]).to(frame.dtype)
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
    if _opencv_can(frame0, frame1, *fine):
        out = np.empty((len(frame0), height, width, 3), np.float32)
        threads = max(1, cv2.getNumThreads())
        tops = range(0, height, STRIP)
        for images in zip(_quads(frame0), _quads(frame1), *(_images(x) for x in fine), out, strict=True):
            in_threads([partial(_compose_opencv, tops[k::threads], *images) for k in range(threads)])
        return torch.from_numpy(out).permute(0, 3, 1, 2).to(frame0.dtype)
    flow0, flow1, mask, residual = (twice(x)[..., :height, :width] for x in fine)
    frame = torch.lerp(warp(frame1.float(), flow1), warp(frame0.float(), flow0), mask) + residual
    return frame.to(frame0.dtype)


def _compose_opencv(
    tops: Sequence[int],
    image0: Array,
    image1: Array,
    flow0: Array,
    flow1: Array,
    mask: Array,
    residual: Array,
    target: Array,
) -> None:
    """[H,W,4] twice and the parts of Fine, [h,w,C]. In the strips that begin at `tops`: what lies between the steps
    stays in the cache."""
    height, width = target.shape[:2]
    for top in tops:
        bottom = min(top + STRIP, height)
        above = max(0, top // 2 - 1)  # a row more on each side, for the bilinear enlargement
        below = min(-(-bottom // 2) + 1, len(mask))
        size = (2 * mask.shape[1], 2 * (below - above))
        inner = (slice(top - 2 * above, bottom - 2 * above), slice(width))
        motion0, motion1, share, rest = (
            np.ascontiguousarray(cv2.resize(part[above:below], size, interpolation=cv2.INTER_LINEAR)[inner])
            for part in (flow0, flow1, mask, residual)
        )
        motion0[..., 1] += top
        motion1[..., 1] += top
        # blendLinear divides by the sum of the weights and a little more: let the sum be large
        share = share * np.float32(1000)
        blended = cv2.blendLinear(_moved(image0, motion0), _moved(image1, motion1), share, 1000 - share)
        cv2.add(cv2.cvtColor(blended, cv2.COLOR_RGBA2RGB), rest, target[top:bottom])


def _moved(image: Array, flow: NDArray[Any]) -> Array:
    mode = cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP
    return np.asarray(cv2.remap(image, flow, None, mode, borderMode=cv2.BORDER_REPLICATE), np.float32)  # type: ignore[call-overload]


def halve(x: Tensor) -> Tensor:
    """The mean of 2×2 pixels, in fp32: [B,C,H,W] to [B,C,⌈H/2⌉,⌈W/2⌉]; an odd last row or column counts twice."""
    x = pad(x.float(), 2)
    if x.shape[1] <= 4 and _opencv_can(x):
        size = (x.shape[-1] // 2, x.shape[-2] // 2)
        return _tensor([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in _quads(x)], x.shape[1])
    return F.avg_pool2d(x, 2)


def twice(x: Tensor) -> Tensor:
    """Bilinearly to double the size: [B,C,h,w] to [B,C,2h,2w], in x's dtype."""
    if x.shape[1] <= 4 and x.dtype == torch.float32 and _opencv_can(x):
        size = (2 * x.shape[-1], 2 * x.shape[-2])
        return _tensor([cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in _quads(x)], x.shape[1])
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def around(x: Tensor, side: int) -> Tensor:
    """The mean over side × side pixels (odd) around each, without what is outside of the picture: [B,C,H,W]."""
    if not _opencv_can(x):
        return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)

    def mean(plane: Array) -> Array:
        return np.asarray(cv2.blur(plane, (side, side), borderType=cv2.BORDER_CONSTANT), np.float32)

    share = mean(np.ones(x.shape[-2:], np.float32))
    means = [mean(plane) / share for plane in x.float().flatten(0, 1).contiguous().numpy()]
    return torch.from_numpy(np.stack(means)).view(x.shape)


def pad(x: Tensor, multiple: int) -> Tensor:
    """Below and to the right, by repeating the border, to sides that are multiples of `multiple`."""
    bottom, right = (-size % multiple for size in x.shape[-2:])
    if not bottom and not right:
        return x
    if x.shape[1] <= 4 and x.dtype == torch.float32 and _opencv_can(x):
        wider = [cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE) for image in _quads(x)]
        return _tensor(wider, x.shape[1])
    return F.pad(x, (0, right, 0, bottom), mode="replicate")


def quads(x: Tensor) -> Tensor:
    """The same [B,3,H,W], on a CPU fp32 and with a fourth channel behind every pixel in memory.

    OpenCV's remap is vectorised for one and for four channels, and twice as fast as with three. Everything here makes
    the fourth by itself where it is missing, and what it returns has it.
    """
    return _tensor(_quads(x), 3) if _opencv_can(x) else x


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x.to(dtype), five times faster where there is a fourth channel."""
    return _fourth(x).to(dtype)[:, : x.shape[1]]


def _opencv_can(*tensors: Tensor) -> bool:
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    return on_cpu and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _images(x: Tensor) -> Array:
    """[B,C,H,W] as numpy [B,H,W,C] float32; no copy where the memory lies like that already."""
    return np.asarray(x.float().permute(0, 2, 3, 1).contiguous().numpy())


def _fourth(x: Tensor) -> Tensor:
    """With the fourth channel that quads put behind three; where it did not, x itself."""
    batch, channels, height, width = x.shape
    if channels != 3 or x.device.type != "cpu" or (x.stride(1), x.stride(3)) != (1, 4):
        return x
    return x.as_strided((batch, 4, height, width), (x.stride(0), 1, x.stride(2), 4))


def _quads(x: Tensor) -> Sequence[Array]:
    """As _images, but three channels come with a fourth that means nothing."""
    images = list(_images(_fourth(x)))
    if images[0].shape[2] != 3:
        return images
    return [np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), np.float32) for image in images]


def _tensor(images: Sequence[Any], channels: int) -> Tensor:
    """Pictures [H,W,C] or [H,W] of OpenCV as [B,channels,H,W]; of one no copy is made."""
    array = images[0][None] if len(images) == 1 else np.stack(images)
    return torch.from_numpy(array.reshape(*array.shape[:3], -1)).permute(0, 3, 1, 2)[:, :channels]

"""Backward warping, and the few other things that are done to whole frames.

All of it is plain torch, on any device and with gradients. On the CPU, without gradients, OpenCV does the same work
several times faster, to 1/32 px; that is most of what an interpolated frame costs there besides the convolutions.
"""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["compose", "halve", "pad", "twice", "warp"]

Array = NDArray[np.float32]
STRIP = 64  # rows, even


def warp(frame: Tensor, flow: Tensor) -> Tensor:
    """Samples frame at x + flow(x), bilinearly; outside the frame its border pixels go on.

    Args:
        frame: [B,C,H,W], any floating dtype and range.
        flow: [B,2,H,W], (x, y) in pixels of this frame.

    Returns:
        [B,C,H,W] in frame's dtype. The arithmetic is fp32 whatever the dtypes: bf16 has 8 bits, too few for a
        coordinate on a 720p frame.
    """
    if frame.shape[1] <= 4 and _opencv_can(frame, flow):
        return _warp_opencv(frame, flow)
    height, width = frame.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    # grid_sample with align_corners=False puts pixel i's centre at (2i + 1) / size - 1
    grid_x = (2.0 * (x + flow[:, 0].float()) + 1.0) / width - 1.0
    grid_y = (2.0 * (y[:, None] + flow[:, 1].float()) + 1.0) / height - 1.0
    grid = torch.stack((grid_x, grid_y), dim=-1)
    warped = F.grid_sample(frame.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.to(frame.dtype)


def compose(frame0: Tensor, frame1: Tensor, fine: Tensor) -> Tensor:
    """Two warps at full size, blended, and a residual.

    Args:
        frame0, frame1: [B,3,H,W].
        fine: [B,8,h,w] fp32 at half the size, h ≥ H/2 and w ≥ W/2 (what is beyond is not used): flow_t0 and flow_t1 in
            pixels of the frames, mask (the weight of frame0, 0..1) and residual.

    Returns:
        [B,3,H,W] in frame0's dtype, not clamped.
    """
    height, width = frame0.shape[-2:]
    if _opencv_can(frame0, frame1, fine):
        out = torch.empty(len(frame0), height, width, 3)
        images = zip(_images(frame0), _images(frame1), fine.contiguous().numpy(), out.numpy(), strict=True)
        for image0, image1, decided, target in images:
            _compose_opencv(image0, image1, decided, target)
        return out.permute(0, 3, 1, 2).to(frame0.dtype)
    flow0, flow1, mask, residual = torch.split(twice(fine)[..., :height, :width], [2, 2, 1, 3], dim=1)
    frame = torch.lerp(warp(frame1.float(), flow1), warp(frame0.float(), flow0), mask) + residual
    return frame.to(frame0.dtype)


def _compose_opencv(image0: Array, image1: Array, decided: Array, target: Array) -> None:
    """decided: [8,h,w]. In strips: what lies between the steps stays in the cache."""
    height, width = target.shape[:2]
    image0, image1 = _four(image0, 0), _four(image1, 1)
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        above = max(0, top // 2 - 1)  # a row more on each side, for the bilinear enlargement
        size = (2 * decided.shape[2], 2 * (min(-(-bottom // 2) + 1, decided.shape[1]) - above))
        inner = (slice(top - 2 * above, bottom - 2 * above), slice(width))
        x0, y0, x1, y1, mask, *residual = (
            cv2.resize(plane[above : above + size[1] // 2], size, interpolation=cv2.INTER_LINEAR)[inner]
            for plane in decided
        )
        # blendLinear divides by the sum of the weights and a little more: let the sum be large
        mask = mask * np.float32(1000)
        blended = cv2.blendLinear(_moved(image0, x0, y0 + top), _moved(image1, x1, y1 + top), mask, 1000 - mask)
        cv2.add(cv2.cvtColor(blended, cv2.COLOR_RGBA2RGB), cv2.merge(residual), target[top:bottom])


_scratch = threading.local()


def _four(image: Array, slot: int = 0) -> Array:
    """With a fourth channel: OpenCV's remap is vectorised for one and for four, and twice as fast as with three.

    The result lives until this thread asks for the slot again: to get new memory takes as long as to fill it.
    """
    buffers: dict[Any, Array] = _scratch.__dict__
    kept = buffers.get(slot)
    fits = kept is not None and kept.shape[:2] == image.shape[:2]
    buffers[slot] = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, kept if fits else None), np.float32)
    return buffers[slot]


def _moved(image: Array, x: Array, y: Array) -> Array:
    mode = cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP
    return np.asarray(cv2.remap(image, x, y, mode, borderMode=cv2.BORDER_REPLICATE), np.float32)


def halve(x: Tensor) -> Tensor:
    """The mean of 2×2 pixels, in fp32: [B,C,H,W] to [B,C,⌈H/2⌉,⌈W/2⌉]; an odd last row or column counts twice."""
    x = pad(x.float(), 2)
    if x.shape[1] <= 4 and _opencv_can(x):
        size = (x.shape[-1] // 2, x.shape[-2] // 2)
        halves = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in _images(x)]
        return torch.from_numpy(np.stack(halves).reshape(len(x), size[1], size[0], -1)).permute(0, 3, 1, 2)
    return F.avg_pool2d(x, 2)


def twice(x: Tensor) -> Tensor:
    """Bilinearly to double the size: [B,C,h,w] to [B,C,2h,2w], in x's dtype."""
    if _opencv_can(x):
        size = (2 * x.shape[-1], 2 * x.shape[-2])
        large = [cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in _images(x)]
        return torch.from_numpy(np.stack(large).reshape(len(x), size[1], size[0], -1)).permute(0, 3, 1, 2).to(x.dtype)
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def pad(x: Tensor, multiple: int) -> Tensor:
    """Below and to the right, by repeating the border, to sides that are multiples of `multiple`."""
    bottom, right = (-size % multiple for size in x.shape[-2:])
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def _opencv_can(*tensors: Tensor) -> bool:
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    return on_cpu and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _images(x: Tensor) -> Array:
    """[B,C,H,W] as numpy [B,H,W,C] float32; no copy where the memory lies like that already."""
    return np.asarray(x.float().permute(0, 2, 3, 1).contiguous().numpy())


def _warp_opencv(frame: Tensor, flow: Tensor) -> Tensor:
    channels = frame.shape[1]
    moved = [
        _moved(_four(image) if channels == 3 else image, *motion)
        for image, motion in zip(_images(frame), flow.float().contiguous().numpy(), strict=True)
    ]
    out = torch.from_numpy(np.stack(moved)).reshape(*frame.shape[:1], *frame.shape[2:], -1)
    return out.permute(0, 3, 1, 2)[:, :channels].to(frame.dtype)

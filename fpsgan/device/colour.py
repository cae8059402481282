"""Planes to RGB and back in torch, batched: the functions of `fpsgan.video.frame`, equal to them in tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.video.frame import DOWN_TAPS, SITING, Color, PixelFormat, code_scales, luma_weights

__all__ = ["from_rgb", "luma_of", "to_rgb"]


def to_rgb(planes: tuple[Tensor, ...], form: PixelFormat, color: Color) -> Tensor:
    """Colour planes [B,h,w] of uint8, or of int32 for deeper ones → [B,3,H,W] float32 RGB; not clipped."""
    if form.family == "rgb":
        green, blue, red = planes[:3]
        return torch.stack((red, green, blue), 1).float() / ((1 << form.depth) - 1)
    y0, y_span, c0, c_span = code_scales(form, color)
    luma = (planes[0].float() - y0) / y_span
    if form.family == "gray":
        return luma[:, None].expand(-1, 3, -1, -1).contiguous()
    height, width = luma.shape[-2:]
    x, y = SITING[color.chroma_location]
    cb, cr = (
        (_upsampled(_upsampled(plane.float(), form.log2_h, y, 1, height), form.log2_w, x, 2, width) - c0) / c_span
        for plane in planes[1:3]
    )
    kr, kb = luma_weights(color, height)
    kg = 1 - kr - kb
    green = luma - cb * (2 * (1 - kb) * kb / kg) - cr * (2 * (1 - kr) * kr / kg)
    return torch.stack((luma + 2 * (1 - kr) * cr, green, luma + 2 * (1 - kb) * cb), 1)


def from_rgb(rgb: Tensor, form: PixelFormat, color: Color) -> tuple[Tensor, ...]:
    """[B,3,H,W] float32 RGB → the colour planes [B,h,w] of ``form`` (no alpha), rounded to nearest and clipped.

    uint8, or int16 with the bits of uint16 for deeper formats.
    """
    top = (1 << form.depth) - 1
    red, green, blue = rgb.unbind(1)
    if form.family == "rgb":
        return tuple(quantised(plane * top, form) for plane in (green, blue, red))
    kr, kb = luma_weights(color, rgb.shape[-2])
    y0, y_span, c0, c_span = code_scales(form, color)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    if form.family == "gray":
        return (quantised(luma * y_span + y0, form),)
    x, y = SITING[color.chroma_location]
    chroma = (((blue - luma) / (2 * (1 - kb))), ((red - luma) / (2 * (1 - kr))))
    small = (_downsampled(_downsampled(plane, form.log2_h, y, 1), form.log2_w, x, 2) for plane in chroma)
    return tuple(quantised(plane, form) for plane in (luma * y_span + y0, *(part * c_span + c0 for part in small)))


def luma_of(planes: tuple[Tensor, ...], form: PixelFormat, color: Color) -> Tensor:
    """`Frame.luma` of untouched frames: [B,H,W] float32 of whole numbers, 0..255."""
    shift = form.depth - 8
    first, *others = (
        (plane if not shift else plane >> shift).float() for plane in planes[: 3 if form.family == "rgb" else 1]
    )
    if not others:
        return first
    kr, kb = luma_weights(color, first.shape[-2])
    blue, red = others
    return (first * (1 - kr - kb) + blue * kb + red * kr).round().clamp(0, 255)


def quantised(plane: Tensor, form: PixelFormat) -> Tensor:
    """Codes of that depth."""
    codes = plane.round().clamp(0, (1 << form.depth) - 1)
    return codes.to(torch.uint8) if form.depth == 8 else codes.to(torch.int32).to(torch.int16)


def _upsampled(plane: Tensor, log2: int, site: float, dim: int, size: int) -> Tensor:
    """Linear ×2 per step along a dimension of [B,h,w] with the samples at ``site``, edges repeated, cut to ``size``."""
    for _ in range(log2):
        length = plane.shape[dim]
        before = torch.cat((plane.narrow(dim, 0, 1), plane.narrow(dim, 0, length - 1)), dim)
        after = torch.cat((plane.narrow(dim, 1, length - 1), plane.narrow(dim, length - 1, 1)), dim)
        first, second = torch.lerp(plane, before, site / 2), torch.lerp(plane, after, (1 - site) / 2)
        plane = torch.stack((first, second), dim + 1).flatten(dim, dim + 1)
    return plane.narrow(dim, 0, size)


def _downsampled(plane: Tensor, log2: int, site: float, dim: int) -> Tensor:
    """The exact inverse of ``_upsampled`` (for even sizes, to rounding)."""
    for _ in range(log2):
        length = plane.shape[dim]
        if length % 2:  # the sample that was cut off
            last, other = plane.narrow(dim, length - 1, 1), plane.narrow(dim, max(length - 2, 0), 1)
            plane, length = torch.cat((plane, last + site * (last - other)), dim), length + 1
        ends = [0, 0, 0, 0]
        ends[4 - 2 * dim : 6 - 2 * dim] = 2, 3
        padded = F.pad(plane[:, None], ends, mode="replicate")[:, 0]
        plane = sum(
            (
                tap * padded.narrow(dim, k, length).unfold(dim, 1, 2).squeeze(-1)
                for k, tap in enumerate(DOWN_TAPS[site])
                if tap
            ),
            start=torch.zeros((), device=plane.device),
        )
    return plane

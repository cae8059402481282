"""Frames in their own pixel format, and the one conversion between that and RGB.

A frame that is not changed keeps its planes and reaches the encoder bit-exact. For the networks it becomes float RGB,
*not* clipped to 0..1: YCbCr codes outside the RGB cube survive the round trip, and the chroma filters are exact
inverses of each other (up then down is the identity), so the round trip has no bias and originals and generated frames
alternate without flicker.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import InputError

__all__ = ["MATRICES", "PRIMARIES", "TRANSFERS", "Color", "Frame", "Orientation", "PixelFormat", "check_size",
           "code_point", "from_rgb", "to_rgb"]  # fmt: skip

Array = NDArray[np.generic]
Picture = NDArray[np.float32]  # [H, W, 3] RGB, or one float plane
SMALLEST_SIDE = 16

# The code points of ITU-T H.273 (07/2024), tables 4, 3 and 2, by ffmpeg's names, without reserved ones.
MATRICES = {
    0: "gbr", 1: "bt709", 2: "unknown", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
    9: "bt2020nc", 10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp",
    15: "ipt-c2", 16: "ycgco-re", 17: "ycgco-ro",
}  # fmt: skip
TRANSFERS = {
    1: "bt709", 2: "unknown", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100",
    10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12",
    16: "smpte2084", 17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
PRIMARIES = {
    1: "bt709", 2: "unknown", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020",
    10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip


def code_point(table: dict[int, str], name: str) -> int:
    """The number of a name in one of these three tables. Raises StopIteration for an unknown name."""
    return next(number for number, known in table.items() if known == name)


# Luma weights (kr, kb) of the matrices that are defined by them. Source: H.273, table 4.
LUMA_WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
    "bt2020c": (0.2627, 0.0593),
}

# Where the first chroma sample of a 2-sample cell sits, in luma samples (x, y): 0 on the first, ½ between the two.
SITING = {
    "left": (0.0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0.0, 0.0),
    "top": (0.5, 0.0),
    "bottomleft": (0.0, 1.0),
    "bottom": (0.5, 1.0),
}


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """A planar little-endian pixel format, as ffmpeg names it.

    ``family`` is "yuv", "rgb" (planes G, B, R) or "gray"; ``depth`` bits per sample; ``log2_w``/``log2_h`` the
    chroma subsampling; ``alpha`` whether a last plane carries opacity.
    """

    name: str
    family: str
    depth: int
    log2_w: int
    log2_h: int
    alpha: bool

    @property
    def dtype(self) -> type[np.generic]:
        return np.uint8 if self.depth == 8 else np.uint16

    @property
    def planes(self) -> int:
        return (1 if self.family == "gray" else 3) + self.alpha

    def plane_shape(self, plane: int, width: int, height: int) -> tuple[int, int]:
        """(rows, columns) of a plane in a picture of the given size."""
        if self.family == "yuv" and plane in (1, 2):
            return -(-height >> self.log2_h), -(-width >> self.log2_w)
        return height, width

    @staticmethod
    @lru_cache(maxsize=256)
    def of(name: str) -> PixelFormat:
        """The format called ``name``, or for packed, palette and big-endian ones the planar one that holds all of it.

        Raises ValueError for an unknown name and for floating-point samples.
        """
        form = av.VideoFormat(name, 16, 16)
        parts = form.components
        if not parts or "f16" in name or "f32" in name or max(part.bits for part in parts) > 16:
            raise ValueError(f"pixel format {name} is not supported: its samples are no integers of up to 16 bits")
        depth = max(part.bits for part in parts)
        # PyAV reports alpha by position: a second grey or a fourth colour component
        alpha = form.has_palette or len(parts) in (2, 4)
        depth = 8 if form.has_palette or depth <= 8 else next(d for d in (9, 10, 12, 14, 16) if depth <= d)
        suffix = "" if depth == 8 else f"{depth}le"
        if form.has_palette or form.is_rgb or form.is_bayer or (alpha and len(parts) == 2):
            return PixelFormat(f"gbr{'a' if alpha else ''}p{suffix}", "rgb", depth, 0, 0, alpha)
        if len(parts) == 1:
            return PixelFormat(f"gray{suffix}", "gray", depth, 0, 0, False)
        log2 = {16: 0, 8: 1, 4: 2}
        return _yuv(log2[form.chroma_width(16)], log2[form.chroma_height(16)], depth, alpha)


def _yuv(log2_w: int, log2_h: int, depth: int, alpha: bool) -> PixelFormat:
    names = {(0, 0): "444", (1, 0): "422", (1, 1): "420", (0, 1): "440", (2, 0): "411", (2, 2): "410"}
    if (log2_w, log2_h) not in names:
        raise ValueError(f"no pixel format has chroma subsampled {1 << log2_w}×{1 << log2_h}")
    suffix = "" if depth == 8 else f"{depth}le"
    name = f"yuv{'a' if alpha else ''}{names[log2_w, log2_h]}p{suffix}"
    return PixelFormat(name, "yuv", depth, log2_w, log2_h, alpha)


@dataclasses.dataclass(frozen=True)
class Color:
    """The colour space of code values, by ffmpeg's names; "unknown" if the file does not say. An unspecified range is
    limited."""

    matrix: str = "unknown"
    primaries: str = "unknown"
    transfer: str = "unknown"
    full_range: bool = False
    chroma_location: str = "left"

    @property
    def hdr(self) -> bool:
        return self.transfer in ("smpte2084", "arib-std-b67")


def check_size(width: int, height: int, name: object) -> None:
    """Raise InputError for a picture that is too small to work on."""
    if min(width, height) < SMALLEST_SIDE:
        raise InputError(f"{name}: {width}×{height} is too small, {SMALLEST_SIDE} px a side is the least")


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    ``planes``: arrays [rows, columns], uint8 or uint16, in ``format``, as decoded; ``pts`` and ``duration`` in seconds;
    ``rgb``: set once a stage has changed the picture, [H, W, 3] float32, about 0..1, and from then on it alone is the
    picture (of ``planes`` only the size and the alpha are still valid).
    """

    planes: tuple[Array, ...]
    format: PixelFormat
    color: Color
    pts: Fraction
    duration: Fraction
    rgb: Picture | None = None

    @staticmethod
    def of_image(image: NDArray[np.uint8], pts: Fraction = Fraction(0), duration: Fraction = Fraction(0)) -> Frame:
        """A frame of an RGB picture [H, W, 3]."""
        red, green, blue = cv2.split(image)
        planes = tuple(np.asarray(plane, np.uint8) for plane in (green, blue, red))
        return Frame(planes, PixelFormat.of("gbrp"), Color("gbr", full_range=True), pts, duration)

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    @functools.cached_property
    def luma(self) -> NDArray[np.uint8]:
        """[H, W] uint8, the grey picture in which cuts, repeats, blur and motion are detected."""
        if self.rgb is not None:
            return np.asarray(from_rgb(self.rgb, PixelFormat.of("gray"), self.color)[0], np.uint8)
        first, *others = (
            np.asarray(plane.astype(np.uint16) >> (self.format.depth - 8) if self.format.depth > 8 else plane, np.uint8)
            for plane in self.planes[: 3 if self.format.family == "rgb" else 1]
        )
        if not others:
            return first
        kr, kb = luma_weights(self.color, self.height)
        return np.asarray(cv2.transform(cv2.merge([first, *others]), np.array([[1 - kr - kb, kb, kr]])), np.uint8)

    @functools.cached_property
    def image(self) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB: the picture as it is looked at, clipped and rounded."""
        return np.asarray(_quantise(self.as_rgb() * np.float32(255), PixelFormat.of("gbrp")), np.uint8)

    def as_rgb(self) -> Picture:
        """[H, W, 3] float32, about 0..1 and not clipped."""
        return self.rgb if self.rgb is not None else to_rgb(self.planes, self.format, self.color)

    def as_planes(self, target: PixelFormat, color: Color) -> tuple[Array, ...]:
        """The planes in ``target``: the very same arrays if the format is the same and nothing was changed."""
        if self.rgb is None and target == self.format and color == self.color:
            return self.planes
        alpha = self.planes[-1] if self.format.alpha else None
        if target.alpha and alpha is None:
            alpha = np.full((self.height, self.width), (1 << target.depth) - 1, target.dtype)
        elif target.alpha and alpha is not None and target.depth != self.format.depth:
            factor = ((1 << target.depth) - 1) / ((1 << self.format.depth) - 1)
            alpha = _quantise(alpha.astype(np.float32) * np.float32(factor), target)
        return from_rgb(self.as_rgb(), target, color) + ((alpha,) if target.alpha and alpha is not None else ())


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How a stored picture is displayed: rotated counter-clockwise by ``rotation`` (0, 90, 180 or 270 degrees), then,
    if ``mirrored``, flipped left to right."""

    rotation: int = 0
    mirrored: bool = False

    @staticmethod
    def of(matrix: Sequence[float]) -> Orientation:
        """The orientation in the nine numbers of a display matrix (ISO/IEC 14496-12, 6.2.2), row by row: a stored
        point (x, y) is shown at (ax + cy, bx + dy). Scale, offset and rotations other than by quarters are ignored."""
        a, b, _, c, d = matrix[:5]
        mirrored = a * d < b * c
        degrees = -math.degrees(math.atan2(b, -a if mirrored else a))
        quarters = round(degrees / 90)
        return Orientation(quarters * 90 % 360, mirrored) if abs(degrees - 90 * quarters) <= 1 else Orientation()

    @property
    def transposes(self) -> bool:
        """Whether width and height are swapped."""
        return self.rotation in (90, 270)

    def plane(self, plane: Array) -> Array:
        """An array [rows, columns, …] as displayed."""
        turned = np.rot90(plane, self.rotation // 90)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)

    def described(self, format: PixelFormat, color: Color) -> tuple[PixelFormat, Color]:
        """Pixel format and colour of what ``planes`` returns."""
        if format.family != "yuv" or self == Orientation():
            return format, color
        x, y = self._site(color)
        if self.transposes:  # no format has chroma subsampled 1×4: 4:1:1 becomes 4:4:0
            log2_h = 1 if (format.log2_w, format.log2_h) == (2, 0) else format.log2_w
            format = _yuv(format.log2_h, log2_h, format.depth, format.alpha)
        x = 0.5 if x == 1 else x  # no tag says "right"
        location = next(name for name, site in SITING.items()
                        if format.log2_w * (site[0] - x) == 0 == format.log2_h * (site[1] - y))  # fmt: skip
        return format, dataclasses.replace(color, chroma_location=location)

    def planes(self, planes: tuple[Array, ...], format: PixelFormat, color: Color) -> tuple[Array, ...]:
        """The planes of a picture as displayed; ``described`` has their pixel format and chroma siting.

        Luma and alpha keep every value. So does chroma, unless there is no format or tag for the new siting of its
        samples; then it is resampled to the nearest one."""
        shown = [self.plane(plane) for plane in planes]
        if format.family != "yuv" or self == Orientation():
            return tuple(shown)
        turned, color_shown = self.described(format, color)
        height, width = shown[0].shape
        x, y = SITING[color_shown.chroma_location]
        at_x, at_y = self._site(color)
        log2 = (format.log2_h, format.log2_w) if self.transposes else (format.log2_w, format.log2_h)
        odd = width % (1 << log2[0]) or height % (1 << log2[1])  # an incomplete cell moves to the other end
        if odd or log2 != (turned.log2_w, turned.log2_h) or log2[0] * (x - at_x) or log2[1] * (y - at_y):
            for k, whole in zip((1, 2), _upsampled(planes, format, color), strict=True):
                moved = np.asarray(self.plane(whole), np.float32)
                shown[k] = _quantise(_downsampled(moved, turned, color_shown), turned)
        return tuple(shown)

    def _site(self, color: Color) -> tuple[float, float]:
        """The position of a chroma sample of the displayed picture in its cell, x and y as in SITING, 1 for "right"."""
        x, y = SITING[color.chroma_location]
        for _ in range(self.rotation // 90):
            x, y = y, 1 - x
        return 1 - x if self.mirrored else x, y


def luma_weights(color: Color, height: int) -> tuple[float, float]:
    # Untagged video: players assume BT.709 from 720 lines up, BT.601 below. Matrices that are not defined by luma
    # weights (YCgCo, ICtCp) are treated alike: any invertible one returns the same codes, which is what matters here.
    fallback = "bt709" if height >= 720 else "smpte170m"
    return LUMA_WEIGHTS.get(color.matrix, LUMA_WEIGHTS[fallback])


def code_scales(format: PixelFormat, color: Color) -> tuple[float, float, float, float]:
    """(luma offset, luma span, chroma offset, chroma span) in code values."""
    if color.full_range:
        top = float((1 << format.depth) - 1)
        return 0.0, top, float(1 << (format.depth - 1)), top
    unit = float(1 << (format.depth - 8))
    return 16 * unit, 219 * unit, 128 * unit, 224 * unit


def to_rgb(planes: tuple[Array, ...], format: PixelFormat, color: Color) -> Picture:
    """Planes → [H, W, 3] float32 RGB (gamma-coded as in the file), 0..1 for codes inside the RGB cube; no clipping."""
    if format.family == "rgb":
        green, blue, red = (plane.astype(np.float32) for plane in planes[:3])
        return cv2.merge([red, green, blue]) * np.float32(1 / ((1 << format.depth) - 1))
    y0, y_span, c0, c_span = code_scales(format, color)
    luma = planes[0].astype(np.float32)
    if format.family == "gray":
        return np.asarray(cv2.merge([(luma - np.float32(y0)) * np.float32(1 / y_span)] * 3), np.float32)
    chroma = _upsampled(planes, format, color)
    kr, kb = luma_weights(color, luma.shape[0])
    kg = 1 - kr - kb
    from_cr, from_cb = 2 * (1 - kr), 2 * (1 - kb)
    matrix = np.array([[1, 0, from_cr], [1, -from_cb * kb / kg, -from_cr * kr / kg], [1, from_cb, 0]])
    matrix = matrix / np.array([y_span, c_span, c_span])
    offset = -matrix @ np.array([y0, c0, c0])
    return np.asarray(cv2.transform(cv2.merge([luma, *chroma]), np.column_stack([matrix, offset])), np.float32)


def from_rgb(rgb: Picture, format: PixelFormat, color: Color) -> tuple[Array, ...]:
    """[H, W, 3] float32 RGB → the colour planes of ``format`` (no alpha), rounded to nearest and clipped."""
    top = (1 << format.depth) - 1
    if format.family == "rgb":
        red, green, blue = cv2.split(rgb)
        return tuple(_quantise(plane * np.float32(top), format) for plane in (green, blue, red))
    height = rgb.shape[0]
    kr, kb = luma_weights(color, height)
    y0, y_span, c0, c_span = code_scales(format, color)
    weights = np.array([kr, 1 - kr - kb, kb])
    matrix = np.array([
        weights * y_span,
        (np.array([0, 0, 1]) - weights) / (2 * (1 - kb)) * c_span,
        (np.array([1, 0, 0]) - weights) / (2 * (1 - kr)) * c_span,
    ])  # fmt: skip
    if format.family == "gray":
        return (_quantise(cv2.transform(rgb, np.append(matrix[0], y0)[None]), format),)
    ycc = cv2.split(cv2.transform(rgb, np.column_stack([matrix, [y0, c0, c0]])))
    chroma = (_downsampled(np.asarray(plane, np.float32), format, color) for plane in ycc[1:])
    return tuple(_quantise(plane, format) for plane in (ycc[0], *chroma))


def _quantise(plane: Array, format: PixelFormat) -> Array:
    # cv2 rounds to nearest and saturates in one pass
    add: Callable[..., Array] = cv2.add  # its type stubs miss that numbers are allowed
    codes = add(np.ascontiguousarray(plane), 0, dtype=cv2.CV_8U if format.depth == 8 else cv2.CV_16U)
    return codes if format.depth in (8, 16) else np.minimum(codes, (1 << format.depth) - 1, dtype=codes.dtype)


def _upsampled(planes: tuple[Array, ...], format: PixelFormat, color: Color) -> list[Picture]:
    """The two chroma planes, float32, at the size of the luma plane."""
    (height, width), (x, y) = planes[0].shape, SITING[color.chroma_location]
    return [_upsample(_upsample(p.astype(np.float32), format.log2_h, y, 0, height), format.log2_w, x, 1, width)
            for p in planes[1:3]]  # fmt: skip


def _downsampled(plane: Picture, format: PixelFormat, color: Color) -> Picture:
    """The inverse: a chroma plane of the size of luma, brought to that of ``format``."""
    x, y = SITING[color.chroma_location]
    return _downsample(_downsample(plane, format.log2_h, y, 0), format.log2_w, x, 1)


def _upsample(plane: Picture, log2: int, site: float, axis: int, size: int) -> Picture:
    """Linear ×2 per step along ``axis`` with the samples at ``site``, edges repeated, cut to ``size``."""
    for _ in range(log2):
        c = plane.swapaxes(0, axis)
        before, after = np.concatenate([c[:1], c[:-1]]), np.concatenate([c[1:], c[-1:]])
        # an output at distance d from sample c takes (1−d)·c + d·neighbour
        first = c + np.float32(site / 2) * (before - c)
        second = c + np.float32((1 - site) / 2) * (after - c)
        plane = np.stack([first, second], 1).reshape(-1, c.shape[1]).swapaxes(0, axis)
    return plane[:size] if axis == 0 else plane[:, :size]


# Taps over samples 2i−2 … 2i+3 that invert _upsample exactly; among the short filters that do, those with least noise.
DOWN_TAPS = {
    0.0: (-1 / 7, 2 / 7, 5 / 7, 2 / 7, -1 / 7, 0.0),
    0.5: (0.0, -1 / 4, 3 / 4, 3 / 4, -1 / 4, 0.0),
    1.0: (0.0, -1 / 7, 2 / 7, 5 / 7, 2 / 7, -1 / 7),
}


def _downsample(plane: Picture, log2: int, site: float, axis: int) -> Picture:
    """The exact inverse of ``_upsample`` (for even sizes, to rounding)."""
    for _ in range(log2):
        if plane.shape[axis] % 2:  # the sample that _upsample's caller cut off
            u = plane.swapaxes(0, axis)
            u = np.concatenate([u, u[-1:] + np.float32(site) * (u[-1:] - u[-2:-1])]) if len(u) > 1 else u.repeat(2, 0)
            plane = np.ascontiguousarray(u.swapaxes(0, axis))
        taps = np.array(DOWN_TAPS[site], np.float32)
        if axis == 0:
            filtered = cv2.filter2D(plane, -1, taps[:, None], anchor=(0, 2), borderType=cv2.BORDER_REPLICATE)[::2]
        else:
            filtered = cv2.filter2D(plane, -1, taps[None], anchor=(2, 0), borderType=cv2.BORDER_REPLICATE)[:, ::2]
        plane = np.asarray(filtered, np.float32)
    return plane

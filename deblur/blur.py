"""Blur made and blur measured: camera shake and defocus for training and tests, and a score for real frames.

The synthesis follows the physics: a camera moves along a path while its shutter is open, and the sensor adds up
*linear* light (Nah et al., CVPR 2017, section 3); noise and compression come after. Paths are random walks with
inertia (after Boracchi and Foi, IEEE TIP 2012, section III).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Rng = np.random.Generator


def shake_path(extent: float, rng: Rng, *, wander: float = 0.3, samples: int = 128) -> Image:
    """A hand's path during one exposure: [samples,2] offsets (x, y) in px, mean zero, `extent` px across.

    `wander` is how fast the direction drifts, in radians per 1/16 of the exposure: 0 is a straight line at constant
    speed, 1 a tangle. Paths that wander also change their speed and now and then jerk. ValueError for extent < 0.
    """
    if extent < 0:
        raise ValueError(f"extent must be 0 px or more, not {extent}")
    turn = rng.normal(0, wander * (16 / samples) ** 0.5, samples)
    if wander > 0 and rng.random() < 0.3:
        turn[rng.integers(samples)] += rng.uniform(-np.pi, np.pi)  # a jerk, such as pressing the button
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
    speed = np.exp(np.cumsum(rng.normal(0, min(wander, 1) * 0.7 / samples**0.5, samples)))
    path = np.cumsum(speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), 0)
    path -= path.mean(0)
    along = path @ np.linalg.svd(path, full_matrices=False)[2][0]  # the axis of the largest spread
    return (path * (extent / max(float(np.ptp(along)), 1e-9))).astype(np.float32)


def path_kernel(path: Image) -> Image:
    """What a path [N,2] in px leaves of one point: an odd square kernel, sum 1, N samples shared out bilinearly."""
    radius = int(np.ceil(np.abs(path).max())) + 1
    side = 2 * radius + 1
    corner = np.floor(path).astype(np.int64)
    part = path - corner
    kernel = np.zeros((side, side), np.float64)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            np.add.at(kernel, (corner[:, 1] + dy + radius, corner[:, 0] + dx + radius), weight)
    return np.asarray(kernel / kernel.sum(), np.float32)


def defocus_kernel(radius: float) -> Image:
    """A lens out of focus: a disc of `radius` px with a soft rim, sum 1. ValueError for radius <= 0."""
    if radius <= 0:
        raise ValueError(f"radius must be above 0 px, not {radius}")
    side = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return np.asarray(disc / disc.sum(), np.float32)


def to_linear(image: NDArray[Any], gamma: float = 2.2) -> Image:
    """Code values, uint8 or float 0..1, to linear light 0..1; values beyond the range are clipped, as a sensor does."""
    if image.dtype == np.uint8:
        table = (np.arange(256, dtype=np.float32) / 255) ** np.float32(gamma)
        return np.asarray(table[image], np.float32)
    return np.asarray(np.clip(image, 0, 1) ** gamma, np.float32)


def to_code(light: NDArray[Any], gamma: float = 2.2) -> Image:
    """Linear light to code values, both float 0..1: the inverse of `to_linear`."""
    return np.asarray(np.clip(light, 0, 1) ** (1 / gamma), np.float32)


def convolve(image: NDArray[Any], kernel: Image, gamma: float = 2.2) -> Image:
    """Blur [H,W,3] (uint8 or float 0..1) by one kernel for the whole image, in linear light; float 0..1 out.

    The border is mirrored. A true convolution: a kernel made of a path smears along that path.
    """
    light = cv2.filter2D(to_linear(image, gamma), -1, cv2.flip(kernel, -1), borderType=cv2.BORDER_REFLECT_101)
    return to_code(light, gamma)


def shake(image: NDArray[Any], path: Image, turns: Image, gamma: float = 2.2) -> Image:
    """Blur [H,W,3] by a path [N,2] in px together with turns [N] in radians about the image centre; float 0..1 out.

    The mean of N moved copies in linear light: costly, but right where the blur differs from corner to centre.
    """
    height, width = image.shape[:2]
    light = to_linear(image, gamma)
    total = np.zeros_like(light)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    for (x, y), turn in zip(path, turns, strict=True):
        c, s = np.cos(turn), np.sin(turn)
        matrix = np.array([[c, -s, 0], [s, c, 0]])
        matrix[:, 2] = centre - matrix[:, :2] @ centre + (x, y)
        total += cv2.warpAffine(light, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return to_code(total / np.float32(len(path)), gamma)


def sensor(image: Image, rng: Rng, *, noise: float = 0.0, jpeg: int | None = None) -> NDArray[np.uint8]:
    """Float 0..1 [H,W,3] to uint8 as a camera does it: Gaussian noise (sigma, 0..1), rounding, JPEG quality 1..100."""
    if noise:
        image = image + rng.normal(0, noise, image.shape).astype(np.float32)
    code = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    if jpeg is not None:
        packed = cv2.imencode(".jpg", cv2.cvtColor(code, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, jpeg])[1]
        unpacked = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        assert unpacked is not None
        code = np.asarray(cv2.cvtColor(unpacked, cv2.COLOR_BGR2RGB), np.uint8)
    return code


TILE = 160  # px, of the pieces that `blur_score` looks at
DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1))


def blur_score(frame: NDArray[Any]) -> float:
    """How blurred a frame [H,W,3] (uint8, or float 0..1) is: 0 (pure texture), about 1.1 (sharp) to 2 (all smooth).

    Take two pixels r apart: their squared difference grows in proportion to r across sharp edges and to r² where blur
    has made ramps of them. The score is that exponent between r = 2 and r = 4 px, in the direction where it is largest
    (motion leaves the edges along its path sharp), with the noise subtracted, as the median over up to 12 tiles that
    show anything. It does not depend on brightness or contrast. A frame without content scores 0: nothing to sharpen.
    ValueError for another shape or type, or a side below 16 px.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape[:2]) < 16:
        raise ValueError(f"need a frame [H,W,3] with H, W of 16 px or more, not {list(frame.shape)}")
    if frame.dtype != np.uint8 and frame.dtype.kind != "f":
        raise ValueError(f"need uint8 or float 0..1, not {frame.dtype}")
    exponents = []
    for tile in _tiles(frame):
        gray = cv2.cvtColor(np.ascontiguousarray(tile), cv2.COLOR_RGB2GRAY).astype(np.float32)
        if frame.dtype != np.uint8:
            gray *= 255
        noise = 2 * noise_variance(gray)
        best = 0.0
        for x, y in DIRECTIONS:
            near, far = (_difference(gray, r * x, r * y) - noise for r in (2, 4))
            if far > max(5.0, noise / 3):  # else this direction shows nothing but noise
                best = max(best, min(float(np.log2(far / max(near, far / 4))), 2.0))
        if best:
            exponents.append(best)
    return float(np.median(exponents)) if exponents else 0.0


def _tiles(frame: NDArray[Any]) -> list[NDArray[Any]]:
    """Up to 3×4 tiles, evenly over the frame: the cost is the same at 720p and at 8K."""
    rows, columns = (
        np.unique(np.linspace(0, max(side - TILE, 0), min(most, -(-side // TILE))).astype(int))
        for side, most in zip(frame.shape[:2], (3, 4), strict=True)
    )
    return [frame[y : y + TILE, x : x + TILE] for y in rows for x in columns]


def _difference(gray: Image, x: int, y: int) -> float:
    """Mean squared difference of pixels (x, y) apart, x ≥ 0."""
    height, width = gray.shape
    near = gray[max(-y, 0) : height - max(y, 0), : width - x]
    far = gray[max(y, 0) : height + min(y, 0), x:]
    return float(cv2.norm(near, far, cv2.NORM_L2SQR)) / near.size


def noise_variance(gray: Image) -> float:
    """Of white noise in a picture [H,W], in its units squared, from its quietest fifth: Immerkær, "Fast Noise Variance
    Estimation", CVIU 1996, by blocks."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    blocks = cv2.resize(np.abs(cv2.filter2D(gray, -1, mask)), (16, 16), interpolation=cv2.INTER_AREA)
    return float(np.pi / 2 * (np.percentile(blocks, 20) / 6) ** 2)

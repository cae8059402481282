"""Training samples: what the sources have in common, and real clips for the interpolator.

Sample number n is a pure function of the seed and n, whichever process makes it and whatever came before: any number
of workers, a resumed run and several processes therefore learn from the same data. The sources are

    ClipTriplets   three frames i < j < k of a real clip, the truth at t = (j − i)/(k − i)        (here)
    Scenes         photos moved in layers, with exact flow and occlusion                          (scenes.py)
    Animations     Lottie files, rendered at any rate                                             (lottie.py)
    ShakenPhotos, BlurredClips, PairedFrames   blurred and sharp, for the deblurring network      (deblur_data.py)

The flow prior is made with the `effort` (fpsgan.interpolator.flow) that the network to be trained goes with.
Every interpolation sample has the same keys, S being the side of the crop, a multiple of 8:

    frame0, truth, frame1   uint8 [3,S,S] RGB
    t                       float32 (), strictly between 0 and 1
    flow01, flow10          float32 [2,S/n,S/n] px: the flow prior, as the network will get it, n its stride
    acceleration0, acceleration1   float32 [2,S/n,S/n] px: the rest of the prior, of what is seen in either frame
                            (fpsgan.interpolator.with_acceleration); 0 where no frames around the two are known
    flow_t0, flow_t1        float32 [2,S/4,S/4] px: from the truth to either frame; NaN where nobody knows
    visible                 float32 [2,S/4,S/4]: 1 where what the truth shows is seen in frame0 / frame1, between 0 and
                            1 at the edges of what covers it; 1 everywhere if that is not known
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fpsgan.errors import InputError
from fpsgan.interpolator import STRIDE, flow_prior, with_acceleration
from fpsgan.training.manifest import Clip

__all__ = [
    "PICTURES",
    "ClipTriplets",
    "Mixture",
    "Photos",
    "Recent",
    "Source",
    "files_below",
    "finish",
    "fitting",
    "half_flow",
    "in_frame",
    "privileged_flow",
    "reordered",
    "triplet",
    "turned",
]

Image = NDArray[np.uint8]  # [H,W,3] RGB
Flow = NDArray[np.float32]  # [2,h,w] (x, y) in pixels of the full frame
Sample = dict[str, NDArray[Any]]
Rng = np.random.Generator
Key = TypeVar("Key")
Value = TypeVar("Value")

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FLOW_STRIDE = 4  # px per pixel of the flows that samples bring
CONTEXT = 32  # px around a crop that its flow prior sees: at its borders it then is what it would be in a whole frame
GAPS = (2, 2, 2, 2, 3, 4, 4, 6, 8)  # k − i: mostly neighbours, some large motion
MOST_SHIFT = 32  # px that frame0 and frame1 are shifted, either way, at most
UNEXPLAINED = 5.0  # of 255, mean of the colours: where a frame moved by a flow differs more, the flow is wrong

BLOCK = 4096  # samples in a row that share a shelf of photos
SHELF = 48  # photos on it
MOST_PIXELS = 2 << 20  # of a photo in memory; larger ones are shrunk, which makes them sharper


class Source(Protocol):
    """Whatever makes samples. `index` is the sample's number: sources use it to keep close what is dear to read."""

    def sample(self, rng: Rng, index: int = 0) -> Sample: ...


class Mixture(Dataset[Sample]):
    """Samples from several sources, each drawn with its share; item n is a pure function of (seed, n).

    Raises ValueError for no source, for shares that are negative, all zero, or not one for each source.
    """

    def __init__(
        self, sources: Sequence[Source], shares: Sequence[float], seed: int = 0, length: int = sys.maxsize // 2
    ) -> None:
        odds = np.asarray(shares, np.float64)
        if not sources or odds.shape != (len(sources),) or not (odds >= 0).all() or not odds.sum() > 0:
            raise ValueError(f"shares {list(shares)} for {len(sources)} sources: one is needed for each, their sum > 0")
        self.sources, self.odds, self.seed, self.length = list(sources), odds / odds.sum(), seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        rng = np.random.default_rng([self.seed, index])
        return self.sources[rng.choice(len(self.sources), p=self.odds)].sample(rng, index)


class Recent(Generic[Key, Value]):
    """The latest `keep` results of `make`. In another process, a copy starts empty."""

    def __init__(self, make: Callable[[Key], Value], keep: int) -> None:
        self.make, self.keep = make, keep
        self.kept: OrderedDict[Key, Value] = OrderedDict()

    def __call__(self, key: Key) -> Value:
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        value = self.kept[key] = self.make(key)
        if len(self.kept) > self.keep:
            self.kept.popitem(last=False)
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": OrderedDict()}


def files_below(places: Sequence[str | Path], suffixes: Sequence[str], kind: str) -> list[Path]:
    """The files named, and of folders all below with one of the suffixes, sorted. InputError if there are none."""
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            below = sorted(p for p in place.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not below:
                raise InputError(f"{place}: no {kind} in this folder (looked for {' '.join(suffixes)})")
            found += below
        elif place.is_file():
            found.append(place)
        else:
            raise InputError(f"{place}: no such file or folder; {kind} are needed")
    if not found:
        raise InputError(f"no {kind} given")
    return found


class Photos:
    """Pictures, decoded when they are needed.

    `places` are files and folders. To decode a photo takes longer than to make a sample of it, and a large collection
    does not fit into memory: so 4096 samples in a row share a shelf of 48 photos, drawn by the block's number, and
    that many are kept (at most 2 megapixels each, 300 MB in all). InputError for an empty folder, or when it comes to
    a file that cannot be read.
    """

    def __init__(self, places: Sequence[str | Path]) -> None:
        self.files = files_below(places, PICTURES, "pictures")
        self._read = Recent(read_photo, SHELF)
        self._shelf = Recent(self._draw_shelf, 4)

    def _draw_shelf(self, block: int) -> NDArray[np.int64]:
        size = min(SHELF, len(self.files))
        return np.random.default_rng([block]).choice(len(self.files), size, replace=False)

    def pick(self, rng: Rng, index: int = 0) -> Image:
        """A photo of the shelf that sample `index` draws from: RGB uint8 [H,W,3]. Not to be written to."""
        return self._read(self.files[rng.choice(self._shelf(index // BLOCK))])


def read_photo(path: Path) -> Image:
    """A picture as RGB uint8 [H,W,3], turned upright, shrunk to 2 megapixels. InputError if it cannot be read."""
    try:
        code = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    image = cv2.imdecode(code, cv2.IMREAD_COLOR) if code.size else None
    if image is None:
        raise InputError(f"{path}: not a readable picture; take it out of the folder")
    excess = (image.shape[0] * image.shape[1] / MOST_PIXELS) ** 0.5
    if excess > 1:
        target = (max(1, round(image.shape[1] / excess)), max(1, round(image.shape[0] / excess)))
        image = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def fitting(clips: Sequence[Clip], size: int, frames: int) -> list[Clip]:
    """The clips, if each has `frames` frames and room for a crop of `size` px; InputError if not."""
    if size < 32 or size % 8:
        raise ValueError(f"crop {size}: a multiple of 8 from 32 up is needed")
    if not clips:
        raise InputError("no clips to train on: the data set has none in this split")
    small = [clip for clip in clips if min(clip.width, clip.height) < size]
    if small:
        raise InputError(
            f"{len(small)} of {len(clips)} clips are smaller than the crop of {size} px "
            f"({small[0].name}: {small[0].width}×{small[0].height}); take a smaller crop or larger tiles"
        )
    short = [clip for clip in clips if clip.count < frames]
    if short:
        raise InputError(
            f"{len(short)} of {len(clips)} clips are too short ({short[0].name}: {short[0].count} frames, "
            f"{frames} are needed)"
        )
    return list(clips)


# --- real clips ----------------------------------------------------------------------------------------------


class ClipTriplets:
    """Three frames of a clip: i < j < k, t = (j − i)/(k − i), k − i at most `max_gap`.

    Where the clip has the frames one such step before and behind, the prior looks at them too, half of the time. With
    `privileged`, flow_t0 and flow_t1 are found with the truth at hand (see `privileged_flow`), which takes about a
    sixth of a sample; otherwise they are NaN. InputError if a clip is smaller than `size` or has under three frames,
    ValueError for a size that is no multiple of 8 or a max_gap below 2. Without `augment` nothing is changed but the
    direction of time, and left for right.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        size: int,
        *,
        max_gap: int = 8,
        privileged: bool = True,
        effort: str = "base",
        augment: bool = True,
    ) -> None:
        if max_gap < 2:
            raise ValueError(f"max_gap {max_gap}: a frame between two others needs 2 or more")
        self.clips, self.size, self.privileged, self.effort = fitting(clips, size, 3), size, privileged, effort
        self.gaps, self.augment = [gap for gap in GAPS if gap <= max_gap], augment

    def sample(self, rng: Rng, index: int = 0) -> Sample:
        clip = self.clips[int(rng.integers(len(self.clips)))]
        gap = int(rng.choice([gap for gap in self.gaps if gap < clip.count]))
        first, part = int(rng.integers(clip.count - gap)), int(rng.integers(1, gap))
        steps = [0, part, gap]
        if gap <= first < clip.count - 2 * gap and rng.random() < 0.5:  # a pair alone is as common
            steps = [-gap, *steps, 2 * gap]
        frames = [clip.read(first + step) for step in steps]
        return triplet(
            frames,
            (part, gap),
            self.size,
            rng,
            zoom=self.augment,
            privileged=self.privileged,
            effort=self.effort,
            augment=self.augment,
        )


def triplet(
    frames: Sequence[Image],
    when: tuple[int, int],
    size: int,
    rng: Rng,
    *,
    zoom: bool,
    privileged: bool,
    effort: str = "base",
    augment: bool = True,
) -> Sample:
    """An interpolation sample of three whole pictures (frame0, truth, frame1), with every augmentation or next to none.

    Or of five, with one more on either side, as far away as frame0 and frame1 are from one another.

    The truth is at t = when[0] / when[1]. Geometry comes first and is done to the pictures (one of the square's eight
    symmetries, time reversal, 1–2× zoom, opposite shifts), so that flows are measured on the result and never have to
    be moved along; then `finish` follows.
    """
    part, gap = when
    if rng.random() < 0.5:
        frames, part = frames[::-1], gap - part
    if augment:
        frames = turned(frames, rng)
    elif rng.random() < 0.5:
        frames = [np.asarray(cv2.flip(np.ascontiguousarray(frame), 1), np.uint8) for frame in frames]
    scale = float(rng.uniform(1, 2)) if zoom and rng.random() < 0.3 else 1.0
    height, width = (int(side * scale) for side in frames[0].shape[:2])
    down = right = 0
    if augment and 2 * part == gap and rng.random() < 0.2:
        # frame0 shifted one way, frame1 the other: at t = ½, and only there, this is more of one straight motion
        down, right = (
            int(rng.integers(-most, most + 1)) for most in (min(MOST_SHIFT, (s - size) // 2) for s in (height, width))
        )
        frames = frames[-4:-1] if len(frames) > 3 else frames  # those around would have to go three times as far
    bottom, end = height - abs(down), width - abs(right)  # of what all three frames have
    middle = len(frames) // 2
    change = _movement(frames[middle - 1], frames[middle + 1])

    def place() -> tuple[int, int, float]:
        y, x = int(rng.integers(abs(down), bottom - size + 1)), int(rng.integers(abs(right), end - size + 1))
        area = tuple(slice(int(a / scale) // 4, int((a + size) / scale) // 4 + 1) for a in (y, x))
        return y, x, float(change[area].mean())

    y, x, _ = max((place() for _ in range(4)), key=lambda found: found[2])  # where it moves there is more to learn
    # The context may end at the picture's border; the crop has to begin at a whole pixel of the flow
    above, before = (min(CONTEXT, (a - abs(s)) // 4 * 4) for a, s in ((y, down), (x, right)))
    rows = above + size + min(CONTEXT, (bottom - y - size) // 4 * 4)
    columns = before + size + min(CONTEXT, (end - x - size) // 4 * 4)

    def window(frame: Image, s: int) -> Image:
        return _window(frame, scale, y - above + s * down, x - before + s * right, rows, columns)

    windows = [window(frame, number - middle) for number, frame in enumerate(frames)]
    known = None
    if privileged:
        same = [window(frame, 0) for frame in frames] if down or right else windows
        moved = np.array([right, down], np.float32)[:, None, None]
        inner = np.s_[:, :, above // 4 : (above + size) // 4, before // 4 : (before + size) // 4]
        known = privileged_flow(same[middle - 1 :][:3])[inner] + np.stack([moved, -moved])
    return finish(windows, part / gap, (above, before), size, rng, flows=known, effort=effort, augment=augment)


def _movement(frame0: Image, frame1: Image) -> NDArray[np.float32]:
    """How much changes, of 255, at every fourth pixel."""
    change = cv2.absdiff(np.ascontiguousarray(frame0[::4, ::4]), np.ascontiguousarray(frame1[::4, ::4]))
    return np.asarray(change.mean(axis=2, dtype=np.float32))


def _window(frame: Image, scale: float, top: int, left: int, rows: int, columns: int) -> Image:
    """A piece of the frame enlarged by `scale`, in pixels of the enlarged one; the rest is not computed."""
    if scale == 1.0:
        return frame[top : top + rows, left : left + columns]
    offset = [(start + 0.5) / scale - 0.5 for start in (left, top)]
    matrix = np.array([[1 / scale, 0, offset[0]], [0, 1 / scale, offset[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    frame = np.ascontiguousarray(frame)
    enlarged = cv2.warpAffine(frame, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(enlarged, np.uint8)


def turned(images: Sequence[Image], rng: Rng) -> list[Image]:
    """One of the eight symmetries of the square, drawn at random, the same for all."""
    quarters, mirror = int(rng.integers(4)), bool(rng.random() < 0.5)
    if quarters:
        images = [np.asarray(cv2.rotate(np.ascontiguousarray(i), quarters - 1), np.uint8) for i in images]
    return [np.asarray(cv2.flip(np.ascontiguousarray(i), 1), np.uint8) for i in images] if mirror else list(images)


def reordered(image: Image, order: Sequence[int]) -> Image:
    """The channels in another order; many times faster than numpy's indexing."""
    planes = cv2.split(image)
    return np.asarray(cv2.merge([planes[channel] for channel in order]), np.uint8)


def privileged_flow(frames: Sequence[Image]) -> NDArray[np.float32]:
    """Flow from the truth to both frames by DIS, which the network, without the truth, has to find.

    The teacher of RIFE (Huang et al. 2022, section 3.4, privileged distillation) without a teacher network.
    frames: frame0, truth, frame1, uint8 [H,W,3], H and W multiples of 4. Returns float32 [2,2,H/4,W/4] in pixels, NaN
    where a flow does not explain the truth.
    """
    half = [_half(frame) for frame in frames]
    height, width = half[1].shape[:2]
    grid = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    found = []
    for other in (half[0], half[2]):
        flow = _dis(half[1], other)
        places = grid + flow
        there = cv2.remap(other, places[..., 0], places[..., 1], cv2.INTER_LINEAR)
        error = cv2.absdiff(there, half[1]).mean(axis=2)
        quarter = (width // 2, height // 2)
        small = 2 * cv2.resize(flow, quarter, interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
        small[:, cv2.resize(error, quarter, interpolation=cv2.INTER_AREA) > UNEXPLAINED] = np.nan
        found.append(small)
    return np.asarray(np.stack(found), np.float32)


def half_flow(frame0: Image, frame1: Image) -> NDArray[np.float32]:
    """Optical flow from frame0 to frame1 by DIS on half the size: float32 [H/2,W/2,2] (x, y) in px of the full frame.

    Half the size is as exact as the whole (in rendered scenes, a median of 0.4 px against 0.3 px) in a third of the
    time, and a better teacher than the prior (0.7 px).
    """
    return np.asarray(_dis(_half(frame0), _half(frame1)) * np.float32(2))


def _half(frame: Image) -> Image:
    half = (frame.shape[1] // 2, frame.shape[0] // 2)
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), half, interpolation=cv2.INTER_AREA), np.uint8)


def _dis(frame0: Image, frame1: Image) -> NDArray[np.float32]:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    dis.setFinestScale(0)  # the pictures are small already
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (frame0, frame1)]
    return np.asarray(dis.calc(grey[0], grey[1], np.empty(0, np.float32)), np.float32)


# --- from pictures to a sample -------------------------------------------------------------------------------


def finish(
    windows: Sequence[Image],
    t: float,
    corner: tuple[int, int],
    size: int,
    rng: Rng,
    *,
    flows: NDArray[np.float32] | None = None,
    visible: NDArray[np.float32] | None = None,
    effort: str = "base",
    augment: bool = True,
) -> Sample:
    """An interpolation sample of frame0, truth and frame1, or of these and one more on either side, with context around
    the crop at `corner` (y, x), both multiples of 4.

    With `augment` colours change here, places do not: channel order and exposure alike for all; a drift of exposure,
    noise and JPEG for the inputs only, since the truth is what should come out. The flow prior is computed on what
    results.
    flows [2,2,S/4,S/4] (flow_t0, flow_t1) and visible [2,S/4,S/4] belong to the crop.
    """
    often = 0.15 if augment else 0.0
    order = rng.permutation(3).tolist() if augment else [0, 1, 2]
    frames = [reordered(np.ascontiguousarray(frame), order) for frame in windows]
    exposure = float(rng.uniform(0.6, 1.3)) if rng.random() < 2 * often else 1.0
    drift = rng.normal(0, 0.01, 2) if rng.random() < often else np.zeros(2)
    noise = float(rng.uniform(0, 4)) if rng.random() < often else 0.0  # sigma, of 255
    quality = int(rng.integers(60, 97)) if rng.random() < often else None
    # as light that changes evenly from frame0 to frame1 is at t
    gains = [1 + drift[0], 1 + (1 - t) * drift[0] + t * drift[1], 1 + drift[1]]
    if len(frames) > 3:
        gains = [gains[0], *gains, gains[2]]
    frames = [_exposed(frame, exposure * float(gain)) for frame, gain in zip(frames, gains, strict=True)]
    truth = frames.pop(len(frames) // 2)
    inputs = [_recorded(frame, noise, quality, rng) for frame in frames]
    found = [flow_prior(*pair, effort=effort) for pair in pairwise(inputs)]
    before, between, after = found if len(found) == 3 else (None, found[0], None)
    stride = STRIDE[effort]
    known = with_acceleration(between, before, after, stride=stride)
    prior = np.stack(known if len(known) == 4 else (*known, *np.zeros_like(known)))
    frame0, frame1 = inputs[len(inputs) // 2 - 1 :][:2]
    y, x = corner
    crop = np.s_[y : y + size, x : x + size]
    cells = np.s_[:, :, y // stride : (y + size) // stride, x // stride : (x + size) // stride]
    planes = [np.stack(cv2.split(frame[crop])) for frame in (frame0, truth, frame1)]
    side = size // FLOW_STRIDE
    unknown = np.full((2, 2, side, side), np.nan, np.float32)
    flow01, flow10, acceleration0, acceleration1 = np.ascontiguousarray(prior[cells])
    flow_t0, flow_t1 = unknown if flows is None else np.ascontiguousarray(flows, np.float32)
    return {
        "frame0": planes[0],
        "truth": planes[1],
        "frame1": planes[2],
        "t": np.array(t, np.float32),
        "flow01": flow01,
        "flow10": flow10,
        "acceleration0": acceleration0,
        "acceleration1": acceleration1,
        "flow_t0": flow_t0,
        "flow_t1": flow_t1,
        "visible": np.ones((2, side, side), np.float32) if visible is None else np.ascontiguousarray(visible),
    }


def in_frame(flow: Flow, size: int) -> NDArray[np.bool_]:
    """Where a flow [...,2,S/4,S/4] of a crop ends inside of it: [...,S/4,S/4]."""
    centres = np.arange(size // FLOW_STRIDE, dtype=np.float32) * FLOW_STRIDE + (FLOW_STRIDE - 1) / 2
    x, y = flow[..., 0, :, :] + centres, flow[..., 1, :, :] + centres[:, None]
    return np.asarray((x >= 0) & (x <= size - 1) & (y >= 0) & (y <= size - 1))


def _exposed(frame: Image, gain: float) -> Image:
    return frame if gain == 1.0 else np.asarray(cv2.convertScaleAbs(frame, alpha=gain), np.uint8)


def _recorded(frame: Image, noise: float, quality: int | None, rng: Rng) -> Image:
    """What a camera and a codec add: Gaussian noise (sigma, of 255) and JPEG."""
    if noise:
        noisy = frame + noise * rng.standard_normal(frame.shape, np.float32)
        frame = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if quality is not None:
        code = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        assert decoded is not None  # our own JPEG
        frame = np.asarray(decoded[..., ::-1], np.uint8, order="C")
    return frame

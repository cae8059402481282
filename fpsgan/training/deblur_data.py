"""Training samples for the deblurring network: {"blurred", "sharp": uint8 [3,S,S] RGB}.

Blur comes from three places: photos shaken on purpose, with any path a hand may take but no moving objects; high-fps
clips, whose frames a longer exposure would have added up; and corpora that bring pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deblur.blur import convolve, defocus_kernel, path_kernel, sensor, shake, shake_path, to_code, to_linear
from deblur.shake import deconvolve
from deblur.tiles import picture_of
from fpsgan.errors import InputError
from fpsgan.training.data import Image, Photos, Rng, Sample, fitting, half_flow, reordered, turned
from fpsgan.training.manifest import Clip

__all__ = ["BlurredClips", "PairedFrames", "ShakenPhotos", "degrade", "expose", "take_crop"]

MARGIN = 16  # px around a crop, so that blur carries in what really lay outside
SHORTEST = 3.0  # px: the shortest path of a shaken camera
UNTOUCHED = 0.05  # share of samples that are sharp already and must stay as they are; at 0.16 all else stayed too
FOUND = 0.8  # share of the kernels that `deblur.shake` is taken to find
WINDOWS = (3, 5, 5, 7, 7, 9, 11, 13)  # frames that add up to one blurred picture
DENSE = 1.5  # px from one frame to the next, from which a mean of frames shows them apart
MOST_BETWEEN = 12  # frames rendered between two, at most


class ShakenPhotos:
    """Photos blurred by a moving camera or out of focus, see `degrade`.

    `places` are photos and folders of them (`Photos`). `longest` is the extent of the longest path in px; over the
    first `ramp` samples of a run it grows from 3 px, since a network learns to undo short paths first. InputError for
    an empty folder or an unreadable picture, ValueError for a longest below 3. `undone`: see `degrade`.
    """

    def __init__(
        self, places: Sequence[str | Path], size: int, longest: float = 31.0, *, ramp: int = 0, undone: bool = False
    ) -> None:
        if longest < SHORTEST:
            raise ValueError(f"longest {longest}: {SHORTEST:g} px or more")
        if size < 32 or size % 8:
            raise ValueError(f"crop {size}: a multiple of 8 from 32 up is needed")
        self.photos, self.size, self.longest, self.ramp, self.undone = Photos(places), size, longest, ramp, undone

    def sample(self, rng: Rng, index: int = 0) -> Sample:
        for _ in range(8):  # nearly flat crops teach nothing; most are passed over
            crop = take_crop(self.photos.pick(rng, index), self.size + 2 * MARGIN, rng)
            if np.abs(np.diff(crop[..., 1].astype(np.int16), axis=1)).mean() >= 1.5 or rng.random() < 0.15:
                break
        longest = SHORTEST + (self.longest - SHORTEST) * min(1.0, index / self.ramp if self.ramp else 1.0)
        blurred, sharp = degrade(crop, rng, longest, undone=self.undone)
        inner = slice(MARGIN, MARGIN + self.size)
        return _pair(blurred[inner, inner], sharp[inner, inner])


class BlurredClips:
    """The mean of an odd number of consecutive frames in linear light, and the frame in its middle (see `expose`).

    The number is drawn at random, up to 13, but so that the movement stays within about `longest` px (three frames are
    always taken). InputError if a clip is smaller than `size` or has under three frames.
    """

    def __init__(self, clips: Sequence[Clip], size: int, *, longest: float = 32.0) -> None:
        self.clips, self.size, self.longest = fitting(clips, size, 3), size, longest

    def sample(self, rng: Rng, index: int = 0) -> Sample:
        clip = self.clips[int(rng.integers(len(self.clips)))]
        count = int(rng.choice([n for n in WINDOWS if n <= clip.count]))
        first = int(rng.integers(clip.count - count + 1))
        noise = float(rng.uniform(0, 0.012)) if rng.random() < 0.5 else 0.0
        jpeg = int(rng.integers(75, 99)) if rng.random() < 0.25 else None
        untouched = rng.random() < UNTOUCHED
        half = count // 2
        pair = [clip.read(first + half + step) for step in (0, 1)]
        change = cv2.absdiff(pair[0][::4, ::4], pair[1][::4, ::4]).mean(axis=2)
        places = [tuple(int(rng.integers(side - self.size + 1)) for side in pair[0].shape[:2]) for _ in range(4)]
        # a crop where something moves, with a margin as far as there is one
        y, x = max(places, key=lambda at: change[tuple(slice(a // 4, (a + self.size) // 4) for a in at)].mean())
        above, before = (min(MARGIN, a) for a in (y, x))
        window = (slice(y - above, y + self.size + MARGIN), slice(x - before, x + self.size + MARGIN))
        inner = (slice(above, above + self.size), slice(before, before + self.size))
        pair = [image[window] for image in pair]
        if untouched:
            same = sensor(to_code(to_linear(pair[0])), rng, noise=noise / 2 if jpeg is None else 0.0, jpeg=jpeg)[inner]
            return _pair(*turned([same, same], rng))
        speed = _speed(half_flow(*pair))
        half = min(half, max(1, int(self.longest / max(speed, 1e-6) / 2)))
        centre = first + count // 2
        frames = [clip.read(n)[window] for n in range(centre - half, centre)]
        frames += [*pair, *(clip.read(n)[window] for n in range(centre + 2, centre + half + 1))]
        blurred = sensor(expose(frames), rng, noise=noise, jpeg=jpeg)[inner]
        return _pair(*_recoloured(turned([blurred, pair[0][inner]], rng), rng))


class PairedFrames:
    """Crops of the pairs of a corpus (GoPro, DVD, REDS): clips with `blurred` pictures.

    InputError if a clip has none or is smaller than `size`. What takes the time here is to decode two whole pictures.
    """

    def __init__(self, clips: Sequence[Clip], size: int) -> None:
        self.clips, self.size = fitting(clips, size, 1), size
        without = [clip.name for clip in clips if not clip.blurred]
        if without:
            raise InputError(f"{len(without)} of {len(clips)} clips have no blurred pictures (the first: {without[0]})")
        self.ends = np.cumsum([clip.count for clip in clips])  # every frame is as likely as any other

    def sample(self, rng: Rng, index: int = 0) -> Sample:
        number = int(rng.integers(self.ends[-1]))
        which = int(np.searchsorted(self.ends, number, side="right"))
        clip, frame = self.clips[which], number - int(self.ends[which])  # counted from the clip's end
        sharp, blurred = clip.read(clip.count + frame), clip.read_blurred(clip.count + frame)
        y, x = (int(rng.integers(side - self.size + 1)) for side in sharp.shape[:2])
        crop = (slice(y, y + self.size), slice(x, x + self.size))
        return _pair(*_recoloured(turned([blurred[crop], sharp[crop]], rng), rng))


def take_crop(photo: Image, size: int, rng: Rng) -> Image:
    """A random [size,size,3] piece: any place, shrunk by 1–2× (a shrunk photo is a sharper one), turned, mirrored."""
    scale = 1.0 if rng.random() < 0.4 else rng.uniform(1, 2)
    side = min(round(size * scale), *photo.shape[:2])
    y, x = (int(rng.integers(limit - side + 1)) for limit in photo.shape[:2])
    crop: NDArray[Any] = photo[y : y + side, x : x + side]
    if side != size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    crop = turned([np.asarray(crop, np.uint8)], rng)[0]
    if rng.random() < 0.25:
        crop = reordered(np.ascontiguousarray(crop), rng.permutation(3).tolist())
    if rng.random() < 0.3:  # exposure; above 1 the highlights clip
        crop = np.asarray(cv2.convertScaleAbs(np.ascontiguousarray(crop), alpha=float(rng.uniform(0.6, 1.3))), np.uint8)
    return np.ascontiguousarray(crop)


def degrade(sharp: Image, rng: Rng, longest: float = 31.0, *, undone: bool = False) -> tuple[Image, Image]:
    """(blurred, target) of a sharp crop uint8 [S,S,3].

    One in twenty comes back untouched but for noise or JPEG, as its own target: sharp input must stay as it is. The
    others are out of focus or moved along a path of 3 to `longest` px, some turning as well, in linear light or in
    code values (as pictures are blurred by software), with noise and JPEG on top.

    `undone`: most of those blurred by one kernel (FOUND) come as `deblur.shake.undo_shake` would leave them. To find
    the kernel takes a second; the true one, made wrong in the ways of a found one, stands in for it.
    """
    kind = rng.random()
    noise = float(rng.uniform(0, 0.012)) if rng.random() < 0.5 else 0.0
    jpeg = int(rng.integers(75, 99)) if rng.random() < 0.25 else None
    if kind < UNTOUCHED:
        whole = sharp.astype(np.float32) / np.float32(255)
        same = sensor(whole, rng, noise=noise / 2 if jpeg is None else 0.0, jpeg=jpeg)
        return same, same
    gamma = float(rng.choice([1.0, 2.2, 2.2]))
    kernel: NDArray[np.float32] | None = None
    if kind < 0.09:
        kernel = defocus_kernel(rng.uniform(0.7, 4.0))
    elif kind < 0.12:
        column = cv2.getGaussianKernel(21, rng.uniform(0.5, 2.5), cv2.CV_32F)
        kernel = np.asarray(column @ column.T, np.float32)
    else:
        extent = SHORTEST + (longest - SHORTEST) * rng.random() ** 1.4
        path = shake_path(extent, rng, wander=0.0 if rng.random() < 0.55 else rng.uniform(0.05, 0.9))
        if kind < 0.18:
            # As many radians as move the crop's corner by up to a quarter of the path's length either way
            turns = np.linspace(-1, 1, 43) * rng.uniform(0, 0.25) * extent / (sharp.shape[0] * 0.7)
            blurred = shake(sharp, path[::3], turns.astype(np.float32), gamma)
        else:
            kernel = path_kernel(path)
    if kernel is not None:
        blurred = convolve(sharp, kernel, gamma)
    recorded = sensor(blurred, rng, noise=noise, jpeg=jpeg)
    if undone and kernel is not None and rng.random() < FOUND:
        planes = torch.from_numpy(recorded).permute(2, 0, 1) / 255
        planes = deconvolve(planes, torch.from_numpy(_as_found(kernel, rng)), gamma)
        recorded = np.rint(255 * picture_of(planes)).astype(np.uint8)
    return recorded, sharp


def _as_found(kernel: NDArray[np.float32], rng: Rng) -> NDArray[np.float32]:
    """A kernel as one found in a blurred picture differs from the true one: softer or not, uneven, its faint parts
    gone, and a few specks beside it."""
    sigma = float(rng.uniform(0.2, 0.7))
    wide = np.asarray(cv2.GaussianBlur(np.pad(kernel, 2), (5, 5), sigma), np.float32)
    wide *= np.exp(rng.normal(0, rng.uniform(0.05, 0.6), wide.shape)).astype(np.float32)
    wide *= wide >= rng.uniform(0.03, 0.2) * wide.max()
    specks = (rng.random(wide.shape) < rng.uniform(0, 0.02)) * (cv2.blur(wide, (5, 5)) > 0)
    wide += np.where(specks, rng.uniform(0.1, 0.5) * wide.max(), 0).astype(np.float32)
    return np.asarray(wide / wide.sum(), np.float32)


def expose(frames: Sequence[Image], gamma: float = 2.2) -> NDArray[np.float32]:
    """What a shutter open over all of the frames records: their mean in linear light (Nah et al., CVPR 2017, 3).

    frames: uint8 [H,W,3], evenly spaced. Float 0..1 [H,W,3] code values out. Where more than 1.5 px pass from one frame
    to the next a plain mean shows the frames apart instead of a smear; in-between frames are then rendered, one per
    pixel of movement, by warping both neighbours along their optical flow. Flow between neighbours is small and easy,
    and what is wrong with one in-between frame is spread thin in the mean.
    """
    light = [to_linear(frame, gamma) for frame in frames]
    flows = [half_flow(a, b) for a, b in pairwise(frames)]
    speed = max((_speed(flow) for flow in flows), default=0.0)
    between = min(MOST_BETWEEN, int(np.ceil(speed)) - 1) if speed > DENSE else 0
    total = np.sum(light, axis=0, dtype=np.float32)
    if between:
        height, width = frames[0].shape[:2]
        grid = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
        for flow, (before, after) in zip(flows, pairwise(light), strict=True):
            flow = np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
            for step in range(1, between + 1):
                t = np.float32(step / (between + 1))
                total += (1 - t) * _moved(before, grid - t * flow) + t * _moved(after, grid + (1 - t) * flow)
    return to_code(np.asarray(total) / np.float32(len(frames) + between * (len(frames) - 1)), gamma)


def _moved(image: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
    across, down = places[..., 0], places[..., 1]
    return np.asarray(cv2.remap(image, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _speed(flow: NDArray[np.float32]) -> float:
    """px per frame of what moves: the 95th percentile."""
    return float(np.percentile(np.hypot(flow[::4, ::4, 0], flow[::4, ::4, 1]), 95))


def _recoloured(images: Sequence[Image], rng: Rng) -> list[Image]:
    if rng.random() >= 0.25:
        return list(images)
    order = rng.permutation(3).tolist()
    return [reordered(np.ascontiguousarray(image), order) for image in images]


def _pair(blurred: Image, sharp: Image) -> Sample:
    return {"blurred": np.stack(cv2.split(blurred)), "sharp": np.stack(cv2.split(sharp))}

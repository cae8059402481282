"""How each frame relates to the one before it: the same scene in motion, the same picture again, or another scene."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import OptionError, check_choice
from fpsgan.stages.timeline import Relation
from fpsgan.video.frame import Frame

__all__ = ["RUN_UP", "SCENE_THRESHOLD", "SceneDetector", "SceneSettings", "related", "stillness"]

Grey = NDArray[np.uint8]

# Likeness of a pair, relative to the pairs before it, below which there is a cut: fast action is unlike for many pairs
# in a row, a cut for one. Chosen with tools/cut_bench.py on half of its clips; docs/experiments.md has the other half.
SCENE_THRESHOLD = 0.48
BEFORE = 2  # pairs, of which the more alike counts
UNKNOWN = 0.7  # likeness that a first pair is compared with
ALIKE = 0.7  # likeness above which there is no doubt
EMPTY = 1.5  # codes of contrast, below which the structure of a picture says nothing
CHANGE = 64.0  # mean change of the sorted brightness, in codes, that counts as complete

# How readily a frame is taken for a repeated drawing: (codes, share). The largest change of any 16×16 block must stay
# below so many 8-bit codes, or below that share of the largest recent change: compression errors grow with motion.
HELD_LIMITS = {"off": (-1.0, 0.0), "auto": (1.0, 0.05), "on": (2.5, 0.1)}
LATE = 12  # frames
REPEATED = HELD_LIMITS["auto"][0]

RUN_UP = LATE + 1  # frames after which the stage has forgotten how it began, except for a drawing held for longer


@dataclass(frozen=True)
class SceneSettings:
    """``threshold``, 0 to 1: a frame begins another scene if its likeness to the frame before is below this share of
    the likeness of the pairs before (0: no cuts). ``dedup``: "auto", "on" or "off", how readily a frame is taken for a
    repeated drawing. Raises OptionError for other values."""

    threshold: float = SCENE_THRESHOLD
    dedup: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"--scene-threshold {self.threshold}: must lie between 0 (no cuts) and 1")
        check_choice("--dedup", self.dedup, tuple(HELD_LIMITS))


def related(frames: Iterable[Frame], settings: SceneSettings) -> Iterator[tuple[Frame, Relation]]:
    """The stage: each frame with its relation to the one before it; the first is MOTION. No look-ahead."""
    detector = SceneDetector(settings)
    for frame in frames:
        yield frame, detector.relate(frame.luma)


class SceneDetector:
    """Finds the relation of each picture to the one before it, from grey pictures in order."""

    def __init__(self, settings: SceneSettings | None = None) -> None:
        settings = settings or SceneSettings()
        self.threshold = settings.threshold
        self._codes, self._share = HELD_LIMITS[settings.dedup]
        self._changes: deque[float] = deque(maxlen=LATE)
        self._drawing: Grey | None = None  # the first frame of the current run of repeats
        self._thumbnail: Grey | None = None
        self._before: deque[float] = deque(maxlen=BEFORE)  # likeness of the pairs before this one
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def relate(self, luma: Grey) -> Relation:
        """Relation of this picture ([H, W] uint8) to the one given before; the first is MOTION."""
        size = (128, max(16, round(luma.shape[0] * 128 / luma.shape[1])))
        thumbnail = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)
        drawing, before = self._drawing, self._thumbnail
        self._thumbnail = thumbnail
        if drawing is not None and before is not None:
            change = largest_block_change(drawing, luma)
            limit = max(self._codes, min(6 * self._codes, self._share * max(self._changes, default=0.0)))
            self._changes.append(change)
            if change <= limit:
                return Relation.HELD
            self._drawing = luma
            likeness = self.likeness(before, thumbnail)
            limit = self.threshold * max(self._before, default=UNKNOWN)
            if change > REPEATED:  # a repeat says nothing about the speed of motion
                self._before.append(likeness)
            return Relation.CUT if likeness < limit else Relation.MOTION
        self._drawing = luma
        return Relation.MOTION

    def likeness(self, before: Grey, after: Grey) -> float:
        """How well motion explains one thumbnail by the other, in whatever light: 1 for equal, about ¼ for unrelated.

        A fast pan changes every pixel and is no cut, so the two are aligned by optical flow before they are compared,
        both ways, and the better match counts: content that leaves the frame can only be matched one way. In doubt the
        flow is found again from the global shift (phase correlation). Brightness and contrast are normalised first,
        because of flashes and strobes; they count for what structure leaves in doubt, and alone where a picture is
        empty, as at the end of a fade.
        """
        light0, light1 = (np.sort(thumbnail, axis=None).astype(np.int16) for thumbnail in (before, after))
        light = min(1.0, float(np.abs(light1 - light0).mean()) / CHANGE)
        if min(before.std(), after.std()) < EMPTY:
            return 1 - light
        plain0, plain1 = _plain(before), _plain(after)
        likeness = self._explained(plain0, plain1, np.zeros(2))
        if likeness < ALIKE:
            fade = cv2.createHanningWindow(plain0.shape[::-1], cv2.CV_32F)
            shift, _ = cv2.phaseCorrelate(plain0.astype(np.float32), plain1.astype(np.float32), fade)
            likeness = max(likeness, self._explained(plain0, plain1, np.array(shift)))
        return max(0.0, likeness - (1 - likeness) * light / 2)

    def _explained(self, before: Grey, after: Grey, shift: NDArray[np.float64]) -> float:
        """Likeness after alignment by flow that starts from a shift (x, y) in px."""
        rows, columns = before.shape
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        best = -1.0
        for frame0, frame1, start in ((before, after, shift), (after, before, -shift)):
            flow = self._flow.calc(frame0, frame1, np.full((rows, columns, 2), start, np.float32))
            moved = cv2.remap(
                frame1, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            best = max(best, _structure(frame0, np.asarray(moved, np.uint8)))
        return best


def largest_block_change(frame0: Grey, frame1: Grey) -> float:
    """Largest change of the mean over blocks of 16×16 (less in tiny pictures), in codes: sensitive to small moving
    objects, not to grain."""
    block = max(2, min(16, min(frame0.shape) // 16))
    size = (frame0.shape[1] // block, frame0.shape[0] // block)
    change = cv2.subtract(frame1, frame0, dtype=cv2.CV_32F)
    net = cv2.resize(change, size, interpolation=cv2.INTER_AREA)
    # a thin line that moves inside its block does not change the mean: look at the size of the changes too
    gross = cv2.resize(np.abs(change), size, interpolation=cv2.INTER_AREA)
    return max(float(np.abs(net).max()), float(gross.max()) - 1.5)


def stillness(before: Grey, after: Grey) -> NDArray[np.float32]:
    """Where a picture stands still against the one before it: [H, W] float32, 1 still to 0 moved; both [H, W] uint8.

    Noise, and blur that comes and goes in place, count as still. A shift of 0.4 px that is common to a neighbourhood of
    some 64 px does not, nor does a block of 16 px whose mean changes by 4 codes, which is more than noise can do.
    """
    rows, columns = after.shape
    cells = (-(-columns // 16), -(-rows // 16))
    small = [
        cv2.resize(grey, (max(columns // 2, 16), max(rows // 2, 16)), interpolation=cv2.INTER_AREA)
        for grey in (before, after)
    ]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = search.calc(small[0], small[1], np.empty(0, np.float32))  # an output buffer, not a start
    common = cv2.GaussianBlur(cv2.resize(flow, cells, interpolation=cv2.INTER_AREA), (0, 0), 2)
    shift = 2 * np.hypot(common[..., 0], common[..., 1])  # px of the full size
    change = cv2.subtract(after, before, dtype=cv2.CV_32F)
    step = np.abs(cv2.resize(change, cells, interpolation=cv2.INTER_AREA))
    calm = np.clip(2 - shift / 0.2, 0, 1) * np.clip(2 - step / 2, 0, 1)
    still = cv2.erode(calm.astype(np.float32), np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(still, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def _plain(thumbnail: Grey) -> Grey:
    """Normalised to a mean of 128 and a contrast of 45 codes."""
    contrast = 45 / (thumbnail.std() + 2)
    return np.asarray(cv2.convertScaleAbs(thumbnail, alpha=contrast, beta=128 - contrast * thumbnail.mean()), np.uint8)


def _structure(frame0: Grey, frame1: Grey) -> float:
    """SSIM (Wang et al. 2004, 11×11 Gaussian, σ = 1.5) at a width of 48 px, weighted by local contrast (up to 25
    codes): empty sky or paper is alike in any two pictures."""
    size = (48, max(12, round(frame0.shape[0] * 48 / frame0.shape[1])))
    a, b = (cv2.resize(f, size, interpolation=cv2.INTER_AREA).astype(np.float32) for f in (frame0, frame1))

    def blur(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(picture, (11, 11), 1.5), np.float32)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 6.5025, 58.5225  # (0.01·255)², (0.03·255)²
    ssim = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    weight = np.sqrt(np.clip(np.maximum(var_a, var_b), 0, 25**2)) + 1
    return float((weight * ssim).sum() / weight.sum())

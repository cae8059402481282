"""What each frame is to the one before it: the same scene moved on, the same picture again, or another scene; and what
of it does not move with the scene: overlays that stand still, and light that changes.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import OptionError
from fpsgan.timeline import Relation

__all__ = ["SCENE_THRESHOLD", "Light", "OverlayFinder", "SceneDetector", "light_change", "stillness"]

Grey = NDArray[np.uint8]

# Likeness of a pair, relative to the pairs before it, below which there is a cut: fast action is unlike for many pairs
# in a row, a cut stands alone. Chosen with tools/cut_bench.py on half of its clips; docs/experiments.md has the other.
SCENE_THRESHOLD = 0.48
BEFORE = 2  # pairs, of which the more alike counts
UNKNOWN = 0.7  # likeness that a first pair is measured against
ALIKE = 0.7  # likeness from which there is no doubt
EMPTY = 1.5  # codes of contrast: of a picture with less, structure says nothing
CHANGE = 64.0  # codes that the sorted brightness changes by in the mean, where it cannot change more

# How ready to see a repeated drawing: (codes, share). The largest change of any 16×16 block must stay below so many
# 8-bit codes, or below that share of the largest change of late: compression leaves more behind where much moves.
HELD_LIMITS = {"off": (-1.0, 0.0), "auto": (1.0, 0.05), "on": (2.5, 0.1)}
LATE = 12  # frames

STILL_FOR = 3  # pairs of frames that an overlay must have stood still
EDGE = 40  # codes of local contrast: what begins an overlay. Letters and logos have it, grain has not
TEXTURE = 12  # codes of local contrast from which one can see whether a place moves
ONE_WAY = 0.1  # weaker against stronger direction of edges, squared: below, they all lie one way
REACH = 9  # px that an overlay extends from its edges, so far as nothing changes there

# A fade by 15 % under a pan of 24 px is found; in 46 real clips and animations, pairs 1 and 4 frames apart, only that
# animated gradient which is one.
LEAST_LIGHT = 6.0  # codes that the sorted brightness of the picture must change by in the mean
LEFT_SORTED = 0.15  # of that change, what gain and offset may leave
LEFT_IN_PLACE = 0.6  # the same of the change of 16×9 thumbnails, in which motion counts a little too
MOST_GAIN = 8.0


class SceneDetector:
    """Tells the relation of each picture to its predecessor from grey pictures alone, in order.

    ``threshold``, 0 to 1: a frame begins another scene if it is less like its predecessor than this share of the
    likeness of the pairs before (0 finds no cuts). ``dedup``: "auto", "on" or "off", how ready to see a repeated
    drawing.
    """

    def __init__(self, threshold: float = SCENE_THRESHOLD, dedup: str = "auto") -> None:
        if not 0 <= threshold <= 1:
            raise OptionError(f"--scene-threshold {threshold}: must lie between 0 (no cuts) and 1")
        if dedup not in HELD_LIMITS:
            raise OptionError(f"--dedup {dedup}: must be one of {', '.join(HELD_LIMITS)}")
        self.threshold = threshold
        self._codes, self._share = HELD_LIMITS[dedup]
        self._changes: deque[float] = deque(maxlen=LATE)
        self._drawing: Grey | None = None  # the first frame of the current run of repeats
        self._thumbnail: Grey | None = None
        self._before: deque[float] = deque(maxlen=BEFORE)  # likeness of the pairs before this one
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def relate(self, luma: Grey) -> Relation:
        """Relation of this picture ([H, W] uint8) to the one given before; the first is MOTION."""
        thumbnail = cv2.resize(
            luma, (128, max(16, round(luma.shape[0] * 128 / luma.shape[1]))), interpolation=cv2.INTER_AREA
        )
        drawing, before = self._drawing, self._thumbnail
        self._thumbnail = thumbnail  # type: ignore[assignment]
        if drawing is not None and before is not None:
            change = largest_block_change(drawing, luma)
            limit = max(self._codes, min(6 * self._codes, self._share * max(self._changes, default=0.0)))
            self._changes.append(change)
            if change <= limit:
                return Relation.HELD
            self._drawing = luma
            likeness = self.likeness(before, thumbnail)  # type: ignore[arg-type]
            limit = self.threshold * max(self._before, default=UNKNOWN)
            self._before.append(likeness)
            return Relation.CUT if likeness < limit else Relation.MOTION
        self._drawing = luma
        return Relation.MOTION

    def likeness(self, before: Grey, after: Grey) -> float:
        """How well motion explains one thumbnail by the other, in whatever light: 1 for equal, about ¼ for unrelated.

        A fast pan changes every pixel and is no cut, so the two are aligned by optical flow before they are compared,
        both ways, and the better match counts: what leaves the picture cannot be matched, only what stays. In doubt
        flow sets out once more, from the shift of the whole (phase correlation). Brightness and contrast are made equal
        first, for flashes and strobes; they count for what structure leaves in doubt, and alone where a picture is
        empty, as at the end of a fade.
        """
        light0, light1 = (np.sort(thumbnail, axis=None).astype(np.int16) for thumbnail in (before, after))
        light = min(1.0, float(np.abs(light1 - light0).mean()) / CHANGE)
        if min(before.std(), after.std()) < EMPTY:
            return 1 - light
        plain0, plain1 = _plain(before), _plain(after)
        likeness = self._explained(plain0, plain1, np.zeros(2))
        if likeness < ALIKE:
            fade = cv2.createHanningWindow(plain0.shape[::-1], cv2.CV_32F)  # type: ignore[arg-type]
            shift, _ = cv2.phaseCorrelate(plain0.astype(np.float32), plain1.astype(np.float32), fade)
            likeness = max(likeness, self._explained(plain0, plain1, np.array(shift)))
        return max(0.0, likeness - (1 - likeness) * light / 2)

    def _explained(self, before: Grey, after: Grey, shift: NDArray[np.float64]) -> float:
        """Likeness after alignment by flow that sets out from a shift (x, y) in px."""
        rows, columns = before.shape
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        best = -1.0
        for frame0, frame1, start in ((before, after, shift), (after, before, -shift)):
            flow = self._flow.calc(frame0, frame1, np.full((rows, columns, 2), start, np.float32))
            moved = cv2.remap(
                frame1, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            best = max(best, _structure(frame0, moved))  # type: ignore[arg-type]
        return best


class OverlayFinder:
    """Finds logos, subtitles and displays that stand still on a picture that moves: pairs of grey pictures, in order.

    An overlay has strong edges, in the same places for STILL_FOR pairs in a row, while most of what has texture around
    it, or in the whole picture, moves. Parts of a resting scene are none: around them nothing moves. Nor are edges that
    all lie one way, along the motion: of these nobody can tell whether they move.
    """

    def __init__(self) -> None:
        self._still: Grey | None = None  # for how many pairs each pixel has not changed

    def forget(self) -> None:
        """Another scene begins."""
        self._still = None

    def find(self, luma0: Grey, luma1: Grey) -> Grey | None:
        """The overlay of the next pair ([H,W] uint8): its opacity, [H,W] uint8 of 255, or None if there is none."""
        change = cv2.absdiff(luma0, luma1)
        around = np.ones((3, 3), np.uint8)
        contrast0, contrast1 = (cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, around) for luma in (luma0, luma1))
        least, most = cv2.min(contrast0, contrast1), cv2.max(contrast0, contrast1)
        # an edge that moves by d px changes its pixels by about d/2 of its contrast
        still = _compare(change, cv2.CMP_LE, cv2.convertScaleAbs(least, alpha=0.1, beta=3))
        moves = _compare(change, cv2.CMP_GT, cv2.convertScaleAbs(most, alpha=0.2, beta=2))
        moves &= _compare(most, cv2.CMP_GE, TEXTURE)
        rests = still & _compare(least, cv2.CMP_GE, TEXTURE)
        since = np.zeros_like(luma0) if self._still is None else self._still
        self._still = since = np.asarray(cv2.add(since, 1), np.uint8) & still  # type: ignore[call-overload]
        lasting = _compare(since, cv2.CMP_GE, STILL_FOR)
        edges = lasting & _compare(least, cv2.CMP_GE, EDGE)
        edges[~_moves_around(moves, rests)] = 0
        if edges.any():
            edges[~_both_ways(edges, luma1)] = 0
        if not edges.any():
            return None
        reach = np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
        mask = cv2.morphologyEx(cv2.min(cv2.dilate(edges, reach), lasting), cv2.MORPH_CLOSE, around)
        return np.asarray(cv2.blur(mask, (3, 3)), np.uint8)


def _moves_around(moves: Grey, rests: Grey) -> NDArray[np.bool_]:
    """[H,W]: where most of the texture of a window a third of the picture wide, or of all of it, moves."""
    moving, resting = _shrunk_by(moves, 8), _shrunk_by(rests, 8)
    if moving.mean() > resting.mean() + 2:
        return np.ones(moves.shape, np.bool_)
    window = (max(3, min(moving.shape) // 3),) * 2
    return _enlarged(cv2.blur(moving, window) > cv2.blur(resting, window) + 2, moves)


def _both_ways(edges: Grey, luma: Grey) -> NDArray[np.bool_]:
    """[H,W]: where the edges in a window of 28 px have more than one direction (the structure tensor's eigenvalues)."""
    gradients = [np.where(edges, g, 0).astype(np.float32) for g in cv2.spatialGradient(luma)]
    (xx, yy, xy) = (
        cv2.blur(_shrunk_by(gradients[i] * gradients[k], 4), (7, 7)) for i, k in ((0, 0), (1, 1), (0, 1))
    )  # fmt: skip
    half, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return _enlarged(half - spread > ONE_WAY * (half + spread), edges)


def _shrunk_by(picture: NDArray[Any], factor: int) -> NDArray[np.float32]:
    size = (-(-picture.shape[1] // factor), -(-picture.shape[0] // factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def _enlarged(condition: NDArray[np.bool_], picture: Grey) -> NDArray[np.bool_]:
    size = (picture.shape[1], picture.shape[0])
    return cv2.resize(condition.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def _compare(one: cv2.typing.MatLike, how: int, other: cv2.typing.MatLike | int) -> Grey:
    """255 where the comparison holds, 0 elsewhere."""
    return np.asarray(cv2.compare(one, other, how), np.uint8)  # type: ignore[call-overload,arg-type]


class Light(NamedTuple):
    """A change of light from frame0 to frame1, the same all over the picture: frame1 = gain · frame0 + offset, but for
    motion. Of pictures 0..1; on the way from one to the other both change linearly with time."""

    gain: float
    offset: float

    @property
    def best(self) -> float:
        """0 or 1: the frame with more contrast, in whose light to look for motion."""
        return 0.0 if self.gain <= 1 else 1.0

    def move(self, picture: NDArray[np.float32], time0: float, time1: float) -> NDArray[np.float32]:
        """A picture [...] 0..1 in the light of time0, as it looks in that of time1; times 0 (frame0) to 1 (frame1)."""
        gain0, gain1 = (1 + (self.gain - 1) * t for t in (time0, time1))
        offset = self.offset * (time1 - time0 * gain1 / gain0)
        return picture * np.float32(gain1 / gain0) + np.float32(offset)


def light_change(luma0: Grey, luma1: Grey) -> Light | None:
    """The change of light between two pictures [H,W]: a fade or a flash. None if there is none to speak of.

    Motion hardly changes how much of a picture is how bright, a change of light does, at every brightness. So gain and
    offset are those of the sorted pixels; they have to explain these, and most of what changes place by place.
    """
    sorted0, sorted1 = (np.sort(_shrunk(luma, (128, 128)), axis=None)[32::64] for luma in (luma0, luma1))
    change = float(np.abs(sorted1 - sorted0).mean())
    if change < LEAST_LIGHT:
        return None
    gain = float((sorted1.std() + 1e-3) / (sorted0.std() + 1e-3))
    offset = float(sorted1.mean() - gain * sorted0.mean())
    if not 1 / MOST_GAIN <= gain <= MOST_GAIN:
        return None
    places0, places1 = (_shrunk(luma, (16, 9)) for luma in (luma0, luma1))
    for before, after, left in ((sorted0, sorted1, LEFT_SORTED), (places0, places1, LEFT_IN_PLACE)):
        unexplained = np.abs(after - (gain * before + offset)).mean() / max(1.0, gain)
        if unexplained > left * np.abs(after - before).mean():
            return None
    return Light(gain, offset / 255)


def _shrunk(luma: Grey, size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)


def largest_block_change(frame0: Grey, frame1: Grey) -> float:
    """Largest change of the mean over blocks of 16×16 (less in tiny pictures), in codes: small things that move
    count, grain does not."""
    block = max(2, min(16, min(frame0.shape) // 16))
    size = (frame0.shape[1] // block, frame0.shape[0] // block)
    change = cv2.subtract(frame1, frame0, dtype=cv2.CV_32F)  # type: ignore[call-overload]
    net = cv2.resize(change, size, interpolation=cv2.INTER_AREA)
    # a thin line that moves inside its block leaves the mean alone: look at the size of the changes too
    gross = cv2.resize(np.abs(change), size, interpolation=cv2.INTER_AREA)
    return max(float(np.abs(net).max()), float(gross.max()) - 1.5)


def stillness(before: Grey, after: Grey) -> NDArray[np.float32]:
    """Where a picture stands still against the one before it: [H, W] float32, 1 still to 0 moved; both [H, W] uint8.

    Noise, and blur that comes and goes around one place, count as still. A shift of 0.4 px that is common to a
    neighbourhood of some 64 px does not, nor do blocks of 16 px whose mean changes by 4 codes, more than noise can.
    """
    rows, columns = after.shape
    cells = (-(-columns // 16), -(-rows // 16))
    small = [
        cv2.resize(grey, (max(columns // 2, 16), max(rows // 2, 16)), interpolation=cv2.INTER_AREA)
        for grey in (before, after)
    ]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*small, None)  # type: ignore[call-overload]
    common = cv2.GaussianBlur(cv2.resize(flow, cells, interpolation=cv2.INTER_AREA), (0, 0), 2)
    shift = 2 * np.hypot(common[..., 0], common[..., 1])  # px of the full size
    change = cv2.subtract(after, before, dtype=cv2.CV_32F)  # type: ignore[call-overload]
    step = np.abs(cv2.resize(change, cells, interpolation=cv2.INTER_AREA))
    still = np.clip(2 - shift / 0.2, 0, 1) * np.clip(2 - step / 2, 0, 1)
    still = cv2.erode(still.astype(np.float32), np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(still, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def _plain(thumbnail: Grey) -> Grey:
    """The same with the middle grey as its mean and a contrast of 45 codes."""
    contrast = 45 / (thumbnail.std() + 2)
    return np.asarray(cv2.convertScaleAbs(thumbnail, alpha=contrast, beta=128 - contrast * thumbnail.mean()), np.uint8)


def _structure(frame0: Grey, frame1: Grey) -> float:
    """SSIM (Wang et al. 2004, 11×11 Gaussian, σ = 1.5) of the two at 48 px of width; places count by the contrast they
    have (up to 25 codes): empty sky or paper is alike in any two pictures."""
    size = (48, max(12, round(frame0.shape[0] * 48 / frame0.shape[1])))
    a, b = (cv2.resize(f, size, interpolation=cv2.INTER_AREA).astype(np.float32) for f in (frame0, frame1))

    def blur(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        return cv2.GaussianBlur(picture, (11, 11), 1.5)  # type: ignore[return-value]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 6.5025, 58.5225  # (0.01·255)², (0.03·255)²
    ssim = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    weight = np.sqrt(np.clip(np.maximum(var_a, var_b), 0, 25**2)) + 1
    return float((weight * ssim).sum() / weight.sum())

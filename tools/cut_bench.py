"""Cuts found, missed and imagined: our detector beside PySceneDetect's, on the same frames with exact labels.

    pip install --no-deps --target runs/peers scenedetect==0.7.2 click
    python tools/cut_bench.py FOLDER… [--half report] [--each 40] [--labels FILE] [--json FILE] [--sheet FILE.png]

FOLDERs hold videos, Lottie animations and photos. Of these and of scenes that are rendered it makes sequences of each
kind of transition. Different clips spliced are cuts; what happens within a shot (fast action: every so-many-th frame)
is none, nor are dissolves, fades and flashes: pictures in between can be made there. Films with cuts of their own are
taken as they are; LABELS names these cuts. Every other file, by name, is in the half to choose settings on, the others
are in the half to report.

Columns: cuts found of those there are, frames falsely called a cut, per kind and in all, and ms a frame of 256 px (one
thread). "before" is what decided before this table: SSIM after alignment, against 0.62. A detector that looks
ahead may name the cut when it likes, as long as it names the right frame. PySceneDetect runs with its own thresholds,
and with the shortest scene set to one frame.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fpsgan.errors import InputError
from fpsgan.stages.scenes import SceneDetector
from fpsgan.stages.timeline import Relation
from fpsgan.training.build import VIDEOS
from fpsgan.training.data import PICTURES, Photos, read_photo
from fpsgan.training.lottie import Animation
from fpsgan.training.scenes import draw_scene, render

Image = NDArray[np.uint8]  # [H,W,3] BGR
Rng = np.random.Generator
Find = Callable[[Sequence[Image]], set[int]]  # the numbers of the frames that begin a scene

WIDE = 384  # px of the material, from which windows are cut
OURS = "ours"
SIZE = (256, 144)  # px of the frames
LONGEST = 120  # frames of a shot that are kept
PEERS = {
    "Content": "ContentDetector",
    "Adaptive": "AdaptiveDetector",
    "Hash": "HashDetector",
    "Histogram": "HistogramDetector",
    "Threshold": "ThresholdDetector",
}


class Case(NamedTuple):
    """Frames in a row, and the numbers of those that begin a scene."""

    frames: list[Image]
    cuts: set[int]


class Label(NamedTuple):
    cuts: list[int]
    first: int
    last: int


# --- material ------------------------------------------------------------------------------------------------


class Material:
    """The shots, photos and animations of one half."""

    def __init__(self, folders: Sequence[Path], labels: dict[str, Label], half: int) -> None:
        files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
        films = [file for file in files if file.suffix.lower() in VIDEOS]
        films.sort(key=lambda file: not (file.name in labels and labels[file.name].cuts))  # those halve evenly too
        self.films: list[Case] = []
        self.shots: list[list[Image]] = []
        self.file_of: list[int] = []
        for number, file in enumerate(films[half::2]):
            label = labels.get(file.name, Label([], 0, sys.maxsize))
            frames = [frame for k, frame in enumerate(_decoded(file)) if label.first <= k <= label.last]
            starts = [cut - label.first for cut in label.cuts]
            if starts:
                self.films.append(Case([_fit(frame) for frame in frames], set(starts)))
            for begin, end in zip([0, *starts], [*starts, len(frames)], strict=True):
                if end - begin >= 12 and any(frame.std() > 12 for frame in frames[begin:end:10]):
                    self.shots.append(frames[begin : min(end, begin + LONGEST)])
                    self.file_of.append(number)
        photos = [file for file in files if file.suffix.lower() in PICTURES][half::2]
        self.photos = [cv2.cvtColor(read_photo(file), cv2.COLOR_RGB2BGR) for file in photos[:24]]
        self.scenes = Photos(photos)
        self.drawings = [file for file in files if file.suffix.lower() == ".json"][half::2]
        if len(set(self.file_of)) < 2 or not self.photos or len(self.drawings) < 2:
            raise SystemExit("two videos, photos and animations for each half are needed")

    def shot(self, rng: Rng, other_than: int = -1) -> int:
        """The number of a shot, of another file than that of the shot named; each file is as likely."""
        taken = self.file_of[other_than] if other_than >= 0 else -1
        file = int(rng.choice([f for f in sorted(set(self.file_of)) if f != taken]))
        return int(rng.choice([k for k, f in enumerate(self.file_of) if f == file]))

    def stretch(self, rng: Rng, shot: int, count: int, every: int = 1) -> list[Image]:
        """`count` frames of a shot, `every` apart, from anywhere in it, there and back again if it is too short."""
        frames = self.shots[shot]
        every = max(1, min(every, (len(frames) - 1) // 4))
        start = int(rng.integers(0, max(1, len(frames) - count * every)))
        there = frames[start::every]
        there = there + there[-2:0:-1] if len(there) > 2 else there
        return [there[k % len(there)] for k in range(count)]

    def animation(self, rng: Rng, count: int, every: int) -> list[Image]:
        """`count` drawings of an animation, `every` frames apart, on a ground of its own."""
        while True:
            try:
                drawn = Animation(self.drawings[rng.integers(len(self.drawings))])
            except InputError:
                continue
            if drawn.last >= 6:
                break
        every = max(1, min(every, drawn.last // 4))
        start = int(rng.integers(0, max(1, drawn.last - count * every)))
        side = int(1.0 * SIZE[1])
        left = (SIZE[0] - side) // 2
        ground = np.empty((SIZE[1], SIZE[0], 3), np.float32)
        ground[:] = rng.uniform(0, 255, 3) if rng.random() < 0.5 else rng.uniform(200, 255)
        frames = []
        for k in range(count):
            drawing = drawn.render((start + k * every) % (drawn.last + 1), side, side).astype(np.float32)
            picture = ground.copy()
            inner = picture[:, left : left + side]
            inner[:] = drawing[..., :3] + inner * (1 - drawing[..., 3:] / 255)
            frames.append(np.clip(picture, 0, 255).astype(np.uint8))
        return frames


def _decoded(path: Path) -> Iterator[Image]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            height = max(16, round(frame.height * WIDE / frame.width))
            yield frame.reformat(width=WIDE, height=height, format="bgr24", interpolation="AREA").to_ndarray()


def read_labels(path: Path) -> dict[str, Label]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, cuts, used = line.split("\t")
            first, last = used.split("-")
            found[name] = Label([int(cut) for cut in cuts.split(",") if cut], int(first), int(last))
    return found


def _fit(frame: Image) -> Image:
    """The middle of a frame in the shape of SIZE, in this size."""
    return _window(frame, 0.5, 0.5, 1.0)


def _window(frame: Image, x: float, y: float, share: float) -> Image:
    """A window of the shape of SIZE, `share` of the largest that fits, at x, y (0..1 of the room there is), in SIZE."""
    rows, columns = frame.shape[:2]
    width = min(columns, rows * SIZE[0] / SIZE[1]) * share
    height = width * SIZE[1] / SIZE[0]
    left, top = x * (columns - width), y * (rows - height)
    ratio = SIZE[0] / width
    matrix = np.array([[ratio, 0, (0.5 - left) * ratio - 0.5], [0, ratio, (0.5 - top) * ratio - 0.5]])
    if ratio < 0.5:  # warpAffine alone would alias
        frame = cv2.GaussianBlur(frame, (0, 0), 0.4 / ratio)
    return cv2.warpAffine(frame, matrix, SIZE, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


# --- transitions ---------------------------------------------------------------------------------------------


def spliced(parts: Sequence[Sequence[Image]]) -> Case:
    starts = np.cumsum([len(part) for part in parts])[:-1]
    return Case([frame for part in parts for frame in part], {int(start) for start in starts})


def _lengths(rng: Rng) -> list[int]:
    return [int(n) for n in rng.integers(4, 10, 4)]


def cut(material: Material, rng: Rng) -> Case:
    parts, shot = [], -1
    for count in _lengths(rng):
        shot = material.shot(rng, shot)
        parts.append([_fit(frame) for frame in material.stretch(rng, shot, count, int(rng.integers(1, 3)))])
    return spliced(parts)


def cut_in_fast_action(material: Material, rng: Rng) -> Case:
    parts, shot = [], -1
    for count in _lengths(rng):
        shot = material.shot(rng, shot)
        parts.append([_fit(frame) for frame in material.stretch(rng, shot, count, int(rng.integers(3, 6)))])
    return spliced(parts)


def reverse_shot(material: Material, rng: Rng) -> Case:
    """The same place from the other side: mirrored, another part of it, at another time; the same colours."""
    shot, parts = material.shot(rng), []
    for k, count in enumerate(_lengths(rng)):
        share, x, y = rng.uniform(0.65, 0.9), (0.0, 1.0)[k % 2], rng.uniform()
        frames = [_window(frame, x, y, share) for frame in material.stretch(rng, shot, count)]
        parts.append([frame[:, ::-1].copy() for frame in frames] if k % 2 else frames)
    return spliced(parts)


def closer(material: Material, rng: Rng) -> Case:
    """From the whole to a close-up of the same and back."""
    shot, parts = material.shot(rng), []
    x, y = rng.uniform(0.2, 0.8, 2)
    for k, count in enumerate(_lengths(rng)):
        share = rng.uniform(0.4, 0.55) if k % 2 else 1.0
        parts.append([_window(frame, x, y, share) for frame in material.stretch(rng, shot, count)])
    return spliced(parts)


def dark_cut(material: Material, rng: Rng) -> Case:
    frames, cuts = cut(material, rng)
    gain = rng.uniform(0.08, 0.25)
    return Case([_noisy(frame * gain + 4, rng, 1.0) for frame in frames], cuts)


def animation_cut(material: Material, rng: Rng) -> Case:
    return spliced([material.animation(rng, count, int(rng.integers(1, 4))) for count in _lengths(rng)])


def rendered_cut(material: Material, rng: Rng) -> Case:
    return spliced([_rendered(material, rng, count) for count in _lengths(rng)[:2]])


def motion(material: Material, rng: Rng) -> Case:
    return Case([_fit(frame) for frame in material.stretch(rng, material.shot(rng), 24)], set())


def fast_action(material: Material, rng: Rng) -> Case:
    every = int(rng.choice((2, 3, 4, 6)))
    return Case([_fit(frame) for frame in material.stretch(rng, material.shot(rng), 24, every)], set())


def crossing(material: Material, rng: Rng) -> Case:
    """A large thing close by passes through in three to seven frames, blurred by its motion."""
    ground = [_fit(frame) for frame in material.stretch(rng, material.shot(rng), 20)]
    thing = _fit(material.photos[rng.integers(len(material.photos))])
    frames, takes = [], int(rng.integers(3, 8))
    radius = rng.uniform(0.3, 0.75) * SIZE[0]
    direction = rng.uniform(0, 2 * np.pi)
    along = np.array((np.cos(direction), np.sin(direction)))
    way = 2 * radius + SIZE[0]
    for k, frame in enumerate(ground):
        total = np.zeros((*SIZE[::-1], 4), np.float32)
        for moment in np.linspace(0, 0.5, 8):
            place = np.array(SIZE) / 2 + along * way * ((k - 6 + moment) / takes - 0.5)
            mask = np.zeros(SIZE[::-1], np.uint8)
            cv2.ellipse(mask, (int(place[0]), int(place[1])), (int(radius), int(0.8 * radius)), 30, 0, 360, 255, -1)
            shift = np.array([[1, 0, place[0] - SIZE[0] / 2], [0, 1, place[1] - SIZE[1] / 2]])
            moved = cv2.warpAffine(thing, shift, SIZE, borderMode=cv2.BORDER_REFLECT)
            cover = (mask > 0)[..., None].astype(np.float32)
            total += np.concatenate((moved * cover, cover), 2) / 8
        frames.append(np.clip(total[..., :3] + frame * (1 - total[..., 3:]), 0, 255).astype(np.uint8))
    return Case(frames, set())


def shake(material: Material, rng: Rng) -> Case:
    """A camera that is shaken by up to a sixth of the picture from frame to frame, blurred by it."""
    frames, place = [], rng.uniform(0.3, 0.7, 2)
    share = 0.6
    for frame in material.stretch(rng, material.shot(rng), 24):
        target = np.clip(place + rng.uniform(-0.25, 0.25, 2), 0, 1)
        path = [place + (target - place) * s for s in np.linspace(0.5, 1, 6)]
        frames.append(_mean([_window(frame, x, y, share) for x, y in path]))
        place = target
    return Case(frames, set())


def whip_pan(material: Material, rng: Rng) -> Case:
    """A pan that speeds up to 15 to 45 % of the picture's width a frame and slows down, blurred by it."""
    photo = material.photos[rng.integers(len(material.photos))]
    most = rng.uniform(0.15, 0.45)
    speed = most * np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2
    rows = photo.shape[0]
    width = rows * SIZE[0] / SIZE[1] * 0.6
    wide = np.hstack([photo, photo[:, ::-1]] * (1 + int(speed.sum() * width / photo.shape[1])))
    scale = SIZE[0] / width
    wide = cv2.resize(wide, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top = int(rng.integers(0, wide.shape[0] - SIZE[1]))
    at, frames = 0.0, []
    for step in speed:
        path = [int(at + step * SIZE[0] * s) for s in np.linspace(0, 0.5, 8)]
        frames.append(_mean([wide[top : top + SIZE[1], x : x + SIZE[0]] for x in path]))
        at += step * SIZE[0]
    return Case(frames, set())


def zoom(material: Material, rng: Rng) -> Case:
    """A fast zoom, by 8 to 20 % a frame."""
    photo, ratio = material.photos[rng.integers(len(material.photos))], rng.uniform(1.08, 1.2)
    x, y = rng.uniform(0.2, 0.8, 2)
    shares = [max(0.2, ratio**-k) for k in range(8)]
    return Case([_window(photo, x, y, share) for share in (shares if rng.random() < 0.5 else shares[::-1])], set())


def strobe(material: Material, rng: Rng) -> Case:
    """Light that goes on and off, coloured, every one to three frames."""
    frames, colour, period = [], rng.uniform(0.6, 1.5, 3), int(rng.integers(1, 4))
    dark = rng.uniform(0.15, 0.4)
    for k, frame in enumerate(material.stretch(rng, material.shot(rng), 24)):
        lit = _fit(frame).astype(np.float32) * (colour if k // period % 2 else dark)
        frames.append(np.clip(lit, 0, 255).astype(np.uint8))
    return Case(frames, set())


def flash(material: Material, rng: Rng) -> Case:
    """One or two frames nearly white, all over or strongest on one side."""
    frames = []
    at, length, strength = int(rng.integers(6, 12)), int(rng.integers(1, 3)), rng.uniform(0.5, 0.95)
    slope = np.linspace(*rng.choice(((1.0, 1.0), (1.0, 0.4), (0.3, 1.0))), SIZE[0])[None, :, None]
    for k, frame in enumerate(material.stretch(rng, material.shot(rng), 20)):
        share = strength * slope * (at <= k < at + length)
        frames.append((_fit(frame) * (1 - share) + 255 * share).astype(np.uint8))
    return Case(frames, set())


def explosion(material: Material, rng: Rng) -> Case:
    """Fire that fills up to most of the picture within three frames, with sparks, and dies away."""
    frames, centre = [], rng.uniform(0.2, 0.8, 2) * SIZE
    noise = cv2.GaussianBlur(rng.normal(0, 1, (*SIZE[::-1], 3)).astype(np.float32), (0, 0), 6)
    noise /= noise.std()
    sparks = rng.normal(0, 1, (150, 2))
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    far = np.hypot(columns - centre[0], rows - centre[1])
    most = rng.uniform(0.4, 0.9) * SIZE[0]
    for k, frame in enumerate(material.stretch(rng, material.shot(rng), 20)):
        picture = _fit(frame).astype(np.float32)
        age = k - 5
        if age >= 0:
            radius = most * (1 - np.exp(-(age + 0.5)))
            rolled = np.roll(noise, (7 * age, -5 * age), (0, 1))
            share = np.clip((radius * (1 + 0.25 * rolled[..., 0]) - far) / (0.2 * radius), 0, 1)[..., None]
            share = share * np.exp(-age / 5)
            fire = np.array((60, 150, 250)) + 50 * rolled
            picture = picture * (1 - share) + fire * share
            for spark in centre + sparks * 8 * (age + 1):
                cv2.circle(picture, (int(spark[0]), int(spark[1])), 2, (200, 240, 255), -1)
        frames.append(np.clip(picture, 0, 255).astype(np.uint8))
    return Case(frames, set())


def particles(material: Material, rng: Rng) -> Case:
    """Confetti, snow or rain: hundreds of things that move by 5 to 25 px a frame, each its own way."""
    count, size = int(rng.integers(100, 500)), int(rng.integers(2, 7))
    places, steps = rng.uniform(0, 1, (count, 2)) * SIZE, rng.normal(0, 6, (count, 2)) + rng.uniform(-12, 12, 2)
    colours = rng.uniform(0, 255, (count, 3)) if rng.random() < 0.5 else np.full((count, 3), 240.0)
    frames = []
    for k, frame in enumerate(material.stretch(rng, material.shot(rng), 16)):
        picture = _fit(frame)
        for (x, y), colour in zip((places + k * steps) % SIZE, colours, strict=True):
            cv2.circle(picture, (int(x), int(y)), size, colour.tolist(), -1, cv2.LINE_AA)
        frames.append(picture)
    return Case(frames, set())


def dissolve(material: Material, rng: Rng) -> Case:
    """One shot turns into another within 6 to 20 frames."""
    takes = int(rng.integers(6, 21))
    first = material.shot(rng)
    before = [_fit(frame) for frame in material.stretch(rng, first, takes + 10)]
    after = [_fit(frame) for frame in material.stretch(rng, material.shot(rng, first), takes + 10)]
    shares = np.clip((np.arange(takes + 10) - 5) / takes, 0, 1)
    return Case([_blend(a, b, s) for a, b, s in zip(before, after, shares, strict=True)], set())


def fade(material: Material, rng: Rng) -> Case:
    """One shot fades to black (or white) within 5 to 15 frames, another comes out of it."""
    takes, ground = int(rng.integers(5, 16)), (0, 0, 255)[rng.integers(3)]
    first = material.shot(rng)
    frames = []
    for shot, shares in ((first, np.linspace(0, 1, takes)), (material.shot(rng, first), np.linspace(1, 0, takes))):
        for frame, share in zip(material.stretch(rng, shot, takes), shares, strict=True):
            picture = _fit(frame)
            frames.append(_blend(picture, np.full_like(picture, ground), float(share)))
    return Case(frames, set())


def held_drawings(material: Material, rng: Rng) -> Case:
    """Animation on twos and threes, compressed."""
    drawings = material.animation(rng, 10, int(rng.integers(2, 5)))
    often = int(rng.integers(2, 4))
    frames = [frame for frame in drawings for _ in range(often)]
    packed = (cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, 80 + 5 * (k % 3)])[1] for k, f in enumerate(frames))
    return Case([cv2.imdecode(code, cv2.IMREAD_COLOR) for code in packed], set())


def rendered_motion(material: Material, rng: Rng) -> Case:
    return Case(_rendered(material, rng, int(rng.integers(4, 9))), set())


def _rendered(material: Material, rng: Rng, count: int) -> list[Image]:
    scene = draw_scene(material.scenes, SIZE[0], rng, int(rng.integers(1 << 16)))
    times = torch.linspace(0, 1, count)[None, 1:-1]
    with torch.inference_mode():
        done = render(scene, times)
    frames = torch.cat((done.frame0[:, None], done.frames, done.frame1[:, None]), 1)[0]
    top = (SIZE[0] - SIZE[1]) // 2
    cropped = (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()[:, top : top + SIZE[1], :, ::-1]
    return list(np.ascontiguousarray(cropped))


def _blend(one: Image, other: Image, share: float) -> Image:
    return np.asarray(cv2.addWeighted(one, 1 - share, other, share, 0), np.uint8)


def _mean(frames: Sequence[Image]) -> Image:
    return np.rint(np.mean(frames, axis=0)).astype(np.uint8)


def _noisy(frame: NDArray[np.float64], rng: Rng, sigma: float) -> Image:
    return np.clip(np.rint(frame + rng.normal(0, sigma, frame.shape)), 0, 255).astype(np.uint8)


KINDS: dict[str, Callable[[Material, Rng], Case]] = {
    "cut": cut,
    "cut, fast action": cut_in_fast_action,
    "cut, reverse shot": reverse_shot,
    "cut, close-up": closer,
    "cut, dark": dark_cut,
    "cut, animation": animation_cut,
    "cut, rendered": rendered_cut,
    "motion": motion,
    "fast action": fast_action,
    "large thing crosses": crossing,
    "shaken, blurred": shake,
    "whip pan": whip_pan,
    "fast zoom": zoom,
    "strobe": strobe,
    "flash": flash,
    "explosion": explosion,
    "particles": particles,
    "dissolve": dissolve,
    "fade": fade,
    "held drawings": held_drawings,
    "rendered motion": rendered_motion,
}
FILMS = "films as they are"


def cases(material: Material, half: int, each: int) -> Iterator[tuple[str, Case]]:
    """(kind, case), `each` of every kind, the same for the same files."""
    for film in material.films:
        yield FILMS, film
    for number, (kind, make) in enumerate(KINDS.items()):
        for k in range(each):
            yield kind, make(material, np.random.default_rng((half, number, k)))


# --- detectors -----------------------------------------------------------------------------------------------


def ours(frames: Sequence[Image]) -> set[int]:
    detector = SceneDetector()
    lumas = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames)
    return {k for k, luma in enumerate(lumas) if detector.relate(np.asarray(luma)) is Relation.CUT}


class Before(SceneDetector):
    """As it was: SSIM of thumbnails of 32×32 after alignment, against 0.62."""

    def __init__(self) -> None:
        super().__init__(threshold=0)
        self.cut = False
        self._dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def likeness(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
        rows, columns = before.shape
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        best = -1.0
        for frame0, frame1 in ((before, after), (after, before)):
            flow = self._dense.calc(frame0, frame1, None)
            moved = cv2.remap(frame1, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
            best = max(
                best, self._ssim(*(cv2.resize(f, (32, 32), None, 0, 0, cv2.INTER_AREA) for f in (frame0, moved)))
            )
        self.cut = best < 0.62
        return best

    @staticmethod
    def _ssim(frame0: NDArray[np.uint8], frame1: NDArray[np.uint8]) -> float:
        a, b = frame0.astype(np.float32), frame1.astype(np.float32)
        aa, bb, ab, a, b = (cv2.GaussianBlur(p, (11, 11), 1.5) for p in (a * a, b * b, a * b, a, b))
        c1, c2 = 6.5025, 58.5225
        structure = (2 * (ab - a * b) + c2) / (aa - a * a + bb - b * b + c2)
        return float(((2 * a * b + c1) / (a * a + b * b + c1) * structure).mean())


def before(frames: Sequence[Image]) -> set[int]:
    detector, found = Before(), set()
    for k, frame in enumerate(frames):
        detector.cut = False
        detector.relate(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)))
        if detector.cut:
            found.add(k)
    return found


def peer(name: str) -> Find:
    """One of PySceneDetect's detectors, with its own threshold."""
    package = importlib.import_module("scenedetect")
    make, timecode = getattr(package, PEERS[name]), package.FrameTimecode

    def find(frames: Sequence[Image]) -> set[int]:
        detector = make(min_scene_len=1)
        found: list[object] = []
        for k, frame in enumerate(frames):
            found += detector.process_frame(timecode(k, Fraction(25)), frame)
        last = timecode(len(frames) - 1, Fraction(25))
        found += detector.post_process(last)
        return {int(cut.frame_num) for cut in found}

    return find


# --- the table -----------------------------------------------------------------------------------------------


class Tally:
    """By kind and detector: cuts found, frames falsely called one; and seconds by detector."""

    def __init__(self, detectors: dict[str, Find]) -> None:
        self.detectors = detectors
        self.found: dict[str, dict[str, list[int]]] = {}
        self.cuts: dict[str, int] = {}
        self.pairs: dict[str, int] = {}
        self.seconds = dict.fromkeys(detectors, 0.0)
        self.wrong: dict[str, list[tuple[str, Image, Image]]] = {"missed": [], "false": []}  # by ours

    def add(self, kind: str, case: Case) -> None:
        self.cuts[kind] = self.cuts.get(kind, 0) + len(case.cuts)
        self.pairs[kind] = self.pairs.get(kind, 0) + len(case.frames) - 1
        for name, find in self.detectors.items():  # in turns: other work on the machine slows all of them
            began = time.perf_counter()
            found = find(case.frames) - {0}
            self.seconds[name] += time.perf_counter() - began
            tally = self.found.setdefault(kind, {}).setdefault(name, [0, 0])
            tally[0] += len(found & case.cuts)
            tally[1] += len(found - case.cuts)
            if name == OURS:
                for what, numbers in (("missed", case.cuts - found), ("false", found - case.cuts)):
                    self.wrong[what] += [(kind, case.frames[k - 1], case.frames[k]) for k in sorted(numbers)]

    def table(self) -> str:
        names = list(self.detectors)
        rows = [["found / false", "pairs", "cuts", *names]]
        for kind, by_name in self.found.items():
            told = [f"{hits} / {false}" if self.cuts[kind] else f"{false}" for hits, false in by_name.values()]
            rows.append([kind, str(self.pairs[kind]), str(self.cuts[kind] or ""), *told])
        cuts, pairs = sum(self.cuts.values()), sum(self.pairs.values())
        sums = {name: [sum(by_name[name][k] for by_name in self.found.values()) for k in (0, 1)] for name in names}
        rows.append(["**in all**", str(pairs), str(cuts), *(f"{hits} / {false}" for hits, false in sums.values())])
        rows.append(["missed + false", "", "", *(str(cuts - hits + false) for hits, false in sums.values())])
        rows.append(["ms a frame", "", "", *(f"{1e3 * self.seconds[name] / pairs:.2f}" for name in names)])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]])

    def sheet(self, path: Path) -> None:
        """Pairs that ours is wrong about, up to 60 of each sort."""
        cells = []
        for what, pairs in self.wrong.items():
            for kind, one, other in pairs[:: max(1, len(pairs) // 60)][:60]:
                cell = cv2.resize(np.hstack([one, other]), (256, 72), interpolation=cv2.INTER_AREA)
                cell = cv2.copyMakeBorder(cell, 16, 2, 2, 2, cv2.BORDER_CONSTANT)
                cells.append(cv2.putText(cell, f"{what}: {kind}", (4, 12), 0, 0.4, (255, 255, 255), 1, cv2.LINE_AA))
        cells += [np.zeros_like(cells[0])] * (-len(cells) % 6)
        cv2.imwrite(str(path), np.vstack([np.hstack(cells[k : k + 6]) for k in range(0, len(cells), 6)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    parser.add_argument("--each", type=int, default=40, help="sequences of each kind")
    parser.add_argument("--labels", type=Path, default=Path(__file__).with_name("cut_labels.tsv"))
    parser.add_argument("--peers", type=Path, default=Path("runs/peers"), help="where scenedetect is installed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="a picture of the pairs that ours is wrong about")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    sys.path.append(str(args.peers))
    detectors: dict[str, Find] = {OURS: ours, "before": before}
    if importlib.util.find_spec("scenedetect") is not None:
        detectors.update({name: peer(name) for name in PEERS})
    half = ("choose", "report").index(args.half)
    material = Material(args.folders, read_labels(args.labels), half)
    tally = Tally(detectors)
    for kind, case in cases(material, half, args.each):
        tally.add(kind, case)
    print(tally.table())
    if args.json:
        told = {"pairs": tally.pairs, "cuts": tally.cuts, "found": tally.found, "seconds": tally.seconds}
        args.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    if args.sheet:
        tally.sheet(args.sheet)


if __name__ == "__main__":
    main()

"""Motion blur in videos: what `fpsgan deblur` gains on frames that were blurred by averaging, and what it harms.

    python tools/motion_blur.py CLIPS... [--shares 1 0.75 0.5] [--frames 9] [--size 720x480] [--deblur on]

Each frame of a test clip is the mean, in linear light, of 3 frames of a real one (5 where it has 50 fps or more), with
frames between rendered where more than 1.5 px pass (fpsgan.training.deblur_data.expose); the middle one is the truth,
and the next mean begins so many frames later that the shutter is open for the asked share of the time. Without CLIPS
layers of rendered texture move instead, and the mean is dense. The middle frames themselves are given too: they are
sharp, and should come back to the bit. All of it goes through the deblurring stage as in a job.

Prints, for each share, gain in dB (mean, worst, share of frames worse by more than 0.1 dB) and flicker of the result
over that of the truth; and of the sharp ones how many were changed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deblur import Deblurrer, Settings
from deblur.blur import to_code, to_linear
from fpsgan import weights
from fpsgan.stages.deblurring import Counters, deblurred
from fpsgan.stages.timeline import Relation
from fpsgan.training.deblur_data import expose
from fpsgan.training.metrics import flicker, psnr
from fpsgan.video.decode import decode
from fpsgan.video.frame import Color, Frame, PixelFormat
from fpsgan.video.probe import probe

Image = NDArray[np.uint8]
RENDERED = 6  # clips
SAMPLES = 33  # of a rendered exposure


def averaged(path: Path, share: float, count: int, size: tuple[int, int]) -> tuple[list[Image], list[Image]]:
    """(blurred, sharp) frames of a clip, from its middle; fewer than `count` where it is short."""
    info = probe(path)
    open_for = 5 if info.frame_rate >= 50 else 3
    step = round(open_for / share)
    wanted = step * (count - 1) + open_for
    first = max(0, (info.frame_count - wanted) // 2)
    blurred: list[Image] = []
    sharp: list[Image] = []
    waiting: list[Image] = []
    for number, frame in enumerate(decode(info)):
        if number < first or len(blurred) == count:
            continue
        if (number - first) % step < open_for:
            picture = np.clip(np.rint(255 * frame.as_rgb()), 0, 255).astype(np.uint8)
            top, left = (max(0, (have - want) // 2) for have, want in zip(picture.shape, size[::-1], strict=False))
            waiting.append(np.ascontiguousarray(picture[top : top + size[1], left : left + size[0]]))
        if len(waiting) == open_for:
            blurred.append(np.rint(255 * expose(waiting)).astype(np.uint8))
            sharp.append(waiting[open_for // 2])
            waiting = []
    return blurred, sharp


def rendered(number: int, share: float, count: int, size: tuple[int, int]) -> tuple[list[Image], list[Image]]:
    """(blurred, sharp) frames of a background and two things before it that move, each at its own speed."""
    rng = np.random.default_rng(number)
    width, height = size

    def texture(side: int) -> NDArray[np.float32]:
        layers = [
            cv2.resize(rng.random((side // cell, side // cell, 3), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
            for cell in (4, 12, 40)
        ]
        return np.clip(np.asarray(0.25 * layers[0] + 0.35 * layers[1] + 0.4 * layers[2], np.float32), 0, 1)

    back = to_linear(texture(max(size) + 400))
    things = []
    for _ in range(2):
        mask = np.zeros((200, 200), np.float32)
        cv2.ellipse(mask, (100, 100), (int(rng.integers(50, 95)), int(rng.integers(40, 95))), float(rng.uniform(0, 180)), 0, 360, 1, -1, cv2.LINE_AA)
        things.append((to_linear(texture(200)), mask, rng.uniform(0.3, 0.6, 2) * size, rng.uniform(-14, 14, 2)))
    pan = rng.uniform(-10, 10, 2)

    def at(t: float) -> NDArray[np.float32]:
        def moved(image: NDArray[np.float32], place: NDArray[np.float64]) -> NDArray[np.float32]:
            shift = np.array([[1, 0, place[0]], [0, 1, place[1]]], np.float64)
            return np.asarray(cv2.warpAffine(image, shift, size, flags=cv2.INTER_LINEAR), np.float32)

        made = moved(back, pan * (t - count / 2) - 200)
        for image, mask, start, speed in things:
            place = start + speed * (t - count / 2) - 100
            made += moved(mask, place)[..., None] * (moved(image, place) - made)
        return made

    moments = (np.arange(SAMPLES) / (SAMPLES - 1) - 0.5) * share
    exposed = [to_code(np.mean([at(k + float(m)) for m in moments], axis=0, dtype=np.float32)) for k in range(count)]
    pictures = [exposed, [to_code(at(k)) for k in range(count)]]
    del height, width
    blurred, sharp = ([np.rint(255 * np.clip(p, 0, 1)).astype(np.uint8) for p in some] for some in pictures)
    return blurred, sharp


def through(stage: Deblurrer, pictures: Sequence[Image], settings: Settings) -> Iterator[Image]:
    """Pictures as a shot of a video goes through the deblurring stage."""
    form, step = PixelFormat.of("gbrp"), Fraction(1, 25)
    shot = [
        (
            Frame(tuple(np.ascontiguousarray(p[..., c]) for c in (1, 2, 0)), form, Color("rgb", full_range=True), k * step, step),
            Relation.MOTION if k else Relation.CUT,
        )
        for k, p in enumerate(pictures)
    ]
    for frame, _ in deblurred(shot, stage, settings, Counters()):
        yield np.clip(np.rint(255 * frame.as_rgb()), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, help="videos, or folders of them")
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.75, 0.5])
    parser.add_argument("--frames", type=int, default=9, help="of each test clip")
    parser.add_argument("--size", default="720x480", help="of the middle that is cut out")
    parser.add_argument("--deblur", choices=("auto", "on"), default="auto")
    parser.add_argument("--weights", default="deblur-motion")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    size = tuple(int(side) for side in given.size.split("x"))
    network, motion = weights.load("deblur-mobilenet", expect="deblur"), weights.load(given.weights, expect="motion")
    stage = Deblurrer(network, torch.device("cpu"), torch.float32, motion=motion)
    files = [file for place in given.clips for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    settings = Settings(given.deblur)
    print("| | shutter | frames | gain, dB | worst | worse by > 0.1 | flicker before, after | sharp ones changed | s a frame |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for share in given.shares:
        every: list[float] = []
        for source in files or range(RENDERED):
            clip = averaged(source, share, given.frames, size) if isinstance(source, Path) else rendered(source, share, given.frames, size)
            blurred, sharp = clip
            if len(blurred) < 3:
                continue
            began = time.process_time()
            made = list(through(stage, blurred, settings))
            spent = (time.process_time() - began) / len(made)
            back = list(through(stage, sharp, settings))
            inner = range(1, len(made) - 1)
            gains = [psnr(made[k], sharp[k]) - psnr(blurred[k], sharp[k]) for k in inner]
            changed = sum(not np.array_equal(*pair) for pair in zip(sharp, back, strict=True))
            before, after = (flicker(some, sharp) for some in (blurred, made))
            every += gains
            name = source.stem[-24:] if isinstance(source, Path) else f"rendered {source}"
            print(f"| {name} | {share:g} | {len(gains)} | {np.mean(gains):+.2f} | {min(gains):+.2f} | {np.mean(np.array(gains) < -0.1):.3f} | {before:.2f}, {after:.2f} | {changed} of {len(sharp)} | {spent:.2f} |", flush=True)
        print(f"| **all** | {share:g} | {len(every)} | {np.mean(every):+.2f} | {min(every):+.2f} | {np.mean(np.array(every) < -0.1):.3f} | | | |", flush=True)


if __name__ == "__main__":
    main()

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
from fpsgan.demo import render_scene
from fpsgan.stages.deblurring import Counters, deblurred
from fpsgan.stages.timeline import Relation
from fpsgan.training.deblur_data import expose
from fpsgan.training.metrics import flicker, psnr
from fpsgan.video.decode import decode
from fpsgan.video.frame import Frame
from fpsgan.video.probe import probe

Image = NDArray[np.uint8]
Light = NDArray[np.float32]
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
            picture = frame.image
            top, left = (max(0, (have - want) // 2) for have, want in zip(picture.shape, size[::-1], strict=False))
            waiting.append(np.ascontiguousarray(picture[top : top + size[1], left : left + size[0]]))
        if len(waiting) == open_for:
            blurred.append(np.rint(255 * expose(waiting)).astype(np.uint8))
            sharp.append(waiting[open_for // 2])
            waiting = []
    return blurred, sharp


def rendered(number: int, share: float, count: int, size: tuple[int, int]) -> tuple[list[Image], list[Image]]:
    """(blurred, sharp) frames of a scene that the camera pans over, and a disc of another one that flies before it."""
    rng = np.random.default_rng(number)
    width, height = size
    back = to_linear(render_scene(0.13 * number, width + 320, height + 320).astype(np.float32) / 255)
    disc = to_linear(render_scene(0.13 * number + 5, 240, 240).astype(np.float32) / 255)
    mask = np.zeros((240, 240), np.float32)
    cv2.circle(mask, (120, 120), 110, 1, -1, cv2.LINE_AA)
    pan, flight = rng.uniform(-10, 10, 2), rng.uniform(-14, 14, 2)

    def moved(image: Light, place: NDArray[np.float64]) -> Light:
        shift = np.array([[1, 0, place[0]], [0, 1, place[1]]], np.float64)
        return np.asarray(cv2.warpAffine(image, shift, size, flags=cv2.INTER_LINEAR), np.float32)

    def at(t: float) -> Light:
        made = moved(back, pan * (t - count / 2) - 160)
        place = np.array(size) / 2 - 120 + flight * (t - count / 2)
        return made + moved(mask, place)[..., None] * (moved(disc, place) - made)

    moments = (np.arange(SAMPLES) / (SAMPLES - 1) - 0.5) * share
    blurred = [np.mean([at(k + float(m)) for m in moments], axis=0, dtype=np.float32) for k in range(count)]
    return [codes(light) for light in blurred], [codes(at(k)) for k in range(count)]


def codes(light: Light) -> Image:
    return np.rint(255 * to_code(light)).astype(np.uint8)


def through(stage: Deblurrer, pictures: Sequence[Image], settings: Settings) -> Iterator[Image]:
    """Pictures as a shot of a video goes through the deblurring stage."""
    step = Fraction(1, 25)
    frames = (Frame.of_image(picture, k * step, step) for k, picture in enumerate(pictures))
    shot = ((frame, Relation.MOTION if k else Relation.CUT) for k, frame in enumerate(frames))
    for frame, _ in deblurred(shot, stage, settings, Counters()):
        yield frame.image


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
    width, height = (int(side) for side in given.size.split("x"))
    size = width, height
    network, motion = weights.load("deblur-mobilenet", expect="deblur"), weights.load(given.weights, expect="motion")
    stage = Deblurrer(network, torch.device("cpu"), torch.float32, motion=motion)
    files = [file for place in given.clips for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    settings = Settings(given.deblur)
    print("| | shutter | frames | gain, dB | worst | worse | flicker before, after | sharp changed | s a frame |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for share in given.shares:
        every: list[float] = []
        for source in files or range(RENDERED):
            make = averaged if isinstance(source, Path) else rendered
            blurred, sharp = make(source, share, given.frames, size)
            if len(blurred) < 3:
                continue
            began = time.process_time()
            made = list(through(stage, blurred, settings))
            spent = (time.process_time() - began) / len(made)
            changed = sum(
                not np.array_equal(*pair) for pair in zip(sharp, through(stage, sharp, settings), strict=True)
            )
            gains = [psnr(made[k], sharp[k]) - psnr(blurred[k], sharp[k]) for k in range(1, len(made) - 1)]
            every += gains
            unrest = [flicker(some, sharp) for some in (blurred, made)]
            name = source.stem[-24:] if isinstance(source, Path) else f"rendered {source}"
            more = f"{unrest[0]:.2f}, {unrest[1]:.2f} | {changed} of {len(sharp)} | {spent:.2f}"
            print(f"| {name} | {row(share, gains)} | {more} |", flush=True)
        print(f"| **all** | {row(share, every)} | | | |", flush=True)


def row(share: float, gains: list[float]) -> str:
    worse = np.mean(np.array(gains) < -0.1)
    return f"{share:g} | {len(gains)} | {np.mean(gains):+.2f} | {min(gains):+.2f} | {worse:.3f}"


if __name__ == "__main__":
    main()

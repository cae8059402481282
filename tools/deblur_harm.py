"""Does deblurring do harm? Blur of many kinds, made of sharp pictures, through the same `auto` as `fpsgan deblur`.

    python tools/deblur_harm.py PHOTOS... [--videos VIDEOS...] [--each 20] [--kind text,lights] [--csv out.csv]

For every kind of picture: how many there were, how many were touched, the mean gain in dB (plain RGB PSNR against the
sharp picture, before and after), the share that came out worse by more than 0.1 dB, and the worst. Kinds that end in
"shaken" are what the stage is for; all others should come back no worse. Without photos, scenes are rendered. Every
picture is the same from run to run: it is seeded by its kind and number.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deblur import Deblurrer, Settings, blur_score
from deblur.blur import convolve, defocus_kernel, path_kernel, sensor, shake_path, to_code, to_linear
from fpsgan import weights
from fpsgan.demo import render_scene
from fpsgan.training.metrics import psnr

Image = NDArray[np.uint8]  # [H,W,3] RGB
Floats = NDArray[np.float32]
Rng = np.random.Generator
Pair = tuple[Image, Image]  # blurred, sharp

WIDTH, HEIGHT = 720, 480
WORSE = 0.1  # dB
SHAKEN = "shaken"


def shaken(sharp: Image, rng: Rng, gamma: float = 2.2) -> Floats:
    """By a hand: 5 to 21 px, straight to crooked."""
    return convolve(sharp, path_kernel(shake_path(rng.uniform(5, 21), rng, wander=rng.uniform(0, 0.8))), gamma)


def soft(sharp: Image, rng: Rng) -> Floats:
    """As by a cheap lens, a denoiser or enlargement: no direction."""
    return np.asarray(cv2.GaussianBlur(sharp / np.float32(255), (0, 0), rng.uniform(0.8, 3)), np.float32)


def noise(rng: Rng) -> float:
    return float(rng.uniform(0, 0.01)) if rng.random() < 0.5 else 0.0


def hand(sharp: Image, other: Image, rng: Rng) -> Pair:
    return sensor(shaken(sharp, rng), rng, noise=noise(rng), jpeg=92 if rng.random() < 0.3 else None), sharp


def hand_in_code(sharp: Image, other: Image, rng: Rng) -> Pair:
    """Mixed by software in code values, as some data sets are."""
    return sensor(shaken(sharp, rng, 1.0), rng, noise=noise(rng)), sharp


def texture(sharp: Image, rng: Rng) -> Image:
    """A piece of the picture again and again, slightly uneven: tiles, brick, fabric, fences."""
    size = int(rng.integers(12, 56))
    y, x = (int(rng.integers(0, side - size)) for side in sharp.shape[:2])
    piece = sharp[y : y + size, x : x + size]
    rows, columns = (-(-side // size) for side in sharp.shape[:2])
    tiled = np.tile(piece, (rows, columns, 1))[: sharp.shape[0], : sharp.shape[1]].astype(np.float32)
    tiled = (tiled - tiled.mean()) * (50 / max(float(tiled.std()), 1)) + 128
    uneven = cv2.resize(rng.normal(0, 12, (6, 9)).astype(np.float32), sharp.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(tiled + uneven[..., None]), 0, 255).astype(np.uint8)


def texture_shaken(sharp: Image, other: Image, rng: Rng) -> Pair:
    made = texture(sharp, rng)
    return sensor(shaken(made, rng), rng, noise=noise(rng)), made


def texture_soft(sharp: Image, other: Image, rng: Rng) -> Pair:
    made = texture(sharp, rng)
    return sensor(soft(made, rng), rng, noise=noise(rng)), made


def moved(picture: Image, x: float, y: float) -> Image:
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float64)
    size = picture.shape[1::-1]
    return np.asarray(
        cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def exposed(moments: list[Image], rng: Rng) -> Floats:
    """The mean of moments, in linear light or, one time in three, in code values."""
    gamma = 1.0 if rng.random() < 1 / 3 else 2.2
    return to_code(np.mean([to_linear(moment, gamma) for moment in moments], axis=0), gamma)


def layered(sharp: Image, other: Image, rng: Rng, count: int, speed: float) -> list[Image]:
    """Moments of a thing (from another picture) that moves over a background that moves otherwise; px a moment."""
    height, width = sharp.shape[:2]
    mask = np.zeros((height, width), np.float32)
    centre = (int(rng.uniform(0.3, 0.7) * width), int(rng.uniform(0.3, 0.7) * height))
    axes = (int(rng.uniform(0.12, 0.35) * width), int(rng.uniform(0.12, 0.4) * height))
    cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    (ax, ay), (bx, by) = (
        speed * rng.uniform(0.3, 1) * np.array([np.cos(a), np.sin(a)]) for a in rng.uniform(0, 6.28, 2)
    )
    if rng.random() < 0.5:
        bx = by = 0.0
    moments = []
    for k in np.arange(count) - (count - 1) / 2:
        matrix = np.array([[1, 0, k * ax], [0, 1, k * ay]], np.float64)
        cover = cv2.warpAffine(mask, matrix, (width, height))[..., None]
        moments.append(
            np.rint(cover * moved(other, k * ax, k * ay) + (1 - cover) * moved(sharp, k * bx, k * by)).astype(np.uint8)
        )
    return moments


def mean_of_few(sharp: Image, other: Image, rng: Rng) -> Pair:
    """Frames of a slow camera added up: every edge two to seven times."""
    count = int(rng.choice([3, 5, 7]))
    moments = layered(sharp, other, rng, count, rng.uniform(1, 8))
    return sensor(exposed(moments, rng), rng), moments[count // 2]


def pan_of_few(sharp: Image, other: Image, rng: Rng) -> Pair:
    """The same of a pan: the whole picture alike, in steps."""
    count = int(rng.choice([3, 5, 7]))
    x, y = rng.uniform(1, 6) * np.array([1, rng.uniform(-0.3, 0.3)])
    moments = [moved(sharp, k * x, k * y) for k in range(-(count // 2), count // 2 + 1)]
    return sensor(exposed(moments, rng), rng), sharp


def motion(sharp: Image, other: Image, rng: Rng) -> Pair:
    """A thing that moves by itself, smoothly."""
    moments = layered(sharp, other, rng, 25, rng.uniform(0.2, 1.2))
    return sensor(exposed(moments, rng), rng, noise=noise(rng)), moments[12]


def lights(sharp: Image, other: Image, rng: Rng) -> Pair:
    """A night with lamps far brighter than the sensor takes."""
    scene = to_linear(sharp) * np.float32(rng.uniform(0.02, 0.15))
    for _ in range(int(rng.integers(8, 60))):
        centre = (int(rng.integers(0, sharp.shape[1])), int(rng.integers(0, sharp.shape[0])))
        colour = tuple(float(v) for v in rng.uniform(0.6, 1, 3) * rng.uniform(1.5, 25))
        cv2.circle(scene, centre, int(rng.integers(1, 7)), colour, -1, cv2.LINE_AA)
    kernel = path_kernel(shake_path(rng.uniform(5, 21), rng, wander=rng.uniform(0, 0.8)))
    blurred = to_code(cv2.filter2D(scene, -1, cv2.flip(kernel, -1), borderType=cv2.BORDER_REFLECT_101))
    return sensor(blurred, rng, noise=noise(rng)), sensor(to_code(scene), rng)


def page(sharp: Image, rng: Rng) -> Image:
    """A page, a sign or a screen of letters, with a strip of the picture in it."""
    paper, ink = (rng.integers(200, 256, 3), rng.integers(0, 80, 3)) if rng.random() < 0.7 else (
        rng.integers(0, 80, 3), rng.integers(180, 256, 3))  # fmt: skip
    made = np.full_like(sharp, paper.astype(np.uint8))
    scale = rng.uniform(0.35, 1.4)
    letters = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOP 0123456789 .,:"
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
    for y in range(20, sharp.shape[0], int(30 * scale) + 6):
        line = "".join(rng.choice(list(letters), 80))
        cv2.putText(made, line, (8, y), font, scale, ink.tolist(), 1 + int(scale > 0.8), cv2.LINE_AA)
    if rng.random() < 0.5:
        made[:, : made.shape[1] // 3] = sharp[:, : made.shape[1] // 3]
    return made


def text_shaken(sharp: Image, other: Image, rng: Rng) -> Pair:
    made = page(sharp, rng)
    return sensor(shaken(made, rng), rng, noise=noise(rng)), made


def text_soft(sharp: Image, other: Image, rng: Rng) -> Pair:
    made = page(sharp, rng)
    return sensor(soft(made, rng), rng, noise=noise(rng)), made


def defocus(sharp: Image, other: Image, rng: Rng) -> Pair:
    """Out of focus, all of it or, two times in three, a part: the background, or what is near."""
    blurred = convolve(sharp, defocus_kernel(rng.uniform(1.2, 6)))
    if rng.random() < 2 / 3:
        mask = cv2.resize((rng.random((3, 4)) < 0.5).astype(np.float32), sharp.shape[1::-1])[..., None]
        blurred = mask * blurred + (1 - mask) * (sharp / np.float32(255))
    return sensor(np.asarray(blurred, np.float32), rng, noise=noise(rng)), sharp


def lens(sharp: Image, other: Image, rng: Rng) -> Pair:
    return sensor(soft(sharp, rng), rng, noise=noise(rng)), sharp


def darkened(sharp: Image, rng: Rng) -> Image:
    return np.rint(sharp * rng.uniform(0.06, 0.25)).astype(np.uint8)


def dark_shaken(sharp: Image, other: Image, rng: Rng) -> Pair:
    made = darkened(sharp, rng)
    return sensor(shaken(made, rng), rng, noise=float(rng.uniform(0.003, 0.02))), made


def dark_soft(sharp: Image, other: Image, rng: Rng) -> Pair:
    made = darkened(sharp, rng)
    return sensor(soft(made, rng), rng, noise=float(rng.uniform(0.003, 0.02))), made


def compressed_shaken(sharp: Image, other: Image, rng: Rng) -> Pair:
    return sensor(shaken(sharp, rng), rng, jpeg=int(rng.integers(6, 40))), sharp


def compressed_soft(sharp: Image, other: Image, rng: Rng) -> Pair:
    return sensor(soft(sharp, rng), rng, jpeg=int(rng.integers(6, 40))), sharp


def untouched(sharp: Image, other: Image, rng: Rng) -> Pair:
    return sensor(sharp / np.float32(255), rng, noise=noise(rng), jpeg=int(rng.integers(60, 96))), sharp


KINDS: dict[str, Callable[[Image, Image, Rng], Pair]] = {
    "shaken": hand, "shaken, in code values": hand_in_code, "night with lamps, shaken": lights,
    "repeated texture, shaken": texture_shaken, "text, shaken": text_shaken, "dark, shaken": dark_shaken,
    "compressed, shaken": compressed_shaken, "mean of few frames": mean_of_few, "pan of few frames": pan_of_few,
    "motion by itself": motion, "out of focus": defocus, "soft": lens, "repeated texture, soft": texture_soft,
    "text, soft": text_soft, "dark, soft": dark_soft, "compressed, soft": compressed_soft, "sharp": untouched,
}  # fmt: skip


def pictures(places: list[Path]) -> list[Image]:
    """Sharp pictures of WIDTH×HEIGHT: the middles of photos, shrunk to half at most; without any, rendered scenes."""
    files = [file for place in places for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    found = []
    for file in files:
        whole = cv2.imread(str(file))
        if whole is None:
            sys.exit(f"{file}: not a picture")
        scale = max(0.5, WIDTH / whole.shape[1], HEIGHT / whole.shape[0])
        if scale < 1:
            whole = cv2.resize(whole, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if whole.shape[0] < HEIGHT or whole.shape[1] < WIDTH:
            whole = np.rot90(whole) if whole.shape[1] >= HEIGHT and whole.shape[0] >= WIDTH else None
        if whole is not None:
            top, left = (whole.shape[0] - HEIGHT) // 2, (whole.shape[1] - WIDTH) // 2
            found.append(np.ascontiguousarray(whole[top : top + HEIGHT, left : left + WIDTH, ::-1]))
    return found or [render_scene(0.13 * k, WIDTH, HEIGHT) for k in range(6)]


def made(kind: str, number: int, sharp: list[Image]) -> Pair:
    """Picture `number` of a kind, the same in every run."""
    rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
    one = sharp[number % len(sharp)]
    other = sharp[(number * 7 + 3) % len(sharp)]
    return KINDS[kind](one, other, rng)


def made_of(kind: str, each: int, sharp: list[Image]) -> Iterator[tuple[int, Pair]]:
    yield from ((number, made(kind, number, sharp)) for number in range(each))


def means_of_video(place: Path, each: int) -> Iterator[tuple[int, Pair]]:
    """Of real frames, three, five and seven added up (`fpsgan evaluate` takes the same)."""
    from fpsgan.stages.timeline import Relation
    from fpsgan.training.deblur_data import expose
    from fpsgan.training.evaluate import video
    from fpsgan.video.probe import probe

    held: list[Image] = []
    done = 0
    for frame, relation in video(probe(place), end=Fraction(20)):
        if relation is not Relation.HELD:
            image = frame.image
        held = [image] if relation is Relation.CUT else [*held, image]
        if len(held) >= (count := (3, 5, 7)[done % 3]) + 4:  # some frames apart: not the same scene again and again
            if any(not np.array_equal(held[0], frame) for frame in held):
                some = held[:count]
                yield done, (sensor(expose(some), np.random.default_rng(0)), some[count // 2])
                done += 1
            held = []
        if done >= each:
            return


def gain(deblurrer: Deblurrer, settings: Settings, blurred: Image, sharp: Image) -> tuple[float, bool]:
    """(dB, touched), through what `fpsgan deblur` does."""
    strength = settings.strength_for(blur_score(blurred))
    done = deblurrer.sharpen(blurred / np.float32(255), strength, cautious=settings.cautious)
    if not done.touched:
        return 0.0, False
    after = np.clip(np.rint(255 * done.picture), 0, 255).astype(np.uint8)
    return psnr(after, sharp) - psnr(blurred, sharp), True


def row(name: str, gains: list[float], touched: int) -> str:
    worse = f"{100 * np.mean([g < -WORSE for g in gains]):.1f} %"
    return f"| {name:26} | {len(gains):4} | {touched:4} | {np.mean(gains):+.2f} | {worse:>6} | {min(gains):+.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--videos", nargs="*", type=Path, default=[])
    parser.add_argument("--each", type=int, default=20, help="pictures of each kind, and means of each video")
    parser.add_argument("--kind", help="only kinds whose names contain one of these words (a,b)")
    parser.add_argument("--mode", default="auto", help="auto or on")
    parser.add_argument("--weights", default="deblur-mobilenet")
    parser.add_argument("--csv", type=Path, help="every picture's gain")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    half = torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    deblurrer = Deblurrer(weights.load(given.weights, expect="deblur"), torch.device("cpu"), half)
    settings = Settings(given.mode)
    words = given.kind.split(",") if given.kind else [""]
    sharp = pictures(given.photos)
    jobs = {kind: made_of(kind, given.each, sharp) for kind in KINDS if any(word in kind for word in words)}
    for place in given.videos:
        for file in sorted(place.iterdir()) if place.is_dir() else [place]:
            jobs[f"means: {file.stem[-19:]}"] = means_of_video(file, given.each)
    print("| kind | pictures | touched | mean, dB | worse | worst |\n|---|---|---|---|---|---|", flush=True)
    lines: list[tuple[str, int, float]] = []
    every = {"all shaken": ([], 0), "all others": ([], 0)}  # type: dict[str, tuple[list[float], int]]
    began = time.process_time()
    for kind, pairs in jobs.items():
        gains, touched = [], 0
        for number, (blurred, truth) in pairs:
            change, was = gain(deblurrer, settings, blurred, truth)
            gains.append(change)
            touched += was
            lines.append((kind, number, change))
        if gains:
            print(row(kind, gains, touched), flush=True)
            name = "all shaken" if kind.endswith(SHAKEN) or kind.startswith(SHAKEN) else "all others"
            every[name] = every[name][0] + gains, every[name][1] + touched
    for name, (gains, touched) in every.items():
        if gains:
            print(row(name, gains, touched))
    print(f"{(time.process_time() - began) / max(1, len(lines)):.2f} s of a core each, making the picture included")
    if given.csv:
        with given.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("kind", "number", "gain"), *lines])


if __name__ == "__main__":
    main()

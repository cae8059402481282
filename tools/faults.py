"""The faults that eyes see first, each on rendered pictures with exact truth.

    python tools/faults.py [--weights NAME-OR-FILE …] [--pairs 4] [--frames 2|4] [--sheet FILE.png] [--json FILE]

For each fault a few scenes are drawn at −1, 0, ½, 1 and 2; the picture at ½ is rebuilt from those at 0 and 1, with
those at −1 and 2 to tell acceleration (--frames 2: without). Figures are means over the scenes: plain RGB PSNR in dB in
the region of the fault, and what the fault is about, if that can be measured:

- opacity: of a small thing at its place, 1 is right; ghosts: the opacity of what is left at its places in frame0 and
  frame1, 0 is right
- bend: px that lines are away from their places, beside a moving edge
- half: how much is half transparent, from 0 (as much as in the truth) to 1 (a cross-fade everywhere)
- off: px that a thing which stops or starts is away from its place along its way
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fpsgan import weights
from fpsgan.interpolator import Interpolator
from fpsgan.training.metrics import psnr
from fpsgan.training.peers import Filler, Window, blend, by_network
from fpsgan.video.frame import Frame

Image = NDArray[np.uint8]  # [H,W,3] RGB
Mask = NDArray[np.float32]  # [H,W] 0..1
Rng = np.random.Generator

HEIGHT, WIDTH = 192, 320
FINER = 4  # pictures are drawn so many times larger and reduced
MOMENTS = (-1.0, 0.0, 0.5, 1.0, 2.0)
REACH = 8  # px around what the fault is about that belong to it


class Scene(NamedTuple):
    """Pictures at MOMENTS; where the fault is; and the measure of a result, by name."""

    frames: list[Image]
    region: NDArray[np.bool_]
    measures: Callable[[Image], dict[str, float]]


# --- drawing -------------------------------------------------------------------------------------------------


def texture(rng: Rng, height: int = HEIGHT, width: int = WIDTH, fine: float = 3.0) -> Image:
    """Noise of two scales, a little coloured; the same for the same generator."""
    picture = np.full((height, width, 3), 120.0, np.float32)
    for sigma, strength in ((fine, 22.0), (18.0, 30.0)):
        grey, colour = rng.normal(0, 1, (height, width, 1)), rng.normal(0, 0.3, (height, width, 3))
        noise = cv2.GaussianBlur((grey + colour).astype(np.float32), (0, 0), sigma)
        picture += strength * noise / noise.std()
    return np.clip(picture, 0, 255).astype(np.uint8)


def cover(points: Sequence[tuple[float, float]] | NDArray[np.float64]) -> Mask:
    """What of each pixel a polygon covers."""
    large = np.zeros((HEIGHT * FINER, WIDTH * FINER), np.uint8)
    corners = np.rint((np.asarray(points) + 0.5) * FINER * 16 - 8).astype(np.int32)
    cv2.fillPoly(large, [corners], 255, cv2.LINE_8, 4)
    return np.asarray(cv2.resize(large, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.float32) / 255


def disc(x: float, y: float, radius: float) -> Mask:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return cover(np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), 1))


def box(left: float, top: float, right: float, bottom: float) -> Mask:
    return cover([(left, top), (right, top), (right, bottom), (left, bottom)])


def over(ground: Image, paint: Image | tuple[int, int, int], mask: Mask) -> Image:
    mixed = ground * (1 - mask[..., None]) + np.asarray(paint, np.float32) * mask[..., None]
    return np.rint(mixed).astype(np.uint8)


def moved(sheet: Image, x: float, y: float) -> Image:
    """A sheet shifted by x, y px, in the size of the pictures; the sheet is larger than they are."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float64)
    return np.asarray(
        cv2.warpAffine(sheet, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def around(*masks: Mask, reach: int = REACH) -> NDArray[np.bool_]:
    covered = np.max(masks, axis=0).astype(np.float32)
    return np.asarray(cv2.dilate(covered, np.ones((2 * reach + 1, 2 * reach + 1)))) > 0.01


def opacity(result: Image, ground: Image, paint: tuple[int, int, int], mask: Mask) -> float:
    """How opaque a thing of one colour is within a mask: 1 as if painted there, 0 if only the ground is seen."""
    there = mask > 0.99
    full = np.asarray(paint, np.float32) - ground[there]
    return float(((result[there] - ground[there].astype(np.float32)) * full).sum() / (full * full).sum())


def share_of(result: Image, ground: Sequence[int], paint: Sequence[int]) -> Mask:
    """Of flat drawings: how much of the paint each pixel has, the rest being the ground."""
    full = np.asarray(paint, np.float32) - np.asarray(ground, np.float32)
    found = (result - np.asarray(ground, np.float32)) @ full / (full @ full)
    return np.asarray(np.clip(found, 0, 1), np.float32)


def half_transparent(
    result: Image, truth: Image, region: NDArray[np.bool_], ground: Sequence[int], paint: Sequence[int]
) -> float:
    """4·a·(1 − a) in the mean over what changes, less that of the truth, whose edges are smooth too."""
    soft = [4 * a * (1 - a) for a in (share_of(p, ground, paint)[region] for p in (result, truth))]
    return float(np.mean(soft[0]) - np.mean(soft[1]))


# --- faults --------------------------------------------------------------------------------------------------


def small_fast(rng: Rng) -> Scene:
    """A small ball that moves by two to five times its radius, over a still ground with texture."""
    ground, paint = texture(rng), (250, 240, 60)
    radius, angle = rng.uniform(5, 9), rng.uniform(0, 2 * np.pi)
    step = rng.uniform(2, 5) * radius * np.array((np.cos(angle), np.sin(angle)))
    places = [np.array((WIDTH, HEIGHT)) / 2 + (t - 0.5) * step for t in MOMENTS]
    masks = [disc(*place, radius) for place in places]

    def measures(result: Image) -> dict[str, float]:
        ghosts = [opacity(result, ground, paint, masks[k] * (masks[2] == 0)) for k in (1, 3)]
        return {"opacity": opacity(result, ground, paint, masks[2]), "ghosts": max(ghosts)}

    return Scene([over(ground, paint, mask) for mask in masks], around(*masks[1:4]), measures)


def enters(rng: Rng) -> Scene:
    """The camera pans, or a large thing comes in: what is new at the border is seen in one of the two only."""
    step = rng.uniform(12, 28) * (1 if rng.random() < 0.5 else -1)
    sheet = texture(rng, HEIGHT, 2 * WIDTH)
    frames = [moved(sheet, -WIDTH / 2 + t * step, 0) for t in MOMENTS]
    region = np.zeros((HEIGHT, WIDTH), np.bool_)
    strip = int(abs(step)) + 2
    region[:, :strip] = region[:, -strip:] = True
    return Scene(frames, region, lambda result: {})


def fence(rng: Rng) -> Scene:
    """Bars that move by up to nearly half of their distance, before a ground that stands still."""
    ground, period = texture(rng, fine=6.0), rng.uniform(14, 20)
    step, slant = rng.uniform(0.25, 0.45) * period, rng.uniform(-0.2, 0.2)
    paint = (40, 35, 30)
    left, right, top, bottom = 60, 260, 30, 160

    def bars(t: float) -> Mask:
        masks = []
        for k in range(-20, 40):
            x = k * period + t * step
            masks.append(cover([(x, top), (x + 4, top), (x + 4 + slant * 130, bottom), (x + slant * 130, bottom)]))
        mask = np.max(masks, axis=0)
        mask[:, :left] = mask[:, right:] = 0
        return np.asarray(mask, np.float32)

    frames = [over(ground, paint, bars(t)) for t in MOMENTS]
    region = np.zeros((HEIGHT, WIDTH), np.bool_)
    region[top:bottom, left:right] = True
    return Scene(frames, region, lambda result: {})


def line_beside_edge(rng: Rng) -> Scene:
    """A board slides over a wall with lines on it that move up or down: beside its edge they should stay straight."""
    slope, drift, step = rng.uniform(-9, 9), rng.uniform(2, 6) * rng.choice((-1, 1)), rng.uniform(10, 24)
    rows = np.arange(24, HEIGHT - 20, 20)
    sheet = texture(rng, HEIGHT, 2 * WIDTH)
    edges = [90 + t * step for t in MOMENTS]

    def wall(t: float) -> Image:
        picture = np.full((HEIGHT, WIDTH, 3), (200, 195, 185), np.uint8)
        for row in rows + t * drift:
            line = [(0, row), (WIDTH, row + slope), (WIDTH, row + slope + 2), (0, row + 2)]
            picture = over(picture, (60, 60, 70), cover(line))
        return picture

    frames = [
        over(wall(t), moved(sheet, t * step - 60, 0), box(-9, -9, edge, HEIGHT + 9))
        for t, edge in zip(MOMENTS, edges, strict=True)
    ]
    columns = np.arange(int(edges[2]) + 2, int(edges[3]) + 20)
    region = np.zeros((HEIGHT, WIDTH), np.bool_)
    region[:, columns] = True

    def measures(result: Image) -> dict[str, float]:
        away = []
        for row in rows:
            for column in columns:
                middle = round(row + 0.5 * drift + slope * column / WIDTH + 1)
                dark = [
                    np.clip(185 - picture[middle - 6 : middle + 7, column].mean(-1), 0, None)
                    for picture in (result, frames[2])
                ]
                places = [float((d * np.arange(13)).sum() / max(d.sum(), 1e-3)) for d in dark]
                away.append(places[0] - places[1])
        return {"bend": float(np.sqrt(np.mean(np.square(away))))}

    return Scene(frames, region, measures)


def grows(rng: Rng) -> Scene:
    """A flat line grows at one end, as drawings are written: there is nothing that moves but the end."""
    ground, paint = (245, 245, 240), tuple(int(v) for v in rng.integers(0, 140, 3))
    width, step = rng.uniform(5, 12), rng.uniform(20, 50)
    angle = rng.uniform(-0.5, 0.5)
    along, across = np.array((np.cos(angle), np.sin(angle))), np.array((-np.sin(angle), np.cos(angle)))
    start = np.array((50.0, 96.0 - 110 * np.sin(angle)))
    masks = []
    for t in MOMENTS:
        end = start + along * (110 + t * step)
        masks.append(
            cover(
                [
                    start - across * width / 2,
                    end - across * width / 2,
                    end + across * width / 2,
                    start + across * width / 2,
                ]
            )
        )
    frames = [over(np.full((HEIGHT, WIDTH, 3), ground, np.uint8), paint, mask) for mask in masks]
    new = (masks[3] > 0.99) & (masks[1] < 0.01)
    region = around(np.float32(new))
    return Scene(frames, region, lambda result: {"half": half_transparent(result, frames[2], new, ground, paint)})


def turns(rng: Rng) -> Scene:
    """A flat star turns by 12 to 30 degrees: its corners move on circles."""
    ground, paint = (250, 250, 250), tuple(int(v) for v in rng.integers(0, 150, 3))
    points, radius, step = int(rng.integers(3, 6)), rng.uniform(45, 70), np.radians(rng.uniform(12, 30))
    frames, masks = [], []
    for t in MOMENTS:
        angles = np.arange(2 * points) * np.pi / points + t * step
        far = np.where(np.arange(2 * points) % 2, 0.55, 1.0) * radius
        masks.append(cover(np.stack((WIDTH / 2 + far * np.cos(angles), HEIGHT / 2 + far * np.sin(angles)), 1)))
        frames.append(over(np.full((HEIGHT, WIDTH, 3), ground, np.uint8), paint, masks[-1]))
    region = np.max(masks[1:4], axis=0) - np.min(masks[1:4], axis=0) > 0.5
    return Scene(frames, region, lambda result: {"half": half_transparent(result, frames[2], region, ground, paint)})


def stops_or_starts(rng: Rng) -> Scene:
    """A thing that moves evenly from frame0 to frame1, but not before or not after: to overshoot is wrong."""
    ground, sheet = texture(rng, fine=6.0), texture(rng, fine=2.0)
    step, side = rng.uniform(16, 32), rng.uniform(20, 28)
    ways = ((0.0, 0.0, 0.5, 1.0, 2.0), (-1.0, 0.0, 0.5, 1.0, 1.0), (1.0, 0.0, 0.5, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0, 1.0))
    way = ways[int(rng.integers(len(ways)))]
    bright = np.clip(sheet.astype(np.int32) + 70, 0, 255).astype(np.uint8)
    frames, masks = [], []
    for s in way:
        x = 140 + s * step
        masks.append(box(x - side, 96 - side, x + side, 96 + side))
        frames.append(over(ground, moved(bright, s * step, 0), masks[-1]))

    def measures(result: Image) -> dict[str, float]:
        """The shift of the truth that explains the result best, to a tenth of a px."""
        inside = (
            slice(int(96 - side) + 4, int(96 + side) - 4),
            slice(int(140 + way[2] * step - side) + 8, int(140 + way[2] * step + side) - 8),
        )
        shifts = np.arange(-6, 6.01, 0.1)
        errors = [np.abs(moved(frames[2], s, 0)[inside].astype(np.float32) - result[inside]).mean() for s in shifts]
        return {"off": float(abs(shifts[int(np.argmin(errors))]))}

    return Scene(frames, around(*masks[1:4]), measures)


FAULTS: dict[str, Callable[[Rng], Scene]] = {
    "small fast things": small_fast,
    "entering at the border": enters,
    "fences": fence,
    "lines beside an edge": line_beside_edge,
    "lines that grow": grows,
    "corners that turn": turns,
    "stopping, starting": stops_or_starts,
}


def scenes(pairs: int) -> dict[str, list[Scene]]:
    """`pairs` scenes of each fault, always the same."""
    return {
        name: [draw(np.random.default_rng((number, k))) for k in range(pairs)]
        for number, (name, draw) in enumerate(FAULTS.items())
    }


def rebuilt(scene: Scene, filler: Filler, frames: int = 4) -> Image:
    """The picture at ½, from two frames or four."""
    before, frame0, truth, frame1, after = (
        Frame.of_image(image, Fraction(moment)) for image, moment in zip(scene.frames, MOMENTS, strict=True)
    )
    given = [Window(0, -1, before, (), frame0), Window(0, 0, frame0, (truth,), frame1), Window(0, 1, frame1, (), after)]
    (made,) = (image for images in filler(given if frames == 4 else given[1:2]) for image in images)
    return made


def measured(scene: Scene, result: Image) -> dict[str, float]:
    """PSNR in the region, at most 60 dB, and the scene's own measures."""
    inside = scene.region
    return {"PSNR": min(60.0, psnr(result[inside][None], scene.frames[2][inside][None])), **scene.measures(result)}


def means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["interpolator-fast", "interpolator-base"])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--frames", type=int, choices=(2, 4), default=4)
    parser.add_argument("--sheet", type=Path, help="the first scene of each fault: frame0, frame1, truth, results")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    methods: dict[str, Filler] = {"blend": blend}
    for name in args.weights:
        network = weights.load(name, expect="interpolator")
        assert isinstance(network, Interpolator)
        methods[name] = by_network(network, torch.device("cpu"), torch.float32)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    rows = []
    for fault, drawn in scenes(args.pairs).items():
        results = {name: [rebuilt(scene, filler, args.frames) for scene in drawn] for name, filler in methods.items()}
        for name, images in results.items():
            found = [measured(scene, image) for scene, image in zip(drawn, images, strict=True)]
            figures.setdefault(fault, {})[name] = means(found)
        first = drawn[0].frames
        rows.append(np.hstack([first[1], first[3], first[2], *(images[0] for images in results.values())]))
    print("| | " + " | ".join(methods) + " |\n|---" + "|---:" * len(methods) + "|")
    for fault, by_method in figures.items():
        for measure in next(iter(by_method.values())):
            cells = [f"{found[measure]:.2f}" for found in by_method.values()]
            print("| " + " | ".join([f"{fault}: {measure}", *cells]) + " |")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if args.sheet:
        head = np.zeros((20, rows[0].shape[1], 3), np.uint8)
        for k, title in enumerate(("frame0", "frame1", "truth", *methods)):
            cv2.putText(
                head, title, (k * WIDTH + 4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA
            )
        cv2.imwrite(str(args.sheet), np.vstack([head, *rows])[..., ::-1])


if __name__ == "__main__":
    main()

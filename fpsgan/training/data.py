"""Training samples for the interpolator: made once, packed into plain arrays, read back at random.

Three sources: real clips (three frames i < j < k give the truth at t = (j − i)/(k − i)), photos moved by a renderer
with exact flow, and vector animations. The flow prior is computed here, on more of the frame than the crop,
as it will be when the network is used; a training step then only reads and augments.

    python -m fpsgan.training.data --video CLIPS… --photos PHOTOS… --lottie JSON… -o PACK --count 8000
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpsgan.errors import InputError, SetupError
from fpsgan.prior import PRIOR_STRIDE, flow_prior

__all__ = ["Sample", "lottie_samples", "pack", "photo_samples", "read_lottie", "triplet_batches", "video_samples"]

Image = NDArray[np.uint8]  # [H,W,3] RGB
Flow = NDArray[np.float32]  # [2,H,W] (x, y) in pixels

SIZE = 256  # side of a packed crop; a multiple of 8
WINDOW = 9  # frames held while reading a clip: the longest triplet spans WINDOW − 1 intervals
GAPS = (2, 2, 2, 2, 3, 4, 4, 6, 8)  # k − i: mostly neighbours, some large motion


class Sample(NamedTuple):
    """One triplet; the flows lie at 1/4, in full-size pixels. exact is NaN where nobody knows it."""

    frames: NDArray[np.uint8]  # [3,S,S,3]: frame0, the truth at t, frame1
    t: float
    prior: NDArray[np.float32]  # [2,2,S/4,S/4]: flow01, flow10
    exact: NDArray[np.float32]  # [2,2,S/4,S/4]: flow_t0, flow_t1, rendered or found with the truth at hand


# --- sources -------------------------------------------------------------------------------------------------


def video_samples(path: Path, wanted: int, rng: np.random.Generator, size: int = SIZE) -> Iterator[Sample]:
    """About wanted samples from one clip, spread over its length. Cuts and held frames are left out."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        length = stream.frames or int(float((container.duration or 10**7) / 1e6) * float(stream.average_rate or 30))
        share = wanted / max(1.0, 2.0 * (length - WINDOW))
        window: deque[tuple[Image, float]] = deque(maxlen=WINDOW)
        for frame in container.decode(stream):
            window.append((np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), float(frame.time or 0.0)))
            if len(window) < WINDOW:
                continue
            for _ in range(int(share) + (rng.random() < share % 1)):
                gap = int(rng.choice(GAPS))
                start = int(rng.integers(0, WINDOW - gap))
                middle = start + int(rng.integers(1, gap))
                images = [window[i][0] for i in range(start, start + gap + 1)]
                if _moves_without_cut(images):
                    times = [window[i][1] for i in (start, middle, start + gap)]
                    triplet = [images[0], images[middle - start], images[-1]]
                    t = (times[1] - times[0]) / (times[2] - times[0])
                    yield from _crops(_random_scale(triplet, size, rng), t, 2, rng, size)


def photo_samples(photos: Sequence[Path], rng: np.random.Generator, size: int = SIZE) -> Iterator[Sample]:
    """Endless samples of photos that move in layers, each along straight lines, with exact flow."""
    while True:
        t = float(rng.choice((0.5, rng.uniform(0.1, 0.9))))
        context = size + 128
        canvases = [np.zeros((context, context, 3), np.float32) for _ in range(3)]
        flow_t0 = np.zeros((context, context, 2), np.float32)
        flow_t1 = np.zeros_like(flow_t0)
        common = rng.normal(0, 1, 2) * rng.choice((0, 4, 12, 25))
        for layer in range(1 + int(rng.integers(1, 4))):
            texture = _texture(photos[int(rng.integers(len(photos)))], context, rng)
            start = _affine(context, rng, angle=25.0, scale=0.15, shift=15.0)
            strength = rng.choice((0.3, 1.0, 2.0))
            move = _affine(context, rng, angle=4.0 * strength, scale=0.05 * strength, shift=10.0 * strength)
            move[:2, 2] += common
            alpha = np.ones((context, context), np.float32) if layer == 0 else _blob(context, rng)
            # a straight line from its first place to its last, for every point of the layer
            places = [start + time * (move @ start - start) for time in (0.0, t, 1.0)]
            for canvas, place in zip(canvases, places, strict=True):
                cover = cv2.warpAffine(alpha, place[:2], (context, context), flags=cv2.INTER_LINEAR)
                moved = cv2.warpAffine(
                    texture, place[:2], (context, context), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
                )
                cover = np.ones_like(cover) if layer == 0 else cover
                canvas += (moved - canvas) * cover[..., None]
                if place is places[1]:
                    seen = cover > 0.5
            grid = np.dstack(np.meshgrid(np.arange(context), np.arange(context))).astype(np.float64)
            for flow, place in ((flow_t0, places[0]), (flow_t1, places[2])):
                back = place @ np.linalg.inv(places[1])
                there = grid @ back[:2, :2].T + back[:2, 2]
                flow[seen] = (there - grid).astype(np.float32)[seen]
        images = [np.clip(np.rint(canvas), 0, 255).astype(np.uint8) for canvas in canvases]
        prior = np.stack(flow_prior(images[0], images[2]))
        exact = np.stack([_quarter(flow) for flow in (flow_t0, flow_t1)])
        yield _cut_out(images, t, prior, exact, 64, 64, size)


def lottie_samples(path: Path, wanted: int, rng: np.random.Generator, size: int = SIZE) -> Iterator[Sample]:
    """At most wanted samples of one vector animation, at random sizes, on random backgrounds."""
    with _lottie(path) as animation:
        length = animation.lottie_animation_get_totalframe()
        wide, high = animation.lottie_animation_get_size()
        for _ in range(wanted if length > 2 else 0):
            gap = min(int(rng.choice((2, 2, 2, 4))), length - 1)
            start = int(rng.integers(0, length - gap))
            middle = start + int(rng.integers(1, gap))
            side = size * float(rng.uniform(1.0, 2.5))
            width, height = round(side * max(1.0, wide / high)), round(side * max(1.0, high / wide))
            background = rng.integers(0, 256, 3) if rng.random() < 0.5 else np.full(3, rng.choice((0, 255)))
            triplet = [
                _lottie_frame(animation, index, width, height, background) for index in (start, middle, start + gap)
            ]
            if np.abs(triplet[0].astype(np.int16) - triplet[2]).mean() > 0.3:
                yield from _crops(triplet, (middle - start) / gap, 1, rng, size)


# --- packing -------------------------------------------------------------------------------------------------


def pack(samples: Iterator[Sample], count: int, folder: Path, size: int = SIZE) -> int:
    """Writes up to count samples as one .npy file per field; returns how many there were.

    The arrays are made for count samples and filled in order; samples.json says how many are valid, so that a
    training run may start while packing goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    small = size // PRIOR_STRIDE
    shapes = {
        "frames": (np.uint8, (count, 3, size, size, 3)),
        "t": (np.float32, (count,)),
        "prior": (np.float16, (count, 2, 2, small, small)),
        "exact": (np.float16, (count, 2, 2, small, small)),
    }
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (dtype, shape) in shapes.items()
    }
    done = 0
    for sample in samples:
        for name, array in arrays.items():
            array[done] = getattr(sample, name)
        done += 1
        if done % 50 == 0 or done == count:
            (folder / "samples.json").write_text(json.dumps({"samples": done}))
        if done == count:
            break
    (folder / "samples.json").write_text(json.dumps({"samples": done}))
    return done


# --- reading -------------------------------------------------------------------------------------------------


def triplet_batches(
    packs: Sequence[Path],
    shares: Sequence[float],
    batch: int,
    crop: int,
    rng: np.random.Generator,
    *,
    augment: bool = True,
    drop_prior: float = 0.15,
) -> Iterator[dict[str, Tensor]]:
    """Endless batches from packs, pack i giving shares[i] of the samples.

    Each is {"frame0", "truth", "frame1": [B,3,S,S] 0..1, "t": [B], "flow01", "flow10", "flow_t0", "flow_t1":
    [B,2,S/4,S/4]}; without flow01 and flow10 in a share drop_prior of the batches; flow_t* NaN where unknown.
    """
    stored = [{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in Sample._fields} for folder in packs]
    odds = np.asarray(shares, np.float64) / np.sum(shares)
    while True:
        counts = [json.loads((folder / "samples.json").read_text())["samples"] for folder in packs]
        chosen = []
        for which in rng.choice(len(stored), batch, p=odds):
            arrays, index = stored[which], int(rng.integers(counts[which]))
            sample = Sample(**{name: np.asarray(arrays[name][index]) for name in Sample._fields})  # type: ignore
            chosen.append(_augment(sample, crop, rng) if augment else _middle(sample, crop))
        frames = torch.from_numpy(np.stack([s.frames for s in chosen])).permute(1, 0, 4, 2, 3).float() / 255.0
        prior = torch.from_numpy(np.stack([s.prior for s in chosen]).astype(np.float32))
        exact = torch.from_numpy(np.stack([s.exact for s in chosen]).astype(np.float32))
        inputs = _degrade(frames, rng) if augment else frames
        result = {"frame0": inputs[0], "truth": frames[1], "frame1": inputs[2]}
        result["t"] = torch.tensor([float(s.t) for s in chosen])
        result["flow_t0"], result["flow_t1"] = exact.unbind(1)
        if rng.random() >= drop_prior:
            result["flow01"], result["flow10"] = prior.unbind(1)
        yield result


def _middle(sample: Sample, crop: int) -> Sample:
    offset = (sample.frames.shape[1] - crop) // 8 * 4
    return _window(sample, offset, offset, crop)


def _window(sample: Sample, top: int, left: int, crop: int, shift: tuple[int, int] = (0, 0)) -> Sample:
    """A crop at (top, left); frame0 is taken shift (y, x) earlier and frame1 as much later: more motion.

    With frame0'(x) = frame0(x − s) and frame1'(x) = frame1(x + s), flow01' = flow01(x − s) − 2s and
    flow_t0' = flow_t0 + s; mirrored for frame1. Everything is a multiple of 4, so that flows need no resampling.
    """
    down, right = shift
    places = [(top - down, left - right), (top, left), (top + down, left + right)]
    frames = np.stack([f[y : y + crop, x : x + crop] for f, (y, x) in zip(sample.frames, places, strict=True)])
    small, moved = crop // 4, np.array([right, down], np.float32)[:, None, None]
    (y0, x0), (y, x), (y1, x1) = ((a // 4, b // 4) for a, b in places)
    prior = np.stack(
        [
            sample.prior[0, :, y0 : y0 + small, x0 : x0 + small] - 2 * moved,
            sample.prior[1, :, y1 : y1 + small, x1 : x1 + small] + 2 * moved,
        ]
    )
    exact = sample.exact[:, :, y : y + small, x : x + small] + np.stack([moved, -moved])
    return Sample(frames, sample.t, prior, exact)


def _augment(sample: Sample, crop: int, rng: np.random.Generator) -> Sample:
    room = (sample.frames.shape[1] - crop) // 4
    shift = [0, 0]
    if abs(float(sample.t) - 0.5) < 1e-3 and rng.random() < 0.2:
        # at any other time opposite shifts would not be one straight motion
        shift = [int(4 * rng.integers(-(room // 2), room // 2 + 1)) for _ in range(2)]
    top, left = (int(4 * rng.integers(abs(s) // 4, room - abs(s) // 4 + 1)) for s in shift)
    frames, t, prior, exact = _window(sample, top, left, crop, (shift[0], shift[1]))
    flows = np.concatenate([prior, exact])  # [4,2,S/4,S/4]
    if rng.random() < 0.5:
        frames, flows = frames[:, :, ::-1], flows[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    if rng.random() < 0.5:
        frames, flows = frames[:, ::-1], flows[..., ::-1, :] * np.array([1, -1], np.float32)[:, None, None]
    if rng.random() < 0.5:
        frames, flows = frames.transpose(0, 2, 1, 3), flows[:, ::-1].transpose(0, 1, 3, 2)
    if rng.random() < 0.5:
        frames, flows, t = frames[::-1], flows[[1, 0, 3, 2]], 1.0 - t
    frames = frames[..., rng.permutation(3)]
    return Sample(np.ascontiguousarray(frames), t, *np.split(np.ascontiguousarray(flows), 2))


def _degrade(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """What cameras and codecs do between frames: a little noise and exposure on the inputs, not on the truth."""
    if rng.random() < 0.7:
        return frames
    noise = torch.randn(frames.shape) * float(rng.uniform(0.0, 0.015))
    gain = 1.0 + torch.from_numpy(rng.normal(0, 0.01, (3, frames.shape[1], 1, 1, 1))).float()
    gain[1] = (gain[0] + gain[2]) / 2
    return frames * (gain / gain[1:2]) + noise


# --- parts ---------------------------------------------------------------------------------------------------


def _moves_without_cut(images: Sequence[Image]) -> bool:
    """No cut and no held frame between any two neighbours: judged on 32×32 grey thumbnails and on the pixels."""
    thumbs = [cv2.resize(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA) for i in images]
    for before, after in pairwise(thumbs):
        a, b = before.astype(np.float32).ravel(), after.astype(np.float32).ravel()
        alike = np.corrcoef(a, b)[0, 1] if a.std() > 1 and b.std() > 1 else 0.0
        if alike < 0.7 or np.abs(a - b).mean() > 30:
            return False
    return all(np.abs(a[::4, ::4].astype(np.int16) - b[::4, ::4]).mean() > 0.4 for a, b in pairwise(images))


def _random_scale(images: Sequence[Image], size: int, rng: np.random.Generator) -> list[Image]:
    height, width = images[0].shape[:2]
    smallest = max(1.15 * size / min(height, width), 0.3)
    scale = 1.0 if smallest >= 1.0 or rng.random() < 0.3 else rng.uniform(smallest, 1.0)
    if min(height, width) * scale < size:
        scale = size / min(height, width)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    if scale == 1.0:
        return list(images)
    return [np.asarray(cv2.resize(i, target, interpolation=cv2.INTER_AREA), np.uint8) for i in images]


def _crops(images: Sequence[Image], t: float, count: int, rng: np.random.Generator, size: int) -> Iterator[Sample]:
    """Crops of one triplet, the moving parts preferred."""
    height, width = images[0].shape[:2]
    prior = np.stack(flow_prior(images[0], images[2]))
    change = np.abs(images[0].astype(np.int16) - images[2]).mean(axis=2)
    for _ in range(count):
        places = [
            (int(4 * rng.integers(0, (height - size) // 4 + 1)), int(4 * rng.integers(0, (width - size) // 4 + 1)))
            for _ in range(4)
        ]
        moving = [float(change[y : y + size : 4, x : x + size : 4].mean()) for y, x in places]
        best = int(np.argmax(moving))
        if moving[best] > 1.0:
            sample = _cut_out(images, t, prior, np.zeros_like(prior), *places[best], size)
            yield sample._replace(exact=privileged_flow(sample.frames))


def privileged_flow(frames: NDArray[np.uint8]) -> Flow:
    """Flow from the truth to both frames by DIS, which the network, without the truth, has to find.

    The teacher of RIFE (Huang et al. 2022, privileged distillation) without a teacher network.
    frames: [3,S,S,3]. Returns [2,2,S/4,S/4] in pixels, NaN where it does not explain the truth.
    """
    grey = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in frames]
    found = []
    for other in (0, 2):
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow = np.asarray(dis.calc(grey[1], grey[other], None), np.float32)  # type: ignore[call-overload]
        height, width = grey[1].shape
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        there = cv2.remap(frames[other], x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
        error = np.abs(there.astype(np.float32) - frames[1]).mean(axis=2)
        small = _quarter(flow)
        small[:, cv2.resize(error, small.shape[:0:-1], interpolation=cv2.INTER_AREA) > 5.0] = np.nan
        found.append(small)
    return np.stack(found)


def _cut_out(images: Sequence[Image], t: float, prior: Flow, exact: Flow, top: int, left: int, size: int) -> Sample:
    y, x, small = top // 4, left // 4, size // 4
    frames = np.stack([image[top : top + size, left : left + size] for image in images])
    window = np.s_[:, :, y : y + small, x : x + small]
    return Sample(frames, t, prior[window], exact[window])


def _quarter(flow: NDArray[np.float32]) -> Flow:
    size = (flow.shape[1] // PRIOR_STRIDE, flow.shape[0] // PRIOR_STRIDE)
    return np.array(cv2.resize(flow, size, interpolation=cv2.INTER_AREA).transpose(2, 0, 1), np.float32)


def _texture(path: Path, context: int, rng: np.random.Generator) -> NDArray[np.float32]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise InputError(f"{path} is not an image that OpenCV can read")
    scale = context / min(image.shape[:2])
    scale = scale if scale >= 1.0 else rng.uniform(scale, 1.0)
    target = (max(context, round(image.shape[1] * scale)), max(context, round(image.shape[0] * scale)))
    whole = cv2.resize(image, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    y, x = (int(rng.integers(0, side - context + 1)) for side in whole.shape[:2])
    return np.asarray(whole[y : y + context, x : x + context], np.float32)


def _affine(context: int, rng: np.random.Generator, angle: float, scale: float, shift: float) -> NDArray[np.float64]:
    center = tuple(context * rng.uniform(0.3, 0.7, 2))
    matrix = np.eye(3)
    turn, zoom = float(rng.normal(0, angle / 2)), float(np.exp(rng.normal(0, scale / 2)))
    matrix[:2] = cv2.getRotationMatrix2D(center, turn, zoom)
    matrix[:2, 2] += rng.normal(0, shift, 2)
    return matrix


def _blob(context: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A layer's shape: thresholded smooth noise inside an ellipse, from one solid body to thin pieces."""
    noise = np.asarray(rng.normal(0, 1, (context, context)), np.float32)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), float(rng.choice((6, 15, 40)))), np.float32)
    mask = (noise / noise.std() > float(rng.uniform(-2.0, 0.7))).astype(np.float32)
    ellipse = np.zeros_like(mask)
    center = [int(v) for v in rng.uniform(0.2, 0.8, 2) * context]
    axes = [int(v) for v in rng.uniform(0.04, 0.35, 2) * context]
    cv2.ellipse(ellipse, center, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(mask * ellipse, (0, 0), 0.7), np.float32)


def read_lottie(path: Path, side: int) -> Iterator[Image]:
    """Every frame of a vector animation at its own rate, on white; side is the shorter side in pixels."""
    with _lottie(path) as animation:
        wide, high = animation.lottie_animation_get_size()
        width, height = round(side * max(1.0, wide / high)), round(side * max(1.0, high / wide))
        for index in range(animation.lottie_animation_get_totalframe()):
            yield _lottie_frame(animation, index, width, height, np.full(3, 255))


def _lottie(path: Path) -> Any:
    try:
        from rlottie_python import LottieAnimation  # type: ignore[attr-defined]
    except ImportError as error:
        raise SetupError("animations need rlottie-python: pip install 'fpsgan[train]'") from error
    return LottieAnimation.from_file(str(path))


def _lottie_frame(animation: Any, index: int, width: int, height: int, background: NDArray[np.int64]) -> Image:
    buffer = animation.lottie_animation_render(frame_num=index, width=width, height=height)
    bgra = np.frombuffer(buffer, np.uint8).reshape(height, width, 4).astype(np.float32)
    image = bgra[..., 2::-1] + (1.0 - bgra[..., 3:] / 255.0) * background  # alpha is premultiplied
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


def _files(places: Sequence[Path], kind: str) -> list[Path]:
    files = [f for p in places for f in (sorted(p.iterdir()) if p.is_dir() else [p]) if f.is_file()]
    if places and not files:
        raise InputError(f"no {kind} in {', '.join(map(str, places))}")
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Packs one kind of source per call; run it once for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", type=Path, nargs="+", help="clips, or folders of clips")
    source.add_argument("--photos", type=Path, nargs="+", help="photos, or folders of photos")
    source.add_argument("--lottie", type=Path, nargs="+", help="Lottie JSON files, or folders of them")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=8, help="each n-th file is kept for validation")
    parser.add_argument("--validation", action="store_true", help="pack the files kept for validation")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(options.seed)
    kind = "clips" if options.video else "photos" if options.photos else "animations"
    files = _files(options.video or options.photos or options.lottie, kind)
    files = [f for i, f in enumerate(files) if (i % options.every == options.every - 1) == options.validation]

    def samples() -> Iterator[Sample]:
        if options.photos:
            yield from photo_samples(files, rng)
        each = -(-options.count // len(files))
        read = video_samples if options.video else lottie_samples
        while True:
            found = 0
            for index in rng.permutation(len(files)):
                for sample in read(files[index], max(2, each // 4), rng):
                    found += 1
                    yield sample
            if not found:
                raise InputError("nothing in these files moves without a cut")

    print(pack(samples(), options.count, options.output), "samples in", options.output)


if __name__ == "__main__":
    main()

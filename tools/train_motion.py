"""Trains `deblur-motion`: how long the shutter was open (deblur/exposure.py), and what undoes that (deblur/motion.py).

    python tools/train_motion.py --clips VIDEOS --photos PHOTOS [--drawings LOTTIE] -o motion.safetensors

Samples are three frames in a row of 256×256 px and the truth of the middle one. Of clips: means of 3 to 9 frames in
linear light (fpsgan.training.deblur_data.expose), the shutter open for 0.3 to 1 of the time. Of photos: one to four
layers that pan, turn, zoom and speed up, exposed densely. Two in five are seen through a soft lens, half of them get
noise, a quarter JPEG. Some of each kind, and of drawings, stay sharp: there the answer is that nothing is to be done.
`--make` minutes go into making them, on one core; then both readings of the exposure are learned from their signs, and
in `--minutes` the residual, from 2,400 pixels of each sample, at exposures that are off by a few percent, as in use.

A fifth of the samples is held out for the exposure, a twelfth for the residual; what is printed is measured on those.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.blur import sensor, to_code, to_linear
from deblur.exposure import ACROSS, ALONG, SHARES, Exposure, likeness_signs, places_of, profile_signs
from deblur.gate import MOVED
from deblur.motion import MotionBlur, path_features
from deblur.paths import LUMA, QUICK, Motion, drift_of, flows_between, motion_of
from fpsgan import weights
from fpsgan.stages.scenes import SceneDetector
from fpsgan.stages.timeline import Relation
from fpsgan.training.data import PICTURES, files_below, read_photo
from fpsgan.training.deblur_data import expose
from fpsgan.training.lottie import read_lottie

Image = NDArray[np.uint8]
Light = NDArray[np.float32]
Rng = np.random.Generator

SIDE = 256
PLACES, PIXELS = 256, 2400  # of each sample, for profiles and for the residual
SHARP = 0.08  # share of the samples, drawings not counted
SOFT = 0.4  # share of them that were taken through a soft lens
SOFTEST = 3.0  # px, the largest standard deviation of its blur
BATCH = 8192  # pixels
FASTEST = 44.0  # px that pass while the shutter is open
HARM = 1e-4  # mean squared error from which harm to a sharp picture counts as much as a blurred one's error


class Sample(NamedTuple):
    """Three frames in a row, the truth of the middle one, and the share of the time that the shutter was open."""

    frames: list[Image]
    sharp: Image
    share: float


class Camera(NamedTuple):
    """What took a sample: blur of its lens, standard deviation in px; noise of its sensor; quality of its JPEGs."""

    softness: float
    noise: float
    jpeg: int | None

    @classmethod
    def drawn(cls, rng: Rng) -> Camera:
        return cls(
            float(rng.uniform(0.5, SOFTEST)) if rng.random() < SOFT else 0.0,
            float(rng.uniform(0, 0.012)) if rng.random() < 0.5 else 0.0,
            int(rng.integers(70, 99)) if rng.random() < 0.25 else None,
        )

    def seen(self, picture: Light) -> Light:
        """A picture, 0..1, through the lens, which blurs what moves and what stands alike."""
        if not self.softness:
            return picture
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), self.softness), np.float32)

    def taken(self, picture: Light, rng: Rng) -> Image:
        return np.asarray(sensor(self.seen(picture), rng, noise=self.noise, jpeg=self.jpeg), np.uint8)


def light(picture: Image) -> Light:
    return picture.astype(np.float32) / np.float32(255)


def codes(picture: Light) -> Image:
    return np.rint(255 * picture).astype(np.uint8)


def of_clips(files: list[Path], rng: Rng) -> Iterator[Sample]:
    found = True
    while found:  # passes over all clips
        found = False
        for file in rng.permutation(np.array(files, object)):
            for sample in islice(_of_clip(file, rng), 12):
                found = True
                yield sample
    raise SystemExit("no clip gives a sample: too short, smaller than 256 px, or nothing moves in it")


def _of_clip(file: Path, rng: Rng) -> Iterator[Sample]:
    capture = cv2.VideoCapture(str(file))
    width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    scale = (
        0.5 if min(width, height) >= 1000 else float(rng.choice([0.5, 0.67, 1])) if min(width, height) >= 700 else 1.0
    )
    scenes = SceneDetector()
    kept: list[Image] = []
    open_for, step = _shutter(rng)
    while True:
        there, frame = capture.read()
        if not there:
            return
        picture = np.asarray(
            cv2.cvtColor(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB),
            np.uint8,
        )
        if min(picture.shape[:2]) < SIDE:
            return
        if scenes.relate(np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)) is not Relation.MOTION:
            kept = []
        kept.append(picture)
        if len(kept) < 2 * step + open_for:
            continue
        if rng.random() < 0.5 and (sample := _exposed(kept, open_for, step, rng)) is not None:
            yield sample
        kept, (open_for, step) = [], _shutter(rng)


def _shutter(rng: Rng) -> tuple[int, int]:
    """For how many frames it is open, and after how many it opens again."""
    open_for = int(rng.choice([3, 3, 5, 5, 7, 9]))
    return open_for, max(open_for, round(open_for / rng.uniform(0.3, 1.0)))


def _exposed(frames: list[Image], open_for: int, step: int, rng: Rng) -> Sample | None:
    """Where more moves of two places; None where too little does, or too much."""
    middle = step + open_for // 2
    height, width = frames[0].shape[:2]
    change = cv2.absdiff(frames[middle], frames[middle + 1]).mean(2)
    places = [(int(rng.integers(height - SIDE + 1)), int(rng.integers(width - SIDE + 1))) for _ in range(2)]
    top, left = max(places, key=lambda p: float(change[p[0] : p[0] + SIDE, p[1] : p[1] + SIDE].mean()))
    window = np.s_[top : top + SIDE, left : left + SIDE]
    cut = [np.ascontiguousarray(frame[window]) for frame in frames]
    greys = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in (cut[middle], cut[middle + 1])]
    speed = float(np.percentile(np.linalg.norm(flows_between(*greys)[0], axis=2), 95))
    if not 0.7 < speed * (open_for - 1) < FASTEST or speed * step > 2 * FASTEST:
        return None
    camera = Camera.drawn(rng)
    if rng.random() < SHARP:
        made = [camera.taken(light(cut[k * step + open_for // 2]), rng) for k in range(3)]
        return Sample(made, made[1], 0.0)
    made = [camera.taken(expose(cut[k * step : k * step + open_for]), rng) for k in range(3)]
    between = max(0, min(12, int(np.ceil(speed)) - 1)) if speed > 1.5 else 0  # as expose() has it
    return Sample(made, codes(camera.seen(light(cut[middle]))), (open_for - 1 + 1 / (between + 1)) / step)


class Layer(NamedTuple):
    """Texture of twice the density, [2·(SIDE+128)]² in linear light, with its cover; and how it moves from one frame to
    the next: px, px more each time, zoom, turn."""

    texture: Light
    speed: NDArray[np.float64]
    more: NDArray[np.float64]
    zoom: float
    turn: float

    def at(self, t: float) -> Light:
        growth, angle, centre = np.exp(self.zoom * t), self.turn * t, np.full(2, SIDE / 2)
        turned = growth * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = centre + self.speed * t + self.more * t * t / 2 - turned @ centre
        matrix = np.column_stack((turned / 2, offset - turned @ np.full(2, 64.0)))
        size = (SIDE, SIDE)
        return np.asarray(
            cv2.warpAffine(self.texture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101),
            np.float32,
        )


def of_photos(files: list[Path], rng: Rng) -> Iterator[Sample]:
    while True:
        share = 0.0 if rng.random() < SHARP else float(rng.uniform(0.3, 1.0))
        layers = _layers(files, rng)
        passed = max(float(np.hypot(*layer.speed)) for layer in layers) * max(share, 0.3)
        if not 0.7 < passed < 1.25 * FASTEST:
            continue
        samples = min(41, 2 * int(np.ceil(passed * 0.55)) + 3) if share else 1
        moments = ((np.arange(samples) + 0.5) / samples - 0.5) * share
        camera = Camera.drawn(rng)

        def shown(t: float, layers: list[Layer] = layers) -> Light:
            made = layers[0].at(t)
            for layer in layers[1:]:
                over = layer.at(t)
                made = made * (1 - over[..., 3:]) + over[..., :3]
            return made

        made = [
            camera.taken(to_code(np.mean([shown(k + float(m)) for m in moments], axis=0, dtype=np.float32)), rng)
            for k in (-1, 0, 1)
        ]
        yield Sample(made, codes(camera.seen(to_code(shown(0.0)))) if share else made[1], share)


def _layers(files: list[Path], rng: Rng) -> list[Layer]:
    def motion(most: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        speed, angle = np.exp(rng.uniform(np.log(0.7), np.log(most))), rng.uniform(0, 2 * np.pi)
        more = rng.normal(0, 0.12, 2) * speed if rng.random() < 0.6 else np.zeros(2)
        zoom, turn = (float(rng.normal(0, 0.03)) if rng.random() < 0.4 else 0.0 for _ in range(2))
        return speed * np.array([np.cos(angle), np.sin(angle)]), more, zoom, turn

    side = 2 * (SIDE + 128)
    camera = motion(60) if rng.random() < 0.75 else (np.zeros(2), np.zeros(2), 0.0, 0.0)
    layers: list[Layer] = []
    for number in range(int(rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.25, 0.1]))):
        photo = read_photo(files[int(rng.integers(len(files)))])
        cut = min(side, *photo.shape[:2])
        top, left = (int(rng.integers(have - cut + 1)) for have in photo.shape[:2])
        part = cv2.resize(photo[top : top + cut, left : left + cut], (side, side), interpolation=cv2.INTER_CUBIC)
        texture = to_linear(np.asarray(part, np.float32) / np.float32(255))
        if number:
            cover = _cover(side, rng)[..., None]
            own = motion(50)
            speed = camera[0] * rng.uniform(0.6, 1.4) + (own[0] if rng.random() < 0.8 else 0)
            layers.append(
                Layer(
                    np.dstack((texture * cover, cover)),
                    speed,
                    camera[1] + own[1],
                    camera[2] + own[2],
                    camera[3] + own[3],
                )
            )
        else:
            layers.append(Layer(texture, *camera))
    return layers


def _cover(side: int, rng: Rng) -> Light:
    """Which part of its texture a layer shows: an ellipse, or a crooked polygon."""
    mask = np.zeros((side, side), np.uint8)
    centre = rng.uniform(0.25, 0.75, 2) * side
    corners = int(rng.integers(5, 14))
    angles, reach = (
        np.sort(rng.uniform(0, 2 * np.pi, corners)),
        side * rng.uniform(0.08, 0.35) * rng.uniform(0.5, 1.3, corners),
    )
    if rng.random() < 0.5:
        cv2.fillPoly(
            mask,
            [np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], 1).astype(np.int32)],
            255,
            cv2.LINE_AA,
        )
    else:
        cv2.ellipse(
            mask,
            (int(centre[0]), int(centre[1])),
            (int(reach[0]), int(reach[1])),
            float(rng.uniform(0, 180)),
            0,
            360,
            255,
            -1,
            cv2.LINE_AA,
        )
    return mask.astype(np.float32) / np.float32(255)


def of_drawings(files: list[Path], rng: Rng) -> Iterator[Sample]:
    """Drawings have no shutter."""
    while True:
        for file in rng.permutation(np.array(files, object)):
            first = int(rng.integers(2, 16))
            frames = [image[:SIDE, :SIDE] for image in islice(read_lottie(file, SIDE), first, first + 3)]
            if len(frames) == 3 and frames[0].shape[:2] == (SIDE, SIDE) and not np.array_equal(frames[0], frames[1]):
                camera = Camera.drawn(rng)._replace(softness=0.0, noise=0.0)
                made = [camera.taken(light(frame), rng) for frame in frames]
                yield Sample(made, made[1], 0.0)


class Learned(NamedTuple):
    """What is kept of a sample: the signs of its exposure, by likeness [signs] and by profiles [PLACES,signs] (None:
    too little moves), how it moves, the blurred and the sharp luma, and the share."""

    likeness: NDArray[np.float32] | None
    profiles: NDArray[np.float16] | None
    motion: Motion
    luma: Light
    sharp: Light
    share: float


def learned(sample: Sample, rng: Rng) -> Learned:
    greys = [np.rint(frame @ LUMA).astype(np.uint8) for frame in sample.frames]
    places = places_of(light(greys[1]), drift_of(*(flows_between(*pair, QUICK) for pair in pairwise(greys)), QUICK))
    motion = motion_of(*greys, *(flows_between(*pair) for pair in pairwise(greys)))
    lumas = [np.asarray(picture @ LUMA / 255, np.float32) for picture in (sample.frames[1], sample.sharp)]
    likeness = profiles = None
    if places is not None:
        likeness = likeness_signs(light(greys[1]), places)
        profiles = rng.choice(profile_signs(light(greys[1]), places), PLACES).astype(np.float16)
    return Learned(likeness, profiles, motion, lumas[0], lumas[1], sample.share)


def teach_likeness(network: Exposure, samples: list[Learned], steps: int = 1500) -> None:
    told = [sample for sample in samples if sample.likeness is not None]
    signs = torch.from_numpy(np.stack([sample.likeness for sample in told if sample.likeness is not None]))
    shares = torch.tensor([sample.share for sample in told])
    held = torch.arange(len(told)) % 5 == 0
    network.mean.copy_(signs.mean(0))
    network.deviation.copy_(signs.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(network.likeness.parameters(), 3e-3, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.003, steps)
    known = torch.nonzero(~held)[:, 0]
    network.train()
    for _ in range(steps):
        some = known[torch.randint(len(known), (256,))]
        error = network(signs[some]) - shares[some]
        loss = 0.5 * error.abs().mean() + error.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        off = (network(signs[held]) - shares[held]).abs()
    blurred = shares[held] > 0
    print(f"likeness, {len(off)} held out: off by {off[blurred].mean():.3f}, sharp ones by {off[~blurred].mean():.3f}")


def teach_profiles(network: Exposure, samples: list[Learned], steps: int = 6000) -> None:
    """Each place by itself says which share it speaks for; how often each share is among the samples is taken out."""
    told = [sample for sample in samples if sample.profiles is not None]
    signs = torch.from_numpy(np.stack([sample.profiles for sample in told if sample.profiles is not None]))
    answers = torch.tensor([chances_of(sample.share) for sample in told])
    held = torch.arange(len(told)) % 5 == 0
    known = torch.nonzero(~held)[:, 0]
    optimizer = torch.optim.AdamW(network.profiles.parameters(), 1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    along, across = slice(0, len(ALONG)), slice(len(ALONG), len(ALONG) + len(ACROSS))
    for _ in range(steps):
        some = known[torch.randint(len(known), (4096,))]
        given = signs[some, torch.randint(PLACES, (4096,))].float()
        for part in (along, across):  # the other way round, and light for dark, it is the same
            turned = torch.rand(len(given), 1) < 0.5
            given[:, part] = torch.where(turned, given[:, part].flip(1), given[:, part])
        given[:, : across.stop] *= 2 * torch.randint(2, (len(given), 1)) - 1
        loss = nn.functional.cross_entropy(network.profiles(given), answers[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        network.profiles.last.bias -= (answers[known].mean(0) + 1e-3).log()
        likely = network.profiles(signs[held].float()).mean(1)
    right = (likely.argmax(1) - answers[held].argmax(1)).abs() <= 1
    print(f"profiles, {len(likely)} held out: {100 * right.float().mean():.0f} % told to the next share")


def chances_of(share: float) -> list[float]:
    """A share as chances of SHARES: of the two next to it."""
    if not share:
        return [1.0, *[0.0] * (len(SHARES) - 1)]
    near = [max(0.0, 1 - abs(min(max(share, SHARES[1]), 1.0) - each) / 0.1) for each in SHARES[1:]]
    return [0.0, *near]


def pixels_of(samples: list[Learned], rng: Rng) -> tuple[Tensor, ...]:
    """(features, context, contrast, answer, weight, number of the sample) of pixels that move."""
    rows_: list[tuple[Tensor, ...]] = []
    for number, sample in enumerate(samples):
        share = sample.share * float(np.exp(rng.normal(0, 0.08))) or float(rng.uniform(0.3, 0.6))
        share = min(max(share, 0.25), 1.0)
        path = np.float32(share) * sample.motion.velocity
        moves = np.hypot(path[..., 0], path[..., 1]) > MOVED[0]
        moves[:10], moves[-10:], moves[:, :10], moves[:, -10:] = False, False, False, False
        rows, columns = np.nonzero(moves)
        if len(rows) < PIXELS:
            continue
        detail = np.abs(cv2.Laplacian(cv2.GaussianBlur(sample.luma, (0, 0), 1.0), cv2.CV_32F))[rows, columns] + 0.002
        chance = 0.5 / len(rows) + 0.5 * detail / detail.sum()  # half of them where there is something to see
        some = rng.choice(len(rows), PIXELS, replace=False, p=chance / chance.sum())
        wrong = (sample.sharp - sample.luma)[rows[some], columns[some]]
        usual = float(np.mean((sample.sharp - sample.luma)[moves] ** 2)) if sample.share else HARM
        planes = torch.from_numpy(np.stack((sample.luma, sample.motion.before, sample.motion.after)))
        paths = torch.from_numpy(np.ascontiguousarray(path.transpose(2, 0, 1)))
        places = [torch.from_numpy(each[some]) for each in (rows, columns)]
        features, context, contrast = path_features(
            planes, paths, torch.from_numpy(sample.motion.missed), share, *places
        )
        weight = torch.from_numpy((1 / (len(rows) * chance[some]) / (usual + 2e-5)).astype(np.float32))
        rows_.append(
            (features.half(), context, contrast, torch.from_numpy(wrong), weight, torch.full((PIXELS,), number))
        )
    return tuple(torch.cat(each) for each in zip(*rows_, strict=True))


def teach_residual(network: MotionBlur, pixels: tuple[Tensor, ...], minutes: float) -> None:
    features, context, contrast, answer, weight, number = pixels
    weight = weight.clamp(max=float(np.percentile(weight.numpy(), 99.7)))
    weight = weight / weight.mean()
    held = number % 12 == 0
    known, judged = torch.nonzero(~held)[:, 0], torch.nonzero(held)[:, 0]
    parameters = [*network.added.parameters(), *network.filter.parameters()]
    optimizer = torch.optim.AdamW(parameters, 3e-3, weight_decay=1e-3)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )

    def gain(model: nn.Module) -> tuple[float, float, float]:
        """Over the samples: mean in dB, share that loses more than 0.1, worst."""
        with torch.no_grad():
            made = torch.cat([model(features[s].float(), context[s], contrast[s]) for s in judged.split(65536)])
        after = torch.zeros(int(number.max()) + 1).index_add(
            0, number[judged], (made - answer[judged]).square() * weight[judged]
        )
        before = torch.zeros_like(after).index_add(0, number[judged], answer[judged].square() * weight[judged])
        decibels = 10 * torch.log10(before[before > 0] / after[before > 0])
        return float(decibels.mean()), float((decibels < -0.1).float().mean()), float(decibels.min())

    began = told = time.monotonic()
    step = 0
    while (spent := (time.monotonic() - began) / 60) < minutes:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * spent / minutes)) + 1e-5
        some = known[torch.randint(len(known), (BATCH,))]
        made = network(features[some].float(), context[some], contrast[some])
        loss = (weight[some] * (made - answer[some]).square()).mean() / (weight[some] * answer[some].square()).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update_parameters(network)
        step += 1
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(
                f"{spent:.1f} min, step {step}: gain {{:+.3f}} dB, worse {{:.3f}}, worst {{:+.2f}}".format(
                    *gain(average)
                ),
                flush=True,
            )
    network.load_state_dict(average.module.state_dict())
    print(f"step {step}: gain {{:+.3f}} dB, worse {{:.3f}}, worst {{:+.2f}}".format(*gain(network)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="videos, or folders of them")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--drawings", type=Path, nargs="*", default=[])
    parser.add_argument("--make", type=float, default=20.0, help="minutes; with less than 1,500 samples it overfits")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    clips = [file for place in given.clips for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    sources = [
        (of_clips(clips, rng), 0.6),
        (of_photos(files_below(list(map(str, given.photos)), PICTURES, "pictures"), rng), 0.35),
    ]
    if given.drawings:
        drawings = [
            file for place in given.drawings for file in (sorted(place.iterdir()) if place.is_dir() else [place])
        ]
        sources.append((of_drawings(drawings, rng), 0.02))
    samples: list[Learned] = []
    spent = [0.0] * len(sources)
    until = time.monotonic() + 60 * given.make
    while time.monotonic() < until:  # each kind gets its share of the time
        kind = min(range(len(sources)), key=lambda k: spent[k] / sources[k][1])
        began = time.monotonic()
        samples.append(learned(next(sources[kind][0]), rng))
        spent[kind] += time.monotonic() - began
    print(f"{len(samples)} samples, {sum(sample.share == 0 for sample in samples)} of them sharp", flush=True)
    network = MotionBlur()
    teach_likeness(network.exposure, samples)
    teach_profiles(network.exposure, samples)
    teach_residual(network, pixels_of(samples, rng), given.minutes)
    weights.save(
        given.output,
        network.eval(),
        {"recipe": f"tools/train_motion.py, {len(samples)} samples, {given.minutes:g} minutes"},
    )
    print(given.output)


if __name__ == "__main__":
    main()

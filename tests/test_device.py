"""The pair on the device: each function equal to its counterpart on the CPU, and the whole."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deblur.tiles import OutOfMemory
from fpsgan import weights
from fpsgan.demo import render_scene
from fpsgan.device import colour, exposure, overlays
from fpsgan.device.engine import DeviceInterpolator
from fpsgan.interpolator import Interpolator, InterpolatorRunner
from fpsgan.stages.exposure import exposure_change
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent, interpolated
from fpsgan.stages.interpolation_on_device import interpolated_on_device
from fpsgan.stages.overlays import OverlayFinder
from fpsgan.stages.timeline import Relation, schedule
from fpsgan.video.frame import Color, Frame, PixelFormat, from_rgb, to_rgb

FORMATS = ["yuv420p", "yuv422p10le", "yuv444p", "yuv410p", "gray", "gray12le", "gbrp", "gbrp10le"]


def grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def batch(*pictures: np.ndarray) -> torch.Tensor:
    """[B,1,H,W] of grey pictures."""
    return torch.from_numpy(np.stack(pictures))[:, None].float()


def up(planes: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(plane.astype(np.int32))[None] for plane in planes)


@pytest.mark.parametrize("size", [(64, 96), (37, 51)])
@pytest.mark.parametrize("site", ["left", "center", "topleft"])
@pytest.mark.parametrize("name", FORMATS)
def test_colour(name: str, site: str, size: tuple[int, int]) -> None:
    form, color = PixelFormat.of(name), Color(matrix="bt709", chroma_location=site)
    picture = render_scene(0.3, size[1], size[0]).astype(np.float32) / np.float32(255)
    planes = from_rgb(picture, form, color)
    expected = to_rgb(planes, form, color)
    rgb = colour.to_rgb(up(planes), form, color)
    assert np.abs(rgb[0].permute(1, 2, 0).numpy() - expected).max() < 1e-4
    found = colour.from_rgb(torch.from_numpy(picture).permute(2, 0, 1)[None], form, color)
    for one, other in zip(found, planes, strict=True):
        codes = one[0].numpy().view(form.dtype)
        assert codes.shape == other.shape
        difference = np.abs(codes.astype(int) - other)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # what lies half between two codes
    luma = colour.luma_of(up(planes), form, color)
    assert np.abs(luma[0].numpy() - Frame(planes, form, color, 0, 0).luma).max() <= 1  # type: ignore[arg-type]


def test_exposure() -> None:
    """A fade, a flash that clips, motion alone, nothing at all, as one batch."""
    scene, later = grey(render_scene(0.2, 320, 180)), grey(render_scene(0.25, 320, 180))
    faded = np.clip(0.6 * later + 10, 0, 255).astype(np.uint8)
    bright = np.clip(later.astype(int) + 60, 0, 255).astype(np.uint8)
    seconds = [faded, bright, later, scene]
    expected = [exposure_change(scene, second) for second in seconds]
    found = exposure.exposure_change(batch(*[scene] * 4), batch(*seconds))
    assert expected[0] is not None and expected[2] is None and expected[3] is None
    for k, change in enumerate(expected):
        gain, offset = (1.0, 0.0) if change is None else change
        assert float(found.gain[k]) == pytest.approx(gain, rel=1e-3)
        assert float(found.offset[k]) == pytest.approx(offset, abs=1e-3)
        if change is not None:
            picture = np.float32(scene / 255)
            moved = found.select(torch.tensor([k])).move(batch(picture), 0.25, torch.full((1, 1, 1, 1), 0.8))
            assert np.abs(moved[0, 0].numpy() - change.move(picture, 0.25, 0.8)).max() < 1e-3
            assert float(found.best[k]) == change.best


@pytest.mark.parametrize("size", [(180, 320), (133, 251)])
def test_overlays(size: tuple[int, int]) -> None:
    """A pan with a logo; another scene begins at the sixth pair. In batches of three and four."""
    height, width = size
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (height, width + 100), np.uint8), (0, 0), 2)
    ground = cv2.normalize(ground, None, 20, 160, cv2.NORM_MINMAX)

    def frame(k: int) -> np.ndarray:
        picture = np.ascontiguousarray(ground[:, 5 * k : 5 * k + width])
        cv2.putText(picture, "LOGO", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 3)
        return picture

    frames = [frame(k) for k in range(8)]
    begins = [k == 5 for k in range(7)]
    finder, expected = OverlayFinder(), []
    for k in range(7):
        if begins[k]:
            finder.forget()
        overlay = finder.find(frames[k], frames[k + 1])
        expected.append(np.zeros(size, np.uint8) if overlay is None else overlay)
    first, since = overlays.overlays(batch(*frames[:3]), batch(*frames[1:4]), begins[:3])
    second, _ = overlays.overlays(batch(*frames[3:7]), batch(*frames[4:8]), begins[3:], since)
    found = torch.cat((first, second))[:, 0].numpy() * 255
    assert expected[3].max() == 255 and not expected[5].any()
    for one, other in zip(found, expected, strict=True):
        assert (np.abs(one - other) > 2).mean() < 2e-3


CPU = torch.device("cpu")
# on a machine with a card the whole is tested there
DEVICE = torch.accelerator.current_accelerator() or CPU if torch.accelerator.is_available() else CPU


def engine(batch: int, name: str = "interpolator-fast") -> DeviceInterpolator:
    return DeviceInterpolator(weights.load(name), DEVICE, torch.float32, batch)  # type: ignore[arg-type]


def clip(name: str, count: int = 7, step: float = 0.03) -> list[Frame]:
    """Frames of a rendered scene, a second each; those with alpha have a disc that moves."""
    form, color = PixelFormat.of(name), Color(matrix="bt709")
    frames = []
    for k in range(count):
        picture = render_scene(0.2 + step * k, 192, 112).astype(np.float32) / np.float32(255)
        planes = from_rgb(picture, form, color)
        if form.alpha:
            opacity = np.zeros((112, 192), form.dtype)
            cv2.circle(opacity, (40 + 6 * k, 50), 30, (1 << form.depth) - 1, -1)
            planes = (*planes, opacity)
        frames.append(Frame(planes, form, color, Fraction(k), Fraction(1)))
    return frames


def run(stage: str, frames: list[Frame], relations: list[Relation], batch: int = 3, **settings: object) -> list[Output]:
    """All outputs at twice the rate."""
    spans = schedule(zip(frames, relations, strict=True), Fraction(1, 2), longest_gap=Fraction(4))
    given = InterpolationSettings(Fraction(2), **settings)  # type: ignore[arg-type]
    if stage == "device":
        return list(interpolated_on_device(spans, engine(batch), given, Spent()))
    runner = InterpolatorRunner(weights.load("interpolator-fast"), CPU, torch.float32)  # type: ignore[arg-type]
    return list(interpolated(spans, runner, given, Spent()))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(np.clip(one, 0, 1) - other).mean() + 1e-9))


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "gbrp", "yuva444p"])
def test_the_stage_makes_what_the_compiled_one_makes(name: str) -> None:
    """Seven frames of two scenes, in batches of three, which end within a scene."""
    frames = clip(name)
    relations = [Relation.MOTION] * 7
    relations[3] = Relation.CUT
    expected, found = (run(stage, frames, relations, confidence=True) for stage in ("cpu", "device"))
    assert [(o.number, o.generated, o.frame.pts, o.frame.duration) for o in found] == [
        (o.number, o.generated, o.frame.pts, o.frame.duration) for o in expected
    ]
    for one, other in zip(found, expected, strict=True):
        if not other.generated:
            assert one.frame.planes is other.frame.planes and one.frame.rgb is None
            continue
        made = one.frame.as_rgb()
        assert one.frame.format == frames[0].format and psnr(made, np.clip(other.frame.as_rgb(), 0, 1)) > 34
        assert one.confidence is not None and other.confidence is not None
        assert one.confidence.shape == other.confidence.shape == (112, 192, 1)
        assert np.abs(one.confidence - other.confidence).mean() < 0.02
        if frames[0].format.alpha:
            there, here = (o.frame.planes[-1].astype(float) / 255 for o in (one, other))
            assert np.abs(there - here).mean() < 0.01 and here.mean() > 0.1
    made = [o for o in found if o.generated]
    assert len(made) == 5
    truth = [render_scene(0.2 + 0.03 * float(o.frame.pts), 192, 112) / 255 for o in made]
    scores = [
        np.mean([psnr(o.frame.as_rgb(), t) for o, t in zip(outputs, truth, strict=True)])
        for outputs in (made, [o for o in expected if o.generated])
    ]
    assert scores[0] > scores[1] - 0.05, scores


def test_batches_of_any_size_make_the_same() -> None:
    frames, relations = clip("yuv420p", 6), [Relation.MOTION] * 6
    one, three = (run("device", frames, relations, batch) for batch in (1, 3))
    for a, b in zip(one, three, strict=True):
        assert all(np.abs(x.astype(int) - y).max() <= 1 for x, y in zip(a.frame.planes, b.frame.planes, strict=True))


def test_frames_that_a_stage_has_changed_are_taken_as_they_are() -> None:
    frames = [dataclasses.replace(f, rgb=f.as_rgb()[:, ::-1].copy()) for f in clip("yuv420p", 3)]
    expected, found = (run(stage, frames, [Relation.MOTION] * 3) for stage in ("cpu", "device"))
    for one, other in zip(found, expected, strict=True):
        assert psnr(one.frame.as_rgb(), np.clip(other.frame.as_rgb(), 0, 1)) > 34


def test_a_fade_is_made_in_torch_too() -> None:
    """Frames that darken by a third each: the one between is of the brightness between."""
    frames = clip("yuv444p", 3)
    dark = [from_rgb(f.as_rgb() * np.float32(0.7**k), f.format, f.color) for k, f in enumerate(frames)]
    frames = [dataclasses.replace(f, planes=planes) for f, planes in zip(frames, dark, strict=True)]
    for output in run("device", frames, [Relation.MOTION] * 3):
        if output.generated:
            k = int(output.frame.pts)
            wanted = (frames[k].luma.mean() + frames[k + 1].luma.mean()) / 2
            assert output.frame.luma.mean() == pytest.approx(wanted, abs=0.7)


def test_memory_running_out_means_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, relations = clip("yuv420p", 6), [Relation.MOTION] * 6
    expected = run("device", frames, relations, 4)
    generate, sizes = Interpolator.generate, []

    def limited(self: Interpolator, frame0: torch.Tensor, *rest: object) -> object:
        sizes.append(len(frame0))
        if len(frame0) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(self, frame0, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Interpolator, "generate", limited)
    found = run("device", frames, relations, 4)
    assert max(sizes) > 2 and len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert all(np.abs(x.astype(int) - y).max() <= 1 for x, y in zip(a.frame.planes, b.frame.planes, strict=True))

    def never(*_: object) -> object:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Interpolator, "generate", never)
    with pytest.raises(OutOfMemory, match="--engine cpu"):
        run("device", frames, relations, 4)


class Transfers(TorchDispatchMode):
    """Lists what passes between the CPU and the device, and what waits for it. The device is "meta": it computes
    nothing, so that what needs a value would fail on it anyway."""

    def __init__(self) -> None:
        super().__init__()
        self.up: list[tuple[int, ...]] = []
        self.down: list[tuple[int, ...]] = []
        self.launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        target = (kwargs or {}).get("device")
        if given and target is not None and torch.device(target).type == "cpu" and given[0].device.type == "meta":
            self.down.append(tuple(given[0].shape))
            return torch.zeros(given[0].shape, dtype=given[0].dtype)
        made = func(*args, **(kwargs or {}))
        places = {x.device.type for x in tree_leaves(made) if isinstance(x, torch.Tensor)}
        if places == {"meta"}:
            self.launches += 1
            if any(x.device.type == "cpu" for x in given):
                self.up.append(tuple(given[0].shape))
        return made


@pytest.mark.parametrize("name", ["interpolator-fast", "interpolator-best"])
def test_planes_go_up_and_down_once_and_nothing_waits(name: str) -> None:
    """Per batch: the fresh frames' three planes and one small tensor up, the three planes of what was made down."""
    frames, relations = clip("yuv420p", 9), [Relation.MOTION] * 9
    device = DeviceInterpolator(weights.load(name), torch.device("meta"), torch.float16, 4)  # type: ignore[arg-type]
    spans = list(schedule(zip(frames, relations, strict=True), Fraction(1, 2), longest_gap=Fraction(4)))
    given = InterpolationSettings(Fraction(2))
    with Transfers():
        list(interpolated_on_device(spans[:2], device, given, Spent()))  # constants go up once for all
    with Transfers() as transfers:
        outputs = list(interpolated_on_device(spans, device, given, Spent()))
    assert sum(output.generated for output in outputs) == 8
    made = [shape[0] for shape in transfers.down if shape[1:] == (112, 192)]
    assert sum(made) == 8 and len(transfers.down) == 3 * len(made) <= 9
    planes = [shape for shape in transfers.up if len(shape) == 3]
    assert sum(shape[0] for shape in planes if shape[1:] == (112, 192)) == 9, "each frame goes up once"
    numbers = [shape for shape in transfers.up if len(shape) == 2]
    assert len(planes) + len(numbers) == len(transfers.up) == 6 + len(made) and all(s[0] <= 8 for s in numbers)


def test_a_batch_of_eight_takes_hardly_more_launches_than_one_pair() -> None:
    def launches(batch: int) -> int:
        frames = clip("yuv420p", batch + 1)
        spans = list(schedule(((f, Relation.MOTION) for f in frames), Fraction(1, 2), longest_gap=Fraction(4)))
        device = DeviceInterpolator(weights.load("interpolator-base"), torch.device("meta"), torch.float16, batch)  # type: ignore[arg-type]
        with Transfers() as transfers:
            list(interpolated_on_device(spans, device, InterpolationSettings(Fraction(2), look_ahead=False), Spent()))
        return transfers.launches

    launches(1)
    one, eight = launches(1), launches(8)
    assert eight < 1.3 * one, (one, eight)

"""How fast this machine interpolates: a rendered clip from file to file, and where the time of a pair goes."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fpsgan.demo import render_scene, write_clip
from fpsgan.device import colour
from fpsgan.device.engine import DeviceInterpolator
from fpsgan.device.exposure import exposure_change
from fpsgan.device.overlays import overlays
from fpsgan.errors import OptionError, SetupError, check_choice
from fpsgan.interpolator import InterpolatorRunner, with_acceleration
from fpsgan.interpolator.flow import accelerations, find_flow
from fpsgan.job import enhance, peak_rss
from fpsgan.options import Options
from fpsgan.rendering import Engines
from fpsgan.runtime import library_errors
from fpsgan.stages.exposure import exposure_change as exposure_change_cpu
from fpsgan.stages.overlays import OverlayFinder
from fpsgan.training.peers import Filler, Window, rife, rife_hdv3
from fpsgan.video.frame import Color, Frame, PixelFormat, from_rgb

__all__ = ["SIZES", "Benchmark", "benchmark"]

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080), "2160p": (3840, 2160)}
WARM_UP = 2  # runs of a step before it is measured
PEERS: dict[str, Callable[[torch.device], Filler]] = {"RIFE v4.0": rife, "RIFE HDv3": rife_hdv3}
FORMAT, COLOR = PixelFormat.of("yuv420p"), Color("bt709", "bt709", "bt709")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """``stages``: milliseconds per pair; ``fps``: output frames per second from file to file, including decoding and
    H.264 encoding; ``bound``: the slowest stage, or "decoding, encoding" if they take longer than all stages together;
    ``device_memory``: peak in bytes, 0 except on CUDA. ``peers``: milliseconds per pair of other interpolators, uint8
    RGB in and out, in the same precision by autocast; ``missing``: what to install for those that are not here."""

    device: str
    engine: str
    dtype: str
    weights: str
    size: str
    batch: int
    stages: dict[str, float]
    fps: float
    seconds: float
    frames: int
    bound: str
    peak_rss: int
    device_memory: int
    peers: dict[str, float]
    missing: list[str]


@library_errors()
def benchmark(
    options: Options, size: str = "1080p", frames: int = 25, repeats: int = 5, *, peers: bool = False
) -> Benchmark:
    """Measure interpolation ×2 as ``options`` say (device, precision, engine, weights), without deblurring.
    ``peers``: also those of PEERS that are installed, on the same pictures.

    Raises OptionError for a size not in SIZES, or fewer than 3 frames.
    """
    check_choice("--size", size, tuple(SIZES))
    if frames < 3:
        raise OptionError(f"--frames {frames}: must be at least 3")
    width, height = SIZES[size]
    options = dataclasses.replace(options, deblur="off", multi=Fraction(2), resume=False, overwrite=True)
    engines = Engines(options, width * height)
    on_device = isinstance(engines.interpolator, DeviceInterpolator)
    pictures = [render_scene(k / 24, width, height) for k in range(frames)]
    if engines.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engines.device)
    if isinstance(engines.interpolator, DeviceInterpolator):
        batch = min(engines.interpolator.batch_for(width * height), frames - 1)
        stages = _device_stages(engines.interpolator, pictures[: batch + 1], repeats)
    else:
        assert engines.interpolator is not None
        batch, stages = 1, _cpu_stages(engines.interpolator, pictures[:2], repeats)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        write_clip(clip, pictures, 24)
        short = dataclasses.replace(options, end=Fraction(4, 24))
        enhance(clip, Path(folder, "warm.mp4"), options=short)  # compiles and loads everything
        result = enhance(clip, Path(folder, "out.mp4"), options=options)
    memory = torch.cuda.max_memory_allocated(engines.device) if engines.device.type == "cuda" else 0
    others, missing = _peers(engines.interpolator, pictures, repeats) if peers else ({}, [])
    each = 1000 * result.seconds / (frames - 1)
    slowest = max(stages, key=lambda name: stages[name])
    return Benchmark(
        device=_name(engines.device),
        engine="torch" if on_device else "cpu",
        dtype=str(engines.interpolator.dtype).removeprefix("torch."),
        weights=str(options.weights),
        size=size,
        batch=batch,
        stages=stages,
        fps=result.frames_out / result.seconds,
        seconds=result.seconds,
        frames=result.frames_out,
        bound="decoding, encoding" if sum(stages.values()) < each / 2 else slowest,
        peak_rss=peak_rss(),
        device_memory=memory,
        peers=others,
        missing=missing,
    )


def _peers(
    ours: DeviceInterpolator | InterpolatorRunner, pictures: list[Any], repeats: int
) -> tuple[dict[str, float], list[str]]:
    """Milliseconds per pair of each, and what is missing."""
    frame0, hidden, frame1 = (Frame.of_image(picture, Fraction(k)) for k, picture in enumerate(pictures[:3]))
    window = Window(0, 0, frame0, (hidden,), frame1)
    clock, missing = _Clock(ours.device, repeats, 1), []
    for name, load in PEERS.items():
        try:
            filler = load(ours.device)
        except SetupError as error:
            missing.append(str(error))
            continue
        # their warps need fp32: autocast lowers the precision of the convolutions alone
        with torch.autocast(ours.device.type, dtype=torch.bfloat16 if ours.device.type == "cpu" else torch.float16,
                            enabled=ours.dtype != torch.float32):  # fmt: skip
            clock(name, partial(_filled, filler, window))
    return clock.stages, missing


def _filled(filler: Filler, window: Window) -> Any:
    return next(filler([window]))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


class _Clock:
    """Milliseconds that steps take on a device: the median of the repeats, divided by the number of pairs."""

    def __init__(self, device: torch.device, repeats: int, pairs: int) -> None:
        self.device, self.repeats, self.pairs = device, repeats, pairs
        self.stages: dict[str, float] = {}

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        """Time a step under that name; returns what it returns."""
        taken = []
        for k in range(WARM_UP + self.repeats):
            self._wait()
            began = time.perf_counter()
            found = step()
            self._wait()
            if k >= WARM_UP:
                taken.append(time.perf_counter() - began)
        self.stages[name] = 1000 * statistics.median(taken) / self.pairs
        return found


def _frame(picture: np.ndarray[Any, np.dtype[np.uint8]], number: int) -> Frame:
    planes = from_rgb(np.divide(picture, 255, dtype=np.float32), FORMAT, COLOR)
    return Frame(planes, FORMAT, COLOR, Fraction(number, 24), Fraction(1, 24))


@torch.inference_mode()
def _device_stages(engine: DeviceInterpolator, pictures: list[Any], repeats: int) -> dict[str, float]:
    """A batch of pairs, one moment each, step by step as `DeviceInterpolator` takes them."""
    frames = [_frame(picture, k) for k, picture in enumerate(pictures)]
    pairs = len(frames) - 1
    clock = _Clock(engine.device, repeats, pairs)
    network = engine.network
    up = clock("planes up, RGB, luma", lambda: engine.upload(frames))
    rgb, luma = torch.cat([frame.rgb for frame in up]), torch.cat([frame.luma for frame in up])
    sides = luma[:-1], luma[1:]
    clock("exposure, overlays", lambda: (exposure_change(*sides), overlays(*sides, [True] * pairs)))
    flows = clock("flow", lambda: find_flow(*sides, network.config.prior))
    lengths, t = torch.ones(pairs, 2, device=engine.device), torch.full((pairs,), 0.5, device=engine.device)
    motion = clock(
        "acceleration", lambda: (*flows, *accelerations(flows, flows, flows, lengths, network.config.stride))
    )
    pair = clock("features, consistency", lambda: network.prepare(rgb[:-1], rgb[1:], motion))
    found, _ = clock("splatting, network", lambda: network.decide(pair, t))
    clock("compensation", lambda: network.compensate(pair, found))
    made, _ = clock("all of a moment", lambda: network.generate(rgb[:-1], rgb[1:], pair, t))
    clock.stages["composition, confidence"] = max(
        0.0, clock.stages.pop("all of a moment") - clock.stages["splatting, network"] - clock.stages["compensation"]
    )
    planes = clock("planes of the result", lambda: colour.from_rgb(made, FORMAT, COLOR))
    clock("planes down", lambda: engine.download(list(planes), None).arrays(FORMAT))
    return clock.stages


@torch.inference_mode()
def _cpu_stages(runner: InterpolatorRunner, pictures: list[Any], repeats: int) -> dict[str, float]:
    """One pair, one moment, step by step as `fpsgan.stages.interpolation` takes them."""
    frames = [_frame(picture, k) for k, picture in enumerate(pictures)]
    clock = _Clock(runner.device, repeats, 1)
    rgb = [clock("RGB", frame.as_rgb) for frame in frames]
    luma0, luma1 = (frame.luma for frame in frames)
    clock("exposure, overlays", lambda: (exposure_change_cpu(luma0, luma1), OverlayFinder().find(luma0, luma1)))
    flows = clock("flow", lambda: runner.prior(luma0, luma1))
    stride = runner.interpolator.config.stride
    motion = clock("acceleration", lambda: with_acceleration(flows, flows, flows, stride=stride))

    def between() -> Any:
        return runner.between(rgb[0].copy(), rgb[1], [0.5], motion)[0]  # a copy is not in the cache of encoded frames

    made = clock("network", between)
    clock("planes of the result", lambda: from_rgb(made, FORMAT, COLOR))
    return clock.stages

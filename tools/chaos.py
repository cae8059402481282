"""Kills jobs at random moments, runs the same command again, and compares with a job that was left in peace.

    python tools/chaos.py --runs 100 [--seed 1] [--workers 2] [--only .gif] [--disk]

The clips, made here by ffmpeg, have sound, subtitles, cuts, held frames, a logo and a variable rate. A job is killed
with SIGKILL once, twice or three times, at moments spread over its whole length, so that some fall into the plan, the
making of a segment, and the joining. Decoded pictures, their times and the sound have to be the same in the end, and
nothing may be left beside the output. Segments are half a second long, so that there are many. ``--disk``: the output
is on a file system that fills up in mid-job, and is freed then (needs to be allowed to mount one, as root is).
Prints a table, exits 1 if anything differed.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fpsgan.video.ffmpeg import ffmpeg_path

KINDS = (".mp4", ".mkv", ".webm", "", ".gif")
LENGTH = 0.5  # seconds of output in a segment
RUN = f"import fpsgan.segments as s; s.LENGTH = {LENGTH}; from fpsgan.__main__ import run; run()"


def make_sources(folder: Path) -> list[Path]:
    """A constant and a variable rate; each with a cut, a part on twos, a logo, sound and subtitles."""
    (folder / "said.srt").write_text(
        "1\n00:00:00,200 --> 00:00:01,000\nHello\n\n2\n00:00:01,500 --> 00:00:02,500\nWorld\n"
    )
    graph = (
        "testsrc2=s=128x96:r=12,rotate=0.3*t,trim=end=1.5[a];mandelbrot=s=128x96:r=12:start_scale=0.3,trim=end=0.7[b];"
        "testsrc=s=128x96:r=6,fps=12,trim=end=0.8,setpts=PTS-STARTPTS[c];[a][b][c]concat=n=3,format=yuv420p,"
        "drawbox=x=6:y=6:w=26:h=14:color=white:t=fill,drawbox=x=10:y=9:w=8:h=8:color=black:t=fill"
    )
    sources = []
    for name, more in (("steady.mkv", ""), ("uneven.mkv", ",setpts='(N+0.3*sin(2*N))/12/TB'")):
        target = folder / name
        subprocess.run(
            [ffmpeg_path(), "-v", "error", "-y", "-f", "lavfi", "-i", f"{graph}{more}", "-f", "lavfi", "-i",
             "sine=440:d=3", "-i", str(folder / "said.srt"), "-map", "0", "-map", "1", "-map", "2", "-c:v", "libx264",
             "-g", "15", "-fps_mode", "passthrough", "-c:a", "libopus", "-c:s", "srt", str(target)],
            check=True,
        )  # fmt: skip
        sources.append(target)
    return sources


def command(source: Path, target: Path, workers: int) -> list[str]:
    words = ["--multi", "2", "--weights", "interpolator-fast", "--quiet"]
    if workers > 1:
        words += ["--workers", str(workers)]
    return [sys.executable, "-c", RUN, "enhance", str(source), "-o", str(target), *words]


def checksum(target: Path) -> str:
    """Of all pictures with their times, and of the sound."""
    if target.is_dir():
        digest = hashlib.md5()
        for file in sorted(target.iterdir()):
            digest.update(file.name.encode() + np.asarray(Image.open(file)).tobytes())
        return digest.hexdigest()
    found = subprocess.run(
        [ffmpeg_path(), "-v", "error", "-i", str(target), "-map", "0:v", "-map", "0:a?", "-f", "framemd5", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    return hashlib.md5(found.stdout).hexdigest()


def left_over(folder: Path, target: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path != target]


def attempt(words: list[str], kill_after: float | None) -> int:
    """Run a command, and kill it after so many seconds; its exit code."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, said = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -9
    if process.returncode not in (0, -9):
        print(f"exit {process.returncode}: {said.decode(errors='replace').strip()[-400:]}")
    return process.returncode


def fill(folder: Path, source: Path, workers: int) -> str:
    """Fill the disk in mid-job, free it, and run again."""
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        target = small / "out.mkv"
        words = [*command(source, target, workers), "--codec", "ffv1"]
        ballast = small / "ballast"
        ballast.write_bytes(bytes(750_000))
        first = attempt(words, None)
        if first != 1:
            return f"exit {first} on a full disk"
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        if attempt(words, None) != 0:
            return "not finished after the disk was freed"
        whole = folder / "whole.mkv"
        attempt([*command(source, whole, workers), "--codec", "ffv1"], None)
        if checksum(target) != checksum(whole):
            return "other frames after the disk was freed"
        return "; ".join(f"left {name}" for name in left_over(small, target))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--disk", action="store_true")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    kinds = KINDS if args.only is None else (args.only,)
    same: collections.Counter[str] = collections.Counter()
    killed: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = make_sources(folder)
        whole: dict[tuple[Path, str], tuple[str, float]] = {}
        for run in range(args.runs):
            source, kind = sources[run // len(kinds) % len(sources)], kinds[run % len(kinds)]
            if (source, kind) not in whole:
                place = folder / f"whole-{source.stem}{kind}"
                began = time.monotonic()
                if attempt(command(source, place, args.workers), None) != 0:
                    print(f"{source.name} → {kind or 'folder'}: fails when left in peace")
                    return 1
                whole[source, kind] = checksum(place), time.monotonic() - began
            expected, seconds = whole[source, kind]
            place = folder / f"run-{run}"
            place.mkdir()
            target = place / f"out{kind}"
            for _ in range(chance.choice((1, 1, 2, 3))):
                killed[kind] += (
                    attempt(command(source, target, args.workers), chance.uniform(0.2, 1.05) * seconds) == -9
                )
            code = 0 if target.exists() else attempt(command(source, target, args.workers), None)
            trouble = [f"exit {code}"] if code else []
            if target.exists() and checksum(target) != expected:
                trouble.append("other frames, times or sound")
            # killed between the rename and the tidying up, a job has left its segments: `fpsgan jobs clean` is for them
            if not trouble and any(left_over(place, target)):
                again = [*command(source, target, args.workers), "-y"]
                trouble += [f"exit {c} with -y" for c in [attempt(again, None)] if c]
                trouble += [f"left {name}" for name in left_over(place, target)]
                trouble += ["other frames with -y"] if checksum(target) != expected else []
            same[kind] += not trouble
            wrong += [f"run {run}, {source.name} → {kind or 'folder'}: {'; '.join(trouble)}"] if trouble else []
            print(f"run {run + 1}/{args.runs}: {', '.join(trouble) or 'same'}", file=sys.stderr, flush=True)
        if args.disk:
            trouble = fill(folder, sources[0], args.workers)
            print(f"disk full, then freed: {trouble or 'same frames'}")
            wrong += [trouble] if trouble else []
    print("| output | jobs | kills | same frames, times and sound |\n|---|---:|---:|---:|")
    for kind in kinds:
        jobs = sum(1 for run in range(args.runs) if kinds[run % len(kinds)] == kind)
        print(f"| {kind or 'folder of PNG'} | {jobs} | {killed[kind]} | {same[kind]} |")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

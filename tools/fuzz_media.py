"""Damage media files in many ways, run fpsGAN on them, and check what must hold whatever is in a file.

    python tools/fuzz_media.py --cases 1000 --seed 1
    python tools/fuzz_media.py --seed 1 --case 417 --keep FOLDER    # one case again, its input kept

Seeds are made with ffmpeg's lavfi: one for each pair of container and codecs. Each case takes one of them, damages it
in one way, and has it probed and interpolated, with `--on-error stop` and, where that refuses, with `conceal`. The
library is called, in processes of its own, with a blend in place of the network: this is about media, not pictures.
What holds:

- nothing but a FpsganError comes out: no other exception, no crash of a library, no hang
- the input and the files beside it stay as they were; nothing is left behind
- the output is there, decodes in full and without a complaint (but of sound that was said to be damaged), or is not
- the frames used, with those said to be left out, are those that ffmpeg shows
- where ffmpeg complains, or a file whose header tells so has lost frames, it was said

Exit code 1 if anything did not hold; each case that failed is listed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import random
import re
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fpsgan.errors import FpsganError
from fpsgan.interpolator import InterpolatorRunner
from fpsgan.job import Result, enhance
from fpsgan.options import Options
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.probe import probe

FRAMES = 30
PICTURE = ("-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=15:duration={FRAMES / 15}")
SOUND = ("-f", "lavfi", "-i", f"anoisesrc=r=44100:seed=7:a=0.3:duration={FRAMES / 15}")
YUV = ("-pix_fmt", "yuv420p")
# name → (suffix, ffmpeg's options, whether its header tells how long it should be)
SEEDS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "mp4 h264+aac": ("mp4", ("-c:v", "libx264", "-bf", "3", "-g", "10", *YUV, "-c:a", "aac"), True),
    "mp4 hevc+mp3": ("mp4", ("-c:v", "libx265", "-x265-params", "log-level=error", *YUV, "-c:a", "libmp3lame"), True),
    "mov mjpeg+pcm": ("mov", ("-c:v", "mjpeg", "-c:a", "pcm_s16le"), True),
    "mkv h264+flac": ("mkv", ("-c:v", "libx264", "-g", "10", *YUV, "-c:a", "flac"), True),
    "webm vp9+opus": ("webm", ("-c:v", "libvpx-vp9", "-cpu-used", "8", *YUV, "-c:a", "libopus"), True),
    "avi mpeg4+mp3": ("avi", ("-c:v", "mpeg4", "-bf", "2", "-c:a", "libmp3lame"), True),
    "avi mjpeg+pcm": ("avi", ("-c:v", "mjpeg", "-c:a", "pcm_s16le"), True),
    "ts h264+aac": ("ts", ("-c:v", "libx264", "-bf", "2", "-g", "10", *YUV, "-c:a", "aac"), False),
    "ts mpeg2+mp2": ("ts", ("-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"), False),
    "ps mpeg2+mp2": ("mpg", ("-r", "25", "-c:v", "mpeg2video", "-c:a", "mp2", "-f", "vob"), False),
    "flv h264+aac": ("flv", ("-c:v", "libx264", "-g", "10", *YUV, "-c:a", "aac"), True),
    "asf wmv2+wma": ("wmv", ("-c:v", "wmv2", "-c:a", "wmav2"), True),
    "ogv theora+vorbis": ("ogv", ("-c:v", "libtheora", "-c:a", "libvorbis"), False),
    "gif": ("gif", ("-an",), False),
}
DAMAGE = ("cut", "zeroed", "flipped", "dropped", "repeated", "swapped")
TIMEOUT = 60  # seconds that a case may take; it takes less than one
OUTPUTS = (".mkv", ".mp4")


@dataclasses.dataclass
class Case:
    """A damaged file and what came of it."""

    number: int
    seed_name: str
    damage: str
    outcome: str = ""  # done, concealed or refused
    broken: list[str] = dataclasses.field(default_factory=list)  # what did not hold
    said: list[str] = dataclasses.field(default_factory=list)


def ffmpeg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ffmpeg_path(), "-nostdin", "-hide_banner", *arguments],
        capture_output=True, text=True, errors="replace", timeout=TIMEOUT,
    )  # fmt: skip


def make_seeds(folder: Path) -> dict[str, Path]:
    """The seeds that this ffmpeg can make, by name."""
    made = {}
    for number, (name, (suffix, options, _)) in enumerate(SEEDS.items()):
        path = folder / f"{number}.{suffix}"
        if ffmpeg("-v", "error", "-y", *PICTURE, *SOUND, *options, str(path)).returncode == 0:
            made[name] = path
        else:
            print(f"{name}: cannot be made by this ffmpeg", file=sys.stderr)
    return made


def damaged(data: bytes, kind: str, chance: random.Random) -> bytes:
    """The bytes with damage of one kind at places drawn by ``chance``."""
    size = len(data)
    if kind == "cut":
        return data[: chance.randrange(size // 20, size)]
    if kind == "flipped":
        flipped = bytearray(data)
        for _ in range(chance.choice((1, 4, 16, 64))):
            flipped[chance.randrange(size)] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    length = min(size // 3, chance.choice((1, 16, 188, 1024, 4096)) * chance.randrange(1, 8))
    begin = chance.randrange(size - length)
    block, before, after = data[begin : begin + length], data[:begin], data[begin + length :]
    if kind == "zeroed":
        return before + bytes(length) + after
    if kind == "dropped":
        return before + after
    if kind == "repeated":
        return before + block + block + after
    other = chance.randrange(size - length)
    first, second = sorted((begin, other))
    second = max(second, first + length)
    swapped = data[second : second + length]
    return (
        data[:first] + swapped + data[first + length : second] + data[first : first + length] + data[second + length :]
    )


def draw(seed: int, number: int, names: list[str]) -> tuple[Case, random.Random]:
    """Case ``number`` of a run: which seed, damaged how. Containers and kinds take turns, so few cases cover all."""
    chance = random.Random(f"{seed}:{number}")
    return Case(number, names[number % len(names)], DAMAGE[number // len(names) % len(DAMAGE)]), chance


def blend(self: object, frame0: Any, frame1: Any, times: list[float], prior: object, sure: object = None) -> list[Any]:
    """In place of `InterpolatorRunner.between`."""
    return [np.float32(1 - t) * frame0 + np.float32(t) * frame1 for t in times]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def examine(case: Case, content: bytes, folder: Path) -> Case:
    """Probe and interpolate ``content`` in an empty folder, and note what did not hold."""
    suffix, _, announces = SEEDS[case.seed_name]
    source, other = folder / f"in.{suffix}", folder / "other.txt"
    target = folder / f"out{OUTPUTS[case.number % len(OUTPUTS)]}"
    source.write_bytes(content)
    other.write_text("mine")
    before = digest(source)
    shown, complaint = reference(source)
    try:
        info = probe(source)
        case.said += [*map(str, info.damage), *info.notes]
    except FpsganError as error:
        case.said.append(str(error))
    except Exception:  # noqa: BLE001 (that is what is looked for)
        case.broken.append(f"probe: {traceback.format_exc(limit=-1).splitlines()[-1]}")
    result: Result | None = None
    for conceal in (False, True):
        try:
            options = Options(deblur="off", multi=Fraction(2), conceal=conceal, half=False)
            result = enhance(source, target, options=options)
            case.outcome = "concealed" if conceal else "done"
            case.said += result.notes
            break
        except FpsganError as error:
            case.outcome = "refused"
            case.said.append(str(error))
            if "\n" in str(error):
                case.broken.append("an error of several lines")
        except Exception:  # noqa: BLE001 (likewise)
            case.broken.append(f"enhance: {traceback.format_exc(limit=-1).splitlines()[-1]}")
            break
    if digest(source) != before or other.read_text() != "mine":
        case.broken.append("a file beside the output was changed")
    left = {path.name for path in folder.iterdir()} - {source.name, other.name, *([target.name] if result else [])}
    if left:
        case.broken.append(f"left behind: {', '.join(sorted(left))}")
    if result is not None:
        again, complaints = reference(target)
        sound = any(note.startswith("the sound is damaged") for note in result.notes)
        if again != result.frames_out or (complaints and not sound):
            case.broken.append(f"the output: {again} of {result.frames_out} frames {complaints[:80]}")
        if result.frames_in + left_out(result.notes) != shown:
            case.broken.append(
                f"{result.frames_in} frames used, {left_out(result.notes)} left out, ffmpeg shows {shown}"
            )
    words = [text for text in case.said if not re.search("stream .* becomes|is left out: not carried", text)]
    if complaint and not words:
        case.broken.append(f"ffmpeg complains, nothing was said: {complaint[:80]}")
    if announces and shown < 0.85 * FRAMES and not words:
        case.broken.append(f"{shown} of {FRAMES} frames are left, nothing was said")
    return case


def reference(path: Path) -> tuple[int, str]:
    """(frames of the picture that ffmpeg shows, what it complains of)."""
    done = ffmpeg("-v", "error", "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-")
    return sum(line.startswith("0,") for line in done.stdout.splitlines()), " ".join(done.stderr.split())


def left_out(notes: list[str]) -> int:
    """How many frames the notes say were left out."""
    single = sum(bool(re.match(r"frame at .*left out", note)) for note in notes)
    several = [int(found[1]) for note in notes if (found := re.match(r"(\d+) such frames in all: left out", note))]
    early = [int(found[1]) for note in notes if (found := re.match(r"(\d+) frames before the time", note))]
    return (sum(several) or single) + sum(early)


def work(pipe: Any) -> None:
    """A worker process: cases come in, come back examined."""
    InterpolatorRunner.between = blend
    while (job := pipe.recv()) is not None:
        with tempfile.TemporaryDirectory() as folder:
            pipe.send(examine(*job, Path(folder)))


class Worker:
    """A process that survives its cases: one that hangs or crashes is replaced."""

    def __init__(self) -> None:
        self.process: Any = None

    def run(self, case: Case, content: bytes) -> Case:
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, there = context.Pipe()
            self.process = context.Process(target=work, args=(there,), daemon=True)
            self.process.start()
            there.close()
        self.pipe.send((case, content))
        trouble = "hangs"
        try:
            if self.pipe.poll(TIMEOUT):
                return self.pipe.recv()
        except EOFError:
            self.process.join()
            trouble = f"the process ended with {self.process.exitcode}"
        self.process.kill()
        self.process = None
        return dataclasses.replace(case, broken=[trouble])

    def end(self) -> None:
        if self.process is not None:
            self.pipe.send(None)
            self.process.join()


def table(cases: list[Case]) -> str:
    """Markdown: what became of the cases of each seed, and of each kind of damage."""
    lines = ["| | cases | done | with conceal | refused | something did not hold |", "|---|---|---|---|---|---|"]
    groups = [(name, [c for c in cases if c.seed_name == name]) for name in SEEDS]
    groups += [(kind, [c for c in cases if c.damage == kind]) for kind in DAMAGE] + [("all", cases)]
    for name, group in groups:
        if group:
            count = Counter(case.outcome for case in group)
            broken = sum(bool(case.broken) for case in group)
            cells = (len(group), count["done"], count["concealed"], count["refused"], broken)
            lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def run(numbers: list[int], seed: int, jobs: int, keep: Path | None = None) -> list[Case]:
    """Examine the cases with these numbers."""
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))

        def share(first: int) -> list[Case]:
            worker, done = Worker(), []
            for number in numbers[first::jobs]:
                case, chance = draw(seed, number, list(seeds))
                content = damaged(seeds[case.seed_name].read_bytes(), case.damage, chance)
                done.append(worker.run(case, content))
                if keep is not None and done[-1].broken:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}.{SEEDS[case.seed_name][0]}").write_bytes(content)
            worker.end()
            return done

        with ThreadPoolExecutor(jobs) as pool:
            for done in pool.map(share, range(jobs)):
                cases += done
    return sorted(cases, key=lambda case: case.number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="how many (100)")
    parser.add_argument("--seed", type=int, default=1, help="of the damage (1)")
    parser.add_argument("--case", type=int, help="only the case of this number")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs of cases that failed")
    parser.add_argument("--json", type=Path, help="a file for all that was found")
    given = parser.parse_args()
    numbers = list(range(given.cases)) if given.case is None else [given.case]
    cases = run(numbers, given.seed, min(given.jobs, len(numbers)), given.keep)
    print(table(cases))
    for case in cases:
        if case.broken or given.case is not None:
            print(f"\ncase {case.number}, {case.seed_name}, {case.damage}, {case.outcome or 'no result'}: "
                  f"python tools/fuzz_media.py --seed {given.seed} --case {case.number}")  # fmt: skip
            print("\n".join(f"  ! {text}" for text in case.broken))
            print("\n".join(f"    {text}" for text in case.said))
    if given.json is not None:
        given.json.write_text(json.dumps([dataclasses.asdict(case) for case in cases], indent=2))
    return int(any(case.broken for case in cases))


if __name__ == "__main__":
    sys.exit(main())

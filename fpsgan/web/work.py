"""All that the page knows of the rest of fpsGAN: the command lines that it runs, and their output.

Whatever reads a user's file runs in a process of its own, through the command line. Each option is a single argument,
`--name=value`: no shell sees it, and it cannot become another option.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
import sys
from pathlib import Path
from typing import Any

from fpsgan.errors import OptionError, check_choice
from fpsgan.video.codecs import CONTAINERS
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.files import SEGMENTS

__all__ = [
    "INTENTS",
    "SHOWN",
    "TARGETS",
    "Field",
    "check",
    "copies",
    "enhance",
    "estimate",
    "last_frame",
    "look",
    "preview",
    "proof",
    "report",
    "shipped",
    "viewed",
]

TARGETS = tuple(suffix for suffix in CONTAINERS if suffix in (".mp4", ".mkv", ".mov", ".webm", ".gif", ".webp"))
INTENTS = {"smoother": "Smoother animation", "rescue": "Rescue a shaky clip", "slowmo": "Slow motion"}
SHOWN = 2  # seconds of a preview
VALUE = re.compile(r"[\w.:/+-]{1,40}", re.ASCII)
PYTHON = [sys.executable, "-P"]  # -P: no module comes from the folder of uploads
VIEWED = ["--codec=h264", "--pix-fmt=yuv420p"]  # what every browser plays
WIDE = ["--codec=vp9"]  # and what shows HDR


@dataclasses.dataclass(frozen=True)
class Field:
    """An option of the command line, as the page offers it. ``choices`` is empty if any value may be entered."""

    name: str
    flag: str
    help: str
    panel: str
    default: str
    choices: tuple[str, ...] = ()


def check(options: dict[str, str], fields: tuple[Field, ...]) -> None:
    """Raise OptionError for an option that the page does not offer, or a value not fit for a command line.

    The command line itself checks whether the value makes sense.
    """
    known = {field.name: field for field in fields}
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"{name}: no such option")
        field = known[name]
        if field.choices:
            check_choice(field.flag, value, field.choices)
        elif not VALUE.fullmatch(value):
            raise OptionError(f"{field.flag} {value}: must be a number or a word")


def shipped(kind: str) -> tuple[str, ...]:
    """Names of the weights that come with fpsGAN; ``kind`` is "interpolator" or "deblur". Loads no torch."""
    names = sorted(file.name for file in (importlib.resources.files("fpsgan") / "weights").iterdir())
    return tuple(found[1] for name in names if (found := re.fullmatch(rf"({kind}-.+)\.safetensors", name)))


def look(source: str) -> list[str]:
    return [*PYTHON, "-m", "fpsgan.web.look", source]


def enhance(source: str, target: Path, options: dict[str, str], *more: str) -> list[str]:
    return _command("enhance", source, target, options, "--progress=json", *more)


def estimate(source: str, target: Path, options: dict[str, str]) -> list[str]:
    return _command("enhance", source, target, options, "--dry-run")


def preview(source: str, folder: Path, options: dict[str, str], start: float, *, hdr: bool) -> list[list[str]]:
    """The commands that make ``folder``/before and /after (see `viewed`) and the confidence maps in ``folder``/maps."""
    part = {"start": f"{start:.3f}", "end": f"{start + SHOWN:.3f}"}
    some = {name: value for name, value in options.items() if name not in ("codec", "crf", "pix_fmt")} | part
    after, before = viewed(folder, "after", hdr=hdr), viewed(folder, "before", hdr=hdr)
    form = WIDE if hdr else VIEWED
    return [
        _plain(source, before, some, *form),
        enhance(source, after, some, *form, f"--confidence-map={folder / 'maps'}"),
    ]


def copies(source: str, result: Path, folder: Path, options: dict[str, str], *, hdr: bool) -> list[list[str]]:
    """The commands that make ``folder``/before and /after of a finished job, if a browser cannot play the originals."""
    form = WIDE if hdr else VIEWED
    part = {name: value for name, value in options.items() if name in ("start", "end", "deinterlace", "on_error")}
    return [
        _plain(source, viewed(folder, "before", hdr=hdr), part, *form),
        _plain(str(result), viewed(folder, "after", hdr=hdr), {"deinterlace": "off"}, *form),
    ]


def last_frame(target: Path, picture: Path) -> list[str] | None:
    """The command that writes the last whole frame that a running job has encoded; None if it has none yet."""
    places = target.parent.glob(f".{target.name}.fpsgan/{SEGMENTS}-*/*.nut")
    segments = sorted((path for path in places if path.stat().st_size), key=lambda path: path.stat().st_mtime)
    if not segments:
        return None
    found = ["-sseof", "-0.5", "-err_detect", "explode", "-i", f"file:{segments[-1]}"]
    return [ffmpeg_path(), "-v", "quiet", "-nostdin", "-y", *found, "-vf", "scale=480:-2", "-update", "1", str(picture)]


def viewed(folder: Path, side: str, *, hdr: bool) -> Path:
    return folder / f"{side}{'.webm' if hdr else '.mp4'}"


def report(source: str, page: Path, options: dict[str, str]) -> list[str]:
    some = {name: value for name, value in options.items() if name in ("weights", "start", "end", "device")}
    return _command("report", source, page, some)


def _plain(source: str, target: Path, options: dict[str, str], *more: str) -> list[str]:
    """The same frames in another codec: the deblurring job with deblurring off."""
    names = ("start", "end", "deinterlace", "on_error", "stream", "image_rate")
    some = {name: value for name, value in options.items() if name in names}
    return _command("deblur", source, target, some, "--deblur=off", "--progress=json", *more)


def _command(command: str, source: str, target: Path, options: dict[str, str], *more: str) -> list[str]:
    flags = [
        f"--{'' if value != 'no' else 'no-'}half" if name == "half" else f"--{name.replace('_', '-')}={value}"
        for name, value in options.items()
    ]
    return [*PYTHON, "-m", "fpsgan", command, f"--output={target}", *flags, *more, "--json", "-y", "--", source]


def proof(result: dict[str, Any]) -> list[str]:
    """What was done, in words, from the command line's JSON."""
    words = [
        f"{result['frames_in']} frames at {result['fps_in']} a second became {result['frames_out']} at "
        f"{result['fps_out']}. All were read back and counted before the file got its name.",
        f"{result['generated']} frames are new, {result['untouched']} are exactly as they came, "
        f"{result['deblurred']} were sharpened.",
        f"It lasts {result['duration_out']:.3f} s; the source lasts {result['duration_in']:.3f} s.",
    ]
    if result["av_offset_in"] is not None and result["av_offset_out"] is not None:
        off = 1000 * (result["av_offset_out"] - result["av_offset_in"])
        words.append(f"Sound is {off:+.2f} ms from where it was against the picture.")
    if result["cuts"]:
        words.append(f"Nothing was made up across cuts ({len(result['cuts'])}).")
    if result["held"]:
        words.append(f"Repeated frames found: {result['held']}.")
    return words + [f"{note[:1].upper()}{note[1:]}." for note in result["notes"]]

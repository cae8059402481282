"""The ffmpeg binary: where it is, and what this build of it can do."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache

import imageio_ffmpeg

from fpsgan.errors import SetupError

__all__ = ["encoder_formats", "encoders", "ffmpeg_path", "ffmpeg_version", "run"]


OLDEST = (5, 1)  # the first with -fps_mode


@lru_cache
def ffmpeg_path() -> str:
    """The ffmpeg on PATH if it is new enough, else the one inside imageio-ffmpeg. Raises SetupError without either."""
    found = shutil.which("ffmpeg")
    if found and _version_of(found) >= OLDEST:
        return found
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise SetupError(
            f"no ffmpeg {OLDEST[0]}.{OLDEST[1]} or newer: put one on PATH, or run "
            "`pip install --force-reinstall imageio-ffmpeg`"
        ) from error


def _version_of(program: str) -> tuple[int, int]:
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    number = re.search(r"version n?(\d+)\.(\d+)", said)
    if number:
        return int(number[1]), int(number[2])
    return OLDEST if "version N-" in said else (0, 0)  # builds from git carry no release number and are recent


def run(*arguments: str, timeout: float | None = 60) -> subprocess.CompletedProcess[str]:
    """Run ffmpeg to its end. Raises SetupError if it cannot start or takes more than ``timeout`` seconds, if any."""
    command = [ffmpeg_path(), "-hide_banner", "-nostdin", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=timeout
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{command[0]}: cannot be run ({error}); `fpsgan doctor` tells more") from error


@lru_cache
def ffmpeg_version() -> str:
    words = run("-version").stdout.split()
    return words[2] if len(words) > 2 else "unknown"


@lru_cache
def encoders() -> frozenset[str]:
    """Names of the video encoders in this build."""
    return frozenset(re.findall(r"^ V\S+ (\S+)", run("-encoders").stdout, re.MULTILINE))


@lru_cache
def encoder_formats(encoder: str) -> tuple[str, ...]:
    """Pixel formats that ``encoder`` takes, in its own order of preference."""
    found = re.search(r"Supported pixel formats: (.*)", run("-h", f"encoder={encoder}").stdout)
    return tuple(found.group(1).split()) if found else ()

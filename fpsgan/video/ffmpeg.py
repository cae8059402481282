"""The ffmpeg binary: where it is, and what this build of it can do."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import threading
import types
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import IO, Any

import av
import imageio_ffmpeg

from fpsgan.errors import FpsganError, SetupError

__all__ = ["NutPipe", "encoder_formats", "encoders", "ffmpeg_path", "ffmpeg_version", "run"]


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


class NutPipe:
    """A running ffmpeg that is fed one video stream on its standard input, in NUT, which carries exact times.

    ``failed`` makes the error to raise of what ffmpeg said, once it has ended without success.
    """

    def __init__(self, command: list[str], failed: Callable[[str], FpsganError]) -> None:
        self._command, self._failed = command, failed
        self._said: deque[str] = deque(maxlen=12)

    def start(self) -> None:
        """Raises OSError if ffmpeg cannot be started."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **_detached()
        )
        assert self._process.stdin is not None and self._process.stderr is not None
        self._input = self._process.stdin
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()
        # PyAV swallows what a write callback raises, so Ctrl-C must never land in one: the callback only appends, in C,
        # to a list, and _send does the waiting
        self._chunks: list[bytes] = []
        self._nut = av.open(types.SimpleNamespace(write=self._chunks.append), "w", format="nut")

    def add_pictures(self, width: int, height: int, pix_fmt: str, time_base: Fraction) -> Any:
        """The stream, of raw pictures."""
        stream: Any = self._nut.add_stream("rawvideo")
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        return stream

    def add_copy(self, of: Any, time_base: Fraction) -> Any:
        """The stream, of packets as they are in the PyAV stream ``of``."""
        stream: Any = self._nut.add_stream_from_template(of, opaque=True)  # there may be no encoder for it
        stream.time_base = time_base
        return stream

    def write(self, packet: Any) -> None:
        self._nut.mux(packet)
        self._send()

    def finish(self) -> None:
        """Close ffmpeg's input and wait for it to end."""
        try:
            self._nut.close()
            self._send()
            self._input.close()
            code = self._process.wait()
        except OSError as error:
            raise self._failure() from error
        except BaseException:
            self.abort()
            raise
        if code != 0:
            raise self._failure()
        self._listener.join()

    def abort(self) -> None:
        """End ffmpeg at once."""
        self._process.kill()
        self._process.wait()
        self._nut.close()
        with contextlib.suppress(OSError):  # the other end is gone: that is the point
            self._input.close()
        self._listener.join()

    def _send(self) -> None:
        chunks = self._chunks.copy()
        self._chunks.clear()
        try:
            self._input.writelines(chunks)
        except OSError as error:
            raise self._failure() from error

    def _failure(self) -> FpsganError:
        with contextlib.suppress(OSError):
            self._input.close()
        self._process.wait()
        self._listener.join()
        return self._failed("; ".join(self._said) or f"exit code {self._process.returncode}")

    def _listen(self, said: IO[bytes]) -> None:
        with said:
            for line in said:
                self._said.append(line.decode(errors="replace").strip())


def _detached() -> dict[str, Any]:
    # Ctrl-C goes to the whole foreground group; ffmpeg must not end before we decide what becomes of its file
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}

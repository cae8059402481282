"""The ffmpeg binary: where it is, what this build of it can do, and pipes into it."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
import types
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import IO, Any, Literal

import av
import av.codec.codec
import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import FpsganError, SetupError
from fpsgan.video.matroska import described

__all__ = [
    "FfmpegPipe",
    "PacketPipe",
    "command_of",
    "container_codecs",
    "encoder_formats",
    "encoders",
    "ffmpeg_path",
    "ffmpeg_version",
    "run",
]


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
    return OLDEST if "version N-" in said else (0, 0)  # builds from git have no release number and are recent


def run(*arguments: str, timeout: float | None = 60) -> subprocess.CompletedProcess[str]:
    """Run ffmpeg and wait. Raises SetupError if it cannot start or takes more than ``timeout`` seconds, if any."""
    command = [ffmpeg_path(), "-hide_banner", "-nostdin", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=timeout
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_run(error) from error


def _not_run(error: Exception) -> SetupError:
    return SetupError(f"{ffmpeg_path()}: cannot be run ({error}); `fpsgan doctor` tells more")


def command_of(graph: Any, paths: dict[str, str], *flags: str) -> list[str]:
    """The command line of an ffmpeg-python graph, with global ``flags``.

    ``paths``: what to put in for words of the graph, since ffmpeg-python takes no names that are not UTF-8.
    """
    graph = graph.global_args("-hide_banner", "-nostats", "-loglevel", "error", "-copyts", *flags)
    return [paths.get(word, word) for word in ffmpeg.compile(graph, cmd=ffmpeg_path(), overwrite_output=True)]


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


@lru_cache
def _fourcc(pix_fmt: str) -> bytes:
    """The FourCC of raw pictures of a format."""
    raw: Any = av.CodecContext.create("rawvideo", "w")
    raw.width = raw.height = 16
    raw.pix_fmt, raw.time_base = pix_fmt, Fraction(1)
    raw.open()
    return str(raw.codec_tag).encode("latin-1")


@lru_cache
def container_codecs(muxer: str) -> frozenset[str]:
    """The codecs that a container of libavformat can hold, by ffmpeg's names of formats, not of decoders."""
    with av.open(types.SimpleNamespace(write=len), "w", format=muxer) as container:
        names = container.supported_codecs
    return frozenset(av.Codec(name, mode).canonical_name for name in names for mode in _modes(name))


def _modes(codec: str) -> list[Literal["r", "w"]]:
    """Whether PyAV can read it, write it, or both."""
    found: list[Literal["r", "w"]] = []
    for mode in ("r", "w"):
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            av.Codec(codec, mode)
            found.append(mode)
    return found


class PacketPipe:
    """Streams in a container, to an open file: raw pictures, and whatever else PyAV's ``container`` is given.

    ``format``: "nut" has exact times, but no colour tags and few subtitle formats; "matroska" has those, and times to
    the millisecond; "yuv4mpegpipe" has pictures alone.
    """

    def __init__(self, file: IO[bytes], format: str = "nut") -> None:
        self.format, self._file = format, file
        # PyAV swallows what a write callback raises, so Ctrl-C must never hit one: the callback only appends to a list,
        # in C, and _send does the blocking write
        self._chunks: list[bytes] = []
        self._change: Callable[[bytes], bytes] | None = None  # of the header
        # a packet goes out with the next one, of whatever stream: libavformat would wait for all streams, up to 10 s
        options = {"max_interleave_delta": "1", "strict": "-1"}  # 10 bits in Y4M are not standard, but common
        if format == "matroska":
            options["write_crc32"] = "0"  # of a header that _send will change
        writer = types.SimpleNamespace(write=self._chunks.append)
        self.container = av.open(writer, "w", format=format, options=options)

    def add_pictures(
        self,
        width: int,
        height: int,
        pix_fmt: str,
        time_base: Fraction,
        *,
        rate: Fraction | None = None,
        sar: Fraction = Fraction(1),
    ) -> Any:
        """A stream of raw pictures, returned. NUT does not store ``sar``, the sample aspect ratio."""
        stream: Any = self.container.add_stream("rawvideo", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        if self.format == "matroska":
            # libavformat's reader, and mpv's, accept every format with a FourCC; its writer only those of AVI
            fourcc, stream.pix_fmt = _fourcc(pix_fmt), "yuv420p"
            self._change = lambda header: described(header, fourcc, sar * Fraction(width, height))
        elif self.format == "yuv4mpegpipe":
            self._change = lambda header: header.replace(b" A0:0 ", b" A%d:%d " % sar.as_integer_ratio(), 1)
        return stream

    def add_copy(self, of: Any, time_base: Fraction) -> Any:
        """A stream for packets as they are in the PyAV stream ``of``, returned."""
        stream: Any = self.container.add_stream_from_template(of, opaque=True)  # there may be no encoder for it
        stream.time_base = time_base
        return stream

    def write_picture(self, stream: Any, planes: Sequence[NDArray[np.generic]], tick: int) -> None:
        """A picture of the stream's size and format, shown from ``tick``, in its time base."""
        packet = av.Packet(b"".join(plane.tobytes() for plane in planes))
        packet.stream = stream
        packet.time_base, packet.is_keyframe = stream.codec_context.time_base, True
        packet.pts = packet.dts = tick
        self.write(packet)

    def write(self, packet: Any) -> None:
        """Raises whatever writing to the file raises."""
        self.container.mux(packet)
        self._send()

    def finish(self) -> None:
        """Write what is left, and close the file."""
        self.container.close()
        self._send()
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self.container.close()
        with contextlib.suppress(OSError):  # the other end is gone: that is the point
            self._file.close()

    def _send(self) -> None:
        chunks = self._chunks.copy()
        self._chunks.clear()
        if self._change is not None and chunks:
            chunks, self._change = [self._change(b"".join(chunks))], None
        self._file.writelines(chunks)
        self._file.flush()


class FfmpegPipe(PacketPipe):
    """A running ffmpeg with streams on its standard input. Raises SetupError if it cannot be started.

    ``failed`` makes the error to raise from what ffmpeg printed, if it fails.
    """

    def __init__(self, command: list[str], failed: Callable[[str], FpsganError], format: str = "nut") -> None:
        self._failed = failed
        self._said: deque[str] = deque(maxlen=12)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                # Ctrl-C goes to the whole foreground group; ffmpeg must not end before we decide what becomes of its
                # file. Windows ignores the first of these, others the second.
                start_new_session=True, creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )  # fmt: skip
        except OSError as error:
            raise _not_run(error) from error
        assert self._process.stdin is not None and self._process.stderr is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()
        super().__init__(self._process.stdin, format)

    def finish(self) -> None:
        """Close ffmpeg's input and wait for it to exit."""
        try:
            super().finish()
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
        """Kill ffmpeg."""
        self._process.kill()
        self._process.wait()
        super().abort()
        self._listener.join()

    def _send(self) -> None:
        try:
            super()._send()
        except OSError as error:
            raise self._failure() from error

    def _failure(self) -> FpsganError:
        with contextlib.suppress(OSError):
            self._file.close()
        self._process.wait()
        self._listener.join()
        return self._failed("; ".join(self._said) or f"exit code {self._process.returncode}")

    def _listen(self, said: IO[bytes]) -> None:
        with said:
            for line in said:
                self._said.append(line.decode(errors="replace").strip())

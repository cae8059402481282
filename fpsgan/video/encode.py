"""Encode and mux with ffmpeg (through ffmpeg-python); the target appears whole under its name, or not at all.

Frames go to ffmpeg as raw video in a NUT stream on its standard input, because NUT carries exact timestamps. The
other streams come from the source file and are copied wherever the container can hold them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import types
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import ffmpeg
import numpy as np

from fpsgan.errors import FpsganError, OptionError, OutputError, SetupError
from fpsgan.video.ffmpeg import encoder_formats, encoders, ffmpeg_path, ffmpeg_version, run
from fpsgan.video.frame import (
    MATRICES,
    PRIMARIES,
    TRANSFERS,
    Array,
    Color,
    Frame,
    PixelFormat,
    code_point,
)
from fpsgan.video.probe import NUT_TICK, Stream, VideoInfo

__all__ = ["CODECS", "EncodeOptions", "Encoder", "Plan", "check_target", "plan_output"]

# codec → (ffmpeg's encoder, flag that sets the quality, its default, further options)
CODECS: dict[str, tuple[str, str, int | None, dict[str, Any]]] = {
    "h264": ("libx264", "crf", 17, {"preset": "medium"}),
    "hevc": ("libx265", "crf", 19, {"preset": "medium", "x265-params": "log-level=error"}),
    "av1": ("libsvtav1", "crf", 26, {"preset": 8}),
    "vp9": ("libvpx-vp9", "crf", 24, {"b:v": 0, "row-mt": 1, "cpu-used": 3}),
    "prores": ("prores_ks", "qscale:v", None, {"profile:v": "hq"}),
    "ffv1": ("ffv1", "", None, {"level": 3, "slices": 16, "slicecrc": 1}),
    "h264_nvenc": ("h264_nvenc", "cq", 19, {"preset": "p5", "rc": "vbr", "b:v": 0}),
    "hevc_nvenc": ("hevc_nvenc", "cq", 21, {"preset": "p5", "rc": "vbr", "b:v": 0}),
    "av1_nvenc": ("av1_nvenc", "cq", 26, {"preset": "p5", "rc": "vbr", "b:v": 0}),
    "gif": ("gif", "", None, {}),
    "webp": ("libwebp_anim", "quality", 90, {"loop": 0}),
    "png": ("png", "", None, {}),
    "jpg": ("mjpeg", "qscale:v", 2, {}),
}

# suffix → (ffmpeg's muxer, codec by default, audio codec where the source's cannot be copied, likewise for text)
CONTAINERS: dict[str, tuple[str, str, str, str]] = {
    ".mp4": ("mp4", "h264", "aac", "mov_text"),
    ".m4v": ("mp4", "h264", "aac", "mov_text"),
    ".mov": ("mov", "h264", "aac", "mov_text"),
    ".mkv": ("matroska", "h264", "flac", "srt"),
    ".webm": ("webm", "vp9", "libopus", "webvtt"),
    ".avi": ("avi", "h264", "libmp3lame", ""),
    ".ts": ("mpegts", "h264", "aac", ""),
    ".gif": ("gif", "gif", "", ""),
    ".webp": ("webp", "webp", "", ""),
    ".png": ("image2", "png", "", ""),
    ".jpg": ("image2", "jpg", "", ""),
    ".jpeg": ("image2", "jpg", "", ""),
    "": ("image2", "png", "", ""),  # a folder of images
}
TEXT_SUBTITLES = {"srt", "subrip", "ass", "ssa", "mov_text", "webvtt", "text"}


@dataclasses.dataclass(frozen=True)
class EncodeOptions:
    """What the user may say about the output. ``codec`` "auto": what suits the container and the bit depth.
    ``quality``: the encoder's own scale (CRF for most, smaller is better), None for ours. ``pix_fmt``: None keeps the
    source's, or the nearest the encoder takes."""

    codec: str = "auto"
    quality: int | None = None
    pix_fmt: str | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the output will be written: settled, and tried out, before the long work begins.

    ``audio`` and ``subtitles`` pair a source stream with "copy" or the codec it is transcoded to; ``notes`` tell the
    user what cannot be as it was.
    """

    target: Path
    muxer: str
    codec: str
    format: PixelFormat
    color: Color
    width: int
    height: int
    rate: Fraction | None  # None: the frames' own times
    slowmo: Fraction
    quality: int | None
    audio: tuple[tuple[Stream, str], ...]
    subtitles: tuple[tuple[Stream, str], ...]
    notes: tuple[str, ...]

    @property
    def partial(self) -> Path:
        return self.target.absolute().with_name(f".{self.target.name}.partial")

    @property
    def folder(self) -> bool:
        """Whether the target is a folder of numbered images."""
        return self.target.suffix == ""


def check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    """Raise OutputError where ``target`` must not or cannot be written: before any work is done."""
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target}: is the input itself; the input is never overwritten, choose another name")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; -y overwrites it")
    if target.suffix.lower() not in CONTAINERS:
        known = " ".join(suffix for suffix in CONTAINERS if suffix)
        raise OutputError(f"{target}: unknown kind {target.suffix!r}; known are {known}, or a folder for images")
    if target.exists() and target.is_dir() != (target.suffix == ""):
        raise OutputError(f"{target}: a {'folder' if target.is_dir() else 'file'} of that name is in the way")
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"{target}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: no permission to write in {folder}")


def plan_output(
    info: VideoInfo,
    target: Path,
    options: EncodeOptions,
    *,
    rate: Fraction | None,
    slowmo: Fraction = Fraction(1),
) -> Plan:
    """Settle codec, pixel format and streams for ``target``, and prove with a trial encode of two grey frames that
    this ffmpeg can do it. Raises OptionError, OutputError or SetupError with what to change."""
    muxer, default, audio_codec, text_codec = CONTAINERS[target.suffix.lower()]
    notes: list[str] = []
    codec = options.codec
    if codec == "auto":
        codec = "hevc" if default == "h264" and info.format.depth > 8 else default
    if codec not in CODECS:
        raise OptionError(f"--codec {codec}: unknown; known are auto {' '.join(CODECS)}")
    encoder = CODECS[codec][0]
    if encoder not in encoders():
        raise SetupError(
            f"--codec {codec}: this ffmpeg ({ffmpeg_path()}, {ffmpeg_version()}) has no {encoder}; "
            "choose another --codec or install a fuller ffmpeg"
        )
    if muxer == "image2" and target.suffix and info.frame_count > 1:
        raise OutputError(f"{target}: one image cannot hold {info.frame_count} frames; name a folder or a video")
    if codec == "gif" and rate is not None and rate > 50:
        raise OptionError(
            f"{target}: GIF cannot show {float(rate):g} frames per second; use --fps 50 or less, or .webp"
        )
    format = _choose_format(info.format, encoder_formats(encoder), options.pix_fmt, encoder)
    color = info.color
    if format.family == "rgb":
        color = dataclasses.replace(color, matrix="gbr", full_range=True)
    elif info.format.family == "rgb":
        color = Color("bt709", "bt709", "iec61966-2-1")
    if codec == "jpg":  # JFIF knows one way only
        color = dataclasses.replace(color, matrix="smpte170m", full_range=True, chroma_location="center")
    if info.format.alpha and not format.alpha:
        notes.append(f"transparency is lost: {codec} cannot hold it here (--codec prores, vp9 or ffv1 can)")
    if info.format.depth > format.depth:
        notes.append(f"{info.format.depth} bits per sample become {format.depth} in {codec}")
    if info.color.hdr and format.depth < 10:
        raise OptionError(f"{info.path}: HDR video needs 10 bits, {codec} as {format.name} has 8; use --codec hevc")
    if info.dolby_vision:
        notes.append("Dolby Vision: the base layer is kept, its dynamic metadata is not")
    if info.mastering and encoder != "libx265":
        notes.append(f"HDR10 mastering metadata is not carried over by {encoder} (--codec hevc does)")
    width, height = info.width, info.height
    if codec not in ("ffv1", "vp9", "gif", "webp", "png", "jpg"):
        width, height = (-(-size >> log2) << log2 for size, log2 in ((width, format.log2_w), (height, format.log2_h)))
        if (width, height) != (info.width, info.height):
            notes.append(
                f"{codec} needs even sizes: {info.width}×{info.height} becomes {width}×{height} (edge repeated)"
            )
    audio: list[tuple[Stream, str]] = []
    subtitles: list[tuple[Stream, str]] = []
    for stream in info.others:
        if stream.kind == "audio" and audio_codec:
            action = "copy" if slowmo == 1 and _can_copy(info, stream, muxer) else audio_codec
            if action != "copy":
                why = f"stretched to {float(slowmo):g} times the length" if slowmo != 1 else f"{muxer} cannot hold it"
                notes.append(f"audio stream {stream.index} ({stream.codec}) becomes {action}: {why}")
            audio.append((stream, action))
        elif stream.kind == "subtitle" and slowmo == 1 and _can_copy(info, stream, muxer):
            subtitles.append((stream, "copy"))
        elif stream.kind == "subtitle" and slowmo == 1 and text_codec and stream.codec in TEXT_SUBTITLES:
            subtitles.append((stream, text_codec))
            notes.append(
                f"subtitle stream {stream.index} ({stream.codec}) becomes {text_codec}: {muxer} cannot hold it"
            )
        elif stream.kind == "attachment" and muxer == "matroska":
            subtitles.append((stream, "copy"))
        else:
            notes.append(f"{stream.kind} stream {stream.index} ({stream.codec}) is left out: not carried in {muxer}")
    plan = Plan(
        target, muxer, codec, format, color, width, height, rate, slowmo,
        CODECS[codec][2] if options.quality is None else options.quality, tuple(audio), tuple(subtitles), tuple(notes),
    )  # fmt: skip
    _try(plan, info)
    return plan


def _choose_format(source: PixelFormat, offered: tuple[str, ...], wanted: str | None, encoder: str) -> PixelFormat:
    """The pixel format to encode: the wanted one, the source's own, or the nearest that loses least."""
    usable: dict[str, PixelFormat] = {}
    for name in offered:
        with contextlib.suppress(ValueError, KeyError):  # hardware surfaces are no pixel formats
            usable.setdefault(PixelFormat.of(name).name, PixelFormat.of(name))
    if wanted is not None:
        form = usable.get(wanted)
        if form is None:
            raise OptionError(f"--pix-fmt {wanted}: {encoder} takes {' '.join(usable)}")
        return form
    if source.name in usable:
        return source

    def loss(form: PixelFormat) -> tuple[float, ...]:
        crosses = source.family == "rgb" and form.family == "yuv"
        return (
            form.alpha < source.alpha,
            form.family == "gray" and source.family != "gray",
            max(0, source.depth - form.depth),
            # RGB pictures become 4:2:0, the only kind that plays everywhere, not 4:4:4
            0 if crosses else max(0, form.log2_w - source.log2_w) + max(0, form.log2_h - source.log2_h),
            abs(form.log2_w + form.log2_h - (2 if crosses else source.log2_w + source.log2_h)),
            form.family != source.family,
            abs(form.depth - source.depth),
            form.alpha != source.alpha,
        )

    return min(usable.values(), key=loss)


def _can_copy(info: VideoInfo, stream: Stream, muxer: str) -> bool:
    """Whether ``muxer`` takes this stream as it is: tried, on its first half second."""
    with tempfile.TemporaryDirectory() as folder:
        done = run(
            "-v", "error", "-y", "-t", "0.5", "-i", str(info.path.absolute()), "-map", f"0:{stream.index}",
            "-c", "copy", "-strict", "experimental", "-f", muxer, str(Path(folder) / "trial"),
        )  # fmt: skip
        if done.returncode != 0:
            return False
        try:  # some muxers write what nothing can read, Vorbis in MPEG-TS for one
            with av.open(str(Path(folder) / "trial")) as container:
                return any(written.type == stream.kind for written in container.streams)
        except av.error.FFmpegError:
            return stream.kind != "audio"  # a half second without any subtitle may be no file at all


def _try(plan: Plan, info: VideoInfo) -> None:
    """Encode two grey frames with the plan's own settings and all its streams, into a throw-away file."""
    rate = plan.rate or info.frame_rate
    with tempfile.TemporaryDirectory() as folder:
        # a half second of the other streams is enough to see whether they go in
        trial = dataclasses.replace(plan, target=Path(folder) / f"trial{plan.target.suffix}")
        grey = tuple(
            np.full(
                plan.format.plane_shape(k, info.width, info.height), 1 << (plan.format.depth - 1), plan.format.dtype
            )
            for k in range(plan.format.planes)
        )
        frames = [
            Frame(grey, plan.format, plan.color, k / rate, 1 / rate) for k in range(1 if plan.muxer == "image2" else 2)
        ]
        with Encoder(trial, info, limit=max(Fraction(1, 2), 3 / rate), verify=False) as encoder:
            for frame in frames:
                encoder.write(frame)


class Encoder:
    """A running ffmpeg that writes ``plan``'s output; use as a context manager.

    Leaving it normally finishes, checks and renames the output; leaving it by an exception ends ffmpeg and removes
    the partial file. ``start``: source time (seconds from the file's origin) that becomes zero; ``limit``: how many
    seconds of the source's other streams to take (None: all). ``verify``: read the file back before the rename.
    """

    def __init__(
        self,
        plan: Plan,
        info: VideoInfo,
        *,
        start: Fraction = Fraction(0),
        limit: Fraction | None = None,
        verify: bool = True,
    ) -> None:
        self.plan, self.info, self.verify = plan, info, verify
        self.frames = 0
        self.bytes = 0
        rate = plan.rate or info.frame_rate
        fineness = max(1, -(-90000 // rate.numerator))
        self.time_base = Fraction(1, rate.numerator * fineness) if plan.rate else info.time_base / plan.slowmo
        self.time_base /= max(1, -(-self.time_base // NUT_TICK))
        self._complaints: deque[str] = deque(maxlen=12)
        self._command = self._arguments(start, limit)

    def __enter__(self) -> Encoder:
        plan = self.plan
        _remove(plan.partial)
        try:
            if plan.folder:
                plan.partial.mkdir()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **_detached()
            )
        except OSError as error:
            raise OutputError(f"{plan.target}: cannot be written ({error.strerror or error})") from error
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        # PyAV swallows what a write callback raises, so Ctrl-C must never land in one: the callback only appends, in C,
        # to a list, and _send does the waiting
        self._chunks: list[bytes] = []
        self._pipe = av.open(types.SimpleNamespace(write=self._chunks.append), "w", format="nut")
        stream: Any = self._pipe.add_stream("rawvideo", rate=plan.rate or self.info.frame_rate)
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, plan.format.name
        stream.time_base = stream.codec_context.time_base = self.time_base
        self._stream = stream
        return self

    def write(self, frame: Frame) -> None:
        """Send one frame, at ``frame.pts`` seconds of the output. Raises OutputError if ffmpeg has given up."""
        planes = [self._padded(plane, k) for k, plane in enumerate(frame.as_planes(self.plan.format, self.plan.color))]
        packet = av.Packet(b"".join(plane.tobytes() for plane in planes))
        packet.stream = self._stream
        packet.time_base = self.time_base
        packet.pts = packet.dts = round(frame.pts / self.time_base)
        packet.is_keyframe = True
        self._pipe.mux(packet)
        self._send()
        self.frames += 1

    def _send(self) -> None:
        chunks = self._chunks.copy()
        self._chunks.clear()
        try:
            self._process.stdin.writelines(chunks)  # type: ignore[union-attr]
        except OSError as error:
            raise self._failure() from error

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if kind is not None:
            self._abort()
            return
        try:
            self._finish()
        except BaseException:
            self._abort()
            raise

    def _finish(self) -> None:
        plan = self.plan
        if not self.frames:
            raise OutputError(f"{plan.target}: nothing to write, the source gave no frame")
        self._pipe.close()
        self._send()
        try:
            self._process.stdin.close()  # type: ignore[union-attr]
        except OSError as error:
            raise self._failure() from error
        if self._process.wait() != 0:
            raise self._failure()
        self._reader.join()
        if self.verify:
            self._verify()
        files = sorted(plan.partial.iterdir()) if plan.partial.is_dir() else [plan.partial]
        self.bytes = sum(file.stat().st_size for file in files)
        for file in files:
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        try:
            if plan.target.is_dir():
                _remove(plan.target)
            plan.partial.replace(plan.target)
        except OSError as error:
            raise OutputError(f"{plan.target}: finished, but cannot be given its name ({error.strerror})") from error

    def _verify(self) -> None:
        """Read the finished file back: every frame written must be there, and every stream planned."""
        plan = self.plan
        if plan.folder:
            found, streams = len(list(plan.partial.iterdir())), 1
            length = Fraction(0)
        elif plan.muxer == "webp":
            return  # libavformat reads no animated WebP
        else:
            try:
                with av.open(str(plan.partial)) as container:
                    streams = len(
                        [s for s in container.streams if s.type in ("video", "audio", "subtitle", "attachment")]
                    )
                    video = container.streams.video[0]
                    found, first, last = 0, 0, 0
                    for packet in container.demux(video):
                        if packet.size:
                            stamp = packet.pts if packet.pts is not None else packet.dts or 0
                            first, last = (min(first, stamp), max(last, stamp)) if found else (stamp, stamp)
                            found += 1
                    length = (last - first) * Fraction(video.time_base or 0)
            except av.error.FFmpegError as error:
                raise OutputError(f"{plan.target}: what ffmpeg wrote cannot be read back ({error.strerror})") from error
        if found != self.frames:
            raise OutputError(f"{plan.target}: {self.frames} frames were sent to ffmpeg but {found} are in its file")
        if plan.rate and not plan.folder and abs(length - (self.frames - 1) / plan.rate) > 1 / plan.rate / 2:
            raise OutputError(f"{plan.target}: came out {float(length):.3f} s long instead of {self.frames} frames")
        expected = 1 + len(plan.audio) + len(plan.subtitles)
        if streams != expected:
            raise OutputError(f"{plan.target}: {expected} streams were planned but {streams} are in the file")

    def _abort(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        with contextlib.suppress(OSError):  # the other end is gone: that is the point
            self._process.stdin.close()  # type: ignore[union-attr]
        self._reader.join()
        _remove(self.plan.partial)

    def _failure(self) -> FpsganError:
        self._process.wait()
        self._reader.join()
        said = "; ".join(self._complaints) or f"exit code {self._process.returncode}"
        if "No space left" in said:
            return OutputError(f"{self.plan.target}: the disk is full; free some space and run again")
        return OutputError(f"{self.plan.target}: ffmpeg could not write it as {self.plan.codec}: {said[-500:]}")

    def _listen(self) -> None:
        for line in self._process.stderr:  # type: ignore[union-attr]
            self._complaints.append(line.decode(errors="replace").strip())
        self._process.stderr.close()  # type: ignore[union-attr]

    def _padded(self, plane: Array, k: int) -> Array:
        rows, columns = self.plan.format.plane_shape(k, self.plan.width, self.plan.height)
        missing = (rows - plane.shape[0], columns - plane.shape[1])
        return np.pad(plane, ((0, missing[0]), (0, missing[1])), "edge") if any(missing) else plane

    def _arguments(self, start: Fraction, limit: Fraction | None) -> list[str]:
        plan, info, color = self.plan, self.info, self.plan.color
        tags: dict[str, Any] = {  # numbers: filters and encoders call some of them by names of their own
            "range": "pc" if color.full_range else "tv",
            "color_primaries": code_point(PRIMARIES, color.primaries),
            "color_trc": code_point(TRANSFERS, color.transfer),
            "colorspace": code_point(MATRICES, color.matrix),
        }
        encoder, quality_flag, _, extra = CODECS[plan.codec]
        settings: dict[str, Any] = {"c:v": encoder, **extra, "fps_mode": "passthrough"}
        if plan.codec.split("_")[0] in ("h264", "hevc") and (tags["colorspace"] > 14 or tags["color_primaries"] > 12):
            # younger than the encoders: x264 drops them, x265 refuses them; so they are put in behind the encoder
            names = ("colour_primaries", "transfer_characteristics", "matrix_coefficients")
            points = zip(names, list(tags.values())[1:], strict=True)
            settings["bsf:v"] = f"{plan.codec.split('_')[0]}_metadata={':'.join(f'{k}={v}' for k, v in points)}"
            tags |= {"colorspace": 2, "color_primaries": 2}
        video = ffmpeg.input("pipe:0", format="nut").filter("setparams", **tags)
        video = video.filter("setsar", f"{info.sar.numerator}/{info.sar.denominator}")
        if plan.codec == "gif":
            palette = video.split()
            colors = palette[0].filter("palettegen", stats_mode="single")
            video = ffmpeg.filter([palette[1], colors], "paletteuse", new=1)
        # AVI has no timestamps, only a rate, and takes the time base for it
        tick = self.time_base if plan.muxer != "avi" else 1 / (plan.rate or info.frame_rate)
        settings["enc_time_base"] = f"{tick.numerator}:{tick.denominator}"
        if plan.quality is not None and quality_flag:
            settings[quality_flag] = plan.quality
        if encoder == "libx265" and info.mastering:
            settings["x265-params"] += f":hdr10=1:repeat-headers=1:{info.mastering}"
        if plan.codec == "prores" and (plan.format.alpha or plan.format.log2_w == 0):
            settings["profile:v"] = "4444"
        if plan.format.family == "yuv" and plan.format.log2_w == 1:
            settings["chroma_sample_location"] = color.chroma_location
        streams = [video]
        if plan.audio or plan.subtitles or (not info.images and plan.muxer not in ("image2", "gif", "webp")):
            shift = -(info.origin + start)
            seek = {"ss": _seconds(start)} if start else {}
            source = ffmpeg.input(str(info.path.absolute()), itsoffset=_seconds(shift), **seek)
            for number, (stream, action) in enumerate(plan.audio):
                audio = source[str(stream.index)]
                streams.append(_stretched(audio, plan.slowmo))
                settings[f"c:a:{number}"] = action
                settings[f"map_metadata:s:a:{number}"] = f"1:s:{stream.index}"
                if action != "copy":
                    settings[f"b:a:{number}"] = "192k"
            for kind in ("subtitle", "attachment"):
                for number, (stream, action) in enumerate((s, a) for s, a in plan.subtitles if s.kind == kind):
                    streams.append(source[str(stream.index)])
                    letter = "s" if kind == "subtitle" else "t"
                    settings[f"c:{letter}:{number}"] = action
                    settings[f"map_metadata:s:{letter}:{number}"] = f"1:s:{stream.index}"
            if len(streams) == 1:
                streams.append(source["999?"])  # no stream: it is here for its metadata and chapters
            # chapters would point to the wrong places in slow motion or behind a cut-off beginning
            settings["map_chapters"] = 1 if plan.slowmo == 1 and not start and plan.muxer != "avi" else -1
            settings["map_metadata"] = 1
            settings["map_metadata:s:v:0"] = f"1:s:{info.stream}"
            settings["strict"] = "experimental"
            if start:  # -ss seeks to a keyframe of the video: leave out the sound from there to the start
                settings["copypriorss"] = 0
        if limit is not None:
            settings["t"] = _seconds(limit * plan.slowmo)
        if plan.muxer in ("matroska", "webm") and all((s.codec, a) == ("opus", "copy") for s, a in plan.audio):
            # Opus begins before zero by its CodecDelay, which this muxer allows for; to shift everything by it as well,
            # as ffmpeg does by default, would put the picture late
            settings["avoid_negative_ts"] = "disabled"
        if plan.muxer in ("mp4", "mov"):
            settings |= {"movflags": "+faststart", "video_track_timescale": self.time_base.denominator}
            settings["movie_timescale"] = 90000  # a late start is kept in this unit; ffmpeg's own is a millisecond
            if encoder in ("libx265", "hevc_nvenc"):
                settings["tag:v"] = "hvc1"
        if plan.muxer == "image2" and not plan.folder:
            settings["update"] = 1
        output = str(plan.partial / "%06d.") + plan.codec if plan.folder else str(plan.partial)
        graph = ffmpeg.output(*streams, output, format=plan.muxer, **settings)
        graph = graph.global_args("-hide_banner", "-nostats", "-loglevel", "error", "-copyts")
        arguments: list[str] = ffmpeg.compile(graph, cmd=ffmpeg_path(), overwrite_output=True)
        return arguments


def _stretched(audio: Any, slowmo: Fraction) -> Any:
    # atempo keeps the pitch; half speed is the slowest one pass does
    factor = Fraction(1) / slowmo
    while factor < Fraction(1, 2):
        audio, factor = audio.filter("atempo", 0.5), factor * 2
    return audio.filter("atempo", float(factor)) if factor != 1 else audio


def _seconds(time: Fraction) -> str:
    return f"{float(time):.6f}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _detached() -> dict[str, Any]:
    # Ctrl-C goes to the whole foreground group; ffmpeg must not end before we decide what becomes of its file
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}

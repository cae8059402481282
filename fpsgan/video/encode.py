"""Encode and mux with ffmpeg (through ffmpeg-python); the target appears whole under its name, or not at all.

Frames go to ffmpeg as raw video in a NUT stream on its standard input, because NUT carries exact timestamps. The
other streams come from the source file (of a joined recording: from a copy that has one clock), and are copied wherever
the container can hold them, else encoded anew, else left out. All of it is tried before the work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import re
import subprocess
import sys
import threading
import types
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error
import ffmpeg
import numpy as np

from fpsgan.errors import FpsganError, InputError, OptionError, OutputError, SetupError
from fpsgan.video.clock import Clock
from fpsgan.video.ffmpeg import encoder_formats, encoders, ffmpeg_path, ffmpeg_version, run
from fpsgan.video.files import PART
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
from fpsgan.video.probe import NUT_TICK, Stream, VideoInfo, open_container, scan

__all__ = ["CODECS", "CONTAINERS", "EncodeOptions", "Encoder", "Plan", "plan_output"]

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
LATE = Fraction(1, 50)  # seconds by which sound may begin after the picture where that cannot be written
UNEVEN = Fraction(1, 20)  # of a second, and of its length, by which a copy of sound may last longer or less
REORDERED = 64  # packets among which the first picture shown is to be found
SEARCHED = 5  # seconds around its place in which a packet of sound is looked for
CARRIER = "carrier"  # stands for its path
LETTERS = {"audio": "a", "subtitle": "s", "attachment": "t"}  # ffmpeg's, in the order of the output
DISCARD = "+discardcorrupt"  # a packet that the container calls corrupt stops some muxers
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
class Carrier:
    """The file that the other streams come from: the source, or a copy of them.

    ``shift``: seconds to add to its times, so that zero is that of the output at normal speed; ``start``: what of it
    comes before, and is left out. ``indices``: where in it a stream of the source is, if not at the same place.
    """

    path: Path
    shift: Fraction
    start: Fraction = Fraction(0)
    indices: dict[int, int] | None = None

    def index(self, stream: Stream) -> int:
        """Where in the file a stream of the source is."""
        return stream.index if self.indices is None else self.indices[stream.index]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the output will be written: settled, and tried out, before the long work begins.

    ``streams`` pairs other streams of the source with "copy" or the codec they are encoded with, in the order of the
    output; ``notes`` tell the user what cannot be as it was.
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
    streams: tuple[tuple[Stream, str], ...]
    carrier: Carrier
    notes: tuple[str, ...]

    @property
    def folder(self) -> bool:
        """Whether the target is a folder of numbered images."""
        return self.target.suffix == ""


def plan_output(
    info: VideoInfo,
    target: Path,
    options: EncodeOptions,
    place: Path,
    *,
    rate: Fraction | None,
    slowmo: Fraction = Fraction(1),
    start: Fraction = Fraction(0),
    end: Fraction | None = None,
) -> Plan:
    """Settle codec, pixel format and streams for ``target``, and prove it: copy all of the other streams once, encode
    two grey frames. Raises OptionError, OutputError or SetupError with what to change.

    ``place``: the job's own folder (`files.claimed`); ``start`` and ``end``: the part of the source that is used, in
    seconds from ``info.origin``. The time ``start`` becomes zero.
    """
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
    carrier = carry(info, place, start, end)
    streams, said = _settle_streams(info, carrier, muxer, audio_codec, text_codec, slowmo, place)
    plan = Plan(
        target, muxer, codec, format, color, width, height, rate, slowmo,
        CODECS[codec][2] if options.quality is None else options.quality, streams, carrier, (*notes, *said),
    )  # fmt: skip
    _try(plan, info, place)
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


def carry(info: VideoInfo, place: Path, start: Fraction, end: Fraction | None) -> Carrier:
    """Where the other streams come from. Of a joined recording, whose clock ffmpeg would read otherwise than `decode`,
    they are copied into a file with one clock; a stream that NUT cannot hold is not in it."""
    wanted = [stream for stream in info.others if stream.kind in ("audio", "subtitle")]
    if len(info.presentation.pieces) == 1 or not wanted:
        return Carrier(info.path, -(info.origin + start), start)
    path = place / f"{PART}.nut"
    indices: dict[int, int] = {}
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(av.open(str(path), "w", format="nut"))
        copied: list[Iterator[tuple[Fraction, Any]]] = []
        for stream, (piece, begin) in _begins(info, wanted).items():
            found = _opened(info.path, stream, begin, stack)
            if found is None:
                continue
            with contextlib.suppress(ValueError, av.error.FFmpegError):
                track = copy.add_stream_from_template(found)
                copied.append(_packets_of(found, track, Clock(info.presentation, piece), info.origin + start))
                indices[stream.index] = len(indices)
        for time, packet in heapq.merge(*copied, key=lambda pair: pair[0]):
            if end is not None and time >= end - start:
                break
            copy.mux(packet)
    return Carrier(path if indices else info.path, Fraction(0), indices=indices)


def _begins(info: VideoInfo, wanted: list[Stream]) -> dict[Stream, tuple[int, int]]:
    """Where each stream begins: (the number of its first piece, its first byte). Sound may begin later than picture."""
    begins: dict[Stream, tuple[int, int]] = {}
    by_index = {stream.index: stream for stream in wanted}
    clock = Clock(info.presentation)
    with open_container(info.path) as container:
        for packet in container.demux():
            if packet.stream_index == info.stream:
                clock.shift(packet, info.time_base)
            stream = by_index.get(packet.stream_index)
            if stream is not None and packet.size and packet.pos is not None:
                begins.setdefault(stream, (clock.at, packet.pos))
    return begins


def _opened(path: Path, stream: Stream, begin: int, stack: contextlib.ExitStack) -> Any:
    """The stream as libavformat sees it, with all that a copy must know; None where it finds that out nowhere.

    Of sound that begins in a later piece it knows nothing at the beginning: there it has to read from byte ``begin``.
    """
    container = stack.enter_context(open_container(path))
    found = container.streams[stream.index] if stream.index < len(container.streams) else None
    if found is not None and (stream.kind != "audio" or found.codec_context.sample_rate):
        return found
    file = stack.enter_context(path.open("rb"))
    file.seek(begin)
    try:
        later = stack.enter_context(av.open(types.SimpleNamespace(read=file.read)))
    except av.error.FFmpegError:
        return None
    alike = [s for s in later.streams.audio if s.codec_context.name == stream.codec and s.codec_context.sample_rate]
    return alike[0] if alike else None


def _packets_of(stream: Any, track: Any, clock: Clock, zero: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """(time from ``zero``, packet for ``track``) of a stream, in one clock."""
    time_base, end = Fraction(stream.time_base), Fraction(0)
    for packet in stream.container.demux(stream):
        if not packet.size:
            continue
        shift = clock.shift(packet, time_base)
        if packet.pts is None or packet.is_corrupt:
            continue
        time, lasts = packet.pts * time_base + shift - zero, (packet.duration or 0) * time_base
        # sound that outlasts its picture goes on into the next piece: of that, the beginning is left out
        if time >= end - lasts / 2:
            end = time + lasts
            packet.pts = packet.dts = round(time / time_base)
            packet.stream = track
            yield time, packet


def _settle_streams(
    info: VideoInfo, carrier: Carrier, muxer: str, audio_codec: str, text_codec: str, slowmo: Fraction, place: Path
) -> tuple[tuple[tuple[Stream, str], ...], list[str]]:
    """What becomes of each stream that is not the picture, and the notes that say so: copied where ``muxer`` takes it,
    else encoded anew, else left out. Copies are tried whole: what breaks in the middle must not do so after the work.
    """
    wanted = {stream: _ways(stream, muxer, audio_codec, text_codec, slowmo, info.start) for stream in info.others}
    if carrier.indices is not None:
        wanted = {s: [way for way in ways if s.index in carrier.indices] for s, ways in wanted.items()}
    copied = [stream for stream, ways in wanted.items() if ways[:1] == ["copy"]]
    at_once = _passes(carrier, dict.fromkeys(copied, "copy"), muxer, place)
    settled: list[tuple[Stream, str]] = []
    notes: list[str] = []
    for stream, ways in wanted.items():
        name = f"{stream.kind} stream {stream.index} ({stream.codec})"
        tried = (way for way in ways if (way == "copy" and at_once) or _passes(carrier, {stream: way}, muxer, place))
        taken = next(tried, "")
        if not taken:
            why = "ffmpeg can neither copy nor decode it" if ways else f"not carried in {muxer}"
            notes.append(f"{name} is left out: {why}")
            continue
        settled.append((stream, taken))
        if taken != "copy":
            stretched = f"stretched to {float(slowmo):g} times the length"
            why = stretched if slowmo != 1 else f"{muxer} does not take a copy"
            notes.append(f"{name} becomes {taken}: {why}")
        if stream.damaged:
            count, first = len(stream.damaged), float(stream.damaged[0])
            notes.append(f"{name} is damaged: {count} packet{'s' * (count > 1)} left out, from {first:.3f} s on")
    if complaint := _complaint(carrier, [stream for stream, _ in settled if stream.kind == "audio"]):
        notes.append(f"the sound is damaged: {complaint}")
    return tuple(sorted(settled, key=lambda pair: list(LETTERS).index(pair[0].kind))), notes


def _complaint(carrier: Carrier, sound: list[Stream]) -> str:
    """What a decoder of these streams complains of first; "" for nothing, and where ffmpeg knows no decoder."""
    known = [stream for stream in sound if stream.codec != "none"]
    maps = [word for stream in known for word in ("-map", f"0:{carrier.index(stream)}")]
    if not known:
        return ""
    path = str(carrier.path.absolute())
    done = run("-v", "error", "-fflags", DISCARD, "-i", path, *maps, "-f", "null", "-", timeout=None)
    names = "|".join(sorted({re.escape(stream.codec) for stream in known}))
    said = re.search(rf"\[({names}) @ 0x[0-9a-f]+\] (.*)", done.stderr)
    return f"{said[1]} complains: {said[2].strip()[:200]}" if said else ""


def _ways(
    stream: Stream, muxer: str, audio_codec: str, text_codec: str, slowmo: Fraction, start: Fraction
) -> list[str]:
    """What may be done with a stream of a file that begins at ``start``, best first. Subtitles are not stretched."""
    if stream.kind == "audio" and stream.start is None:
        return []  # it is empty
    if stream.kind == "audio" and audio_codec:
        late = muxer == "avi" and stream.start is not None and stream.start > start + LATE  # which AVI cannot say
        return [audio_codec] if slowmo != 1 or late else ["copy", audio_codec]
    if stream.kind == "subtitle" and slowmo == 1 and text_codec:
        return ["copy", *([text_codec] if stream.codec in TEXT_SUBTITLES else [])]
    if stream.kind == "attachment" and muxer == "matroska":
        return ["copy"]
    return []


def _passes(carrier: Carrier, streams: dict[Stream, str], muxer: str, place: Path) -> bool:
    """Whether ``muxer`` takes these streams: copies all of them, the beginning of what is encoded."""
    if not streams:
        return True
    path = place / f"{PART}.trial"
    maps = [word for stream in streams for word in ("-map", f"0:{carrier.index(stream)}")]
    codecs = [word for k, way in enumerate(streams.values()) for word in (f"-c:{k}", way)]
    # not so many seconds: how far ffmpeg seeks, and from where on it counts, is up to the picture
    some = ["-frames:a", "50"] if "copy" not in streams.values() else []
    done = run(
        "-v", "error", "-y", "-fflags", DISCARD, "-i", str(carrier.path.absolute()), *maps, *codecs, *some,
        "-strict", "experimental", "-f", muxer, str(path), timeout=None,
    )  # fmt: skip
    if done.returncode != 0:
        return False
    # Some muxers write what nothing can read, Vorbis in MPEG-TS for one, or what lasts otherwise, Vorbis in AVI.
    # Without a single subtitle there may be no file at all.
    written = _sound_in(path)
    heard = [stream for stream in streams if stream.kind == "audio"]
    if len(written) != len(heard):
        return False
    if some:
        return True
    if any(codec != stream.codec for (codec, _), stream in zip(written, heard, strict=True)):
        return False  # it has no name there
    if carrier.indices is not None:
        return True
    pairs = zip(written, heard, strict=True)
    return all(s.damaged or abs(length - s.length) < UNEVEN * (1 + s.length) for (_, length), s in pairs)


def _sound_in(path: Path) -> list[tuple[str, Fraction]]:
    """(codec, how long it lasts in seconds) of each stream of sound in a file; none where it cannot be read."""
    try:
        with open_container(path) as container:
            tracks, _ = scan(container)
            return [
                (s.codec_context.name if s.codec_context else "none", tracks[s.index].length)
                for s in container.streams.audio
            ]
    except InputError:
        return []


def _try(plan: Plan, info: VideoInfo, place: Path) -> None:
    """Encode two grey frames with the plan's own settings and the beginning of all its streams."""
    rate = plan.rate or info.frame_rate
    grey = tuple(
        np.full(plan.format.plane_shape(k, info.width, info.height), 1 << (plan.format.depth - 1), plan.format.dtype)
        for k in range(plan.format.planes)
    )
    count = 1 if plan.muxer == "image2" else 2
    with Encoder(plan, info, place, limit=max(Fraction(1, 2), 3 / rate), verify=False) as encoder:
        for k in range(count):
            encoder.write(Frame(grey, plan.format, plan.color, k / rate, 1 / rate))


class Encoder:
    """A running ffmpeg that writes ``plan``'s output to ``part``, in the job's folder; use as a context manager.

    Leaving it normally finishes and checks the output, which `files.publish` can then give its name; leaving it by an
    exception ends ffmpeg. ``limit``: how many seconds of the source's other streams to take (None: all). ``verify``:
    read the file back.
    """

    def __init__(
        self,
        plan: Plan,
        info: VideoInfo,
        place: Path,
        *,
        limit: Fraction | None = None,
        verify: bool = True,
    ) -> None:
        self.plan, self.info, self.verify = plan, info, verify
        self.part = place / (PART if plan.folder else f"{PART}{plan.target.suffix}")
        self.frames = 0
        self.first: Fraction | None = None  # when the first frame is shown, in seconds of the output
        rate = plan.rate or info.frame_rate
        fineness = max(1, -(-90000 // rate.numerator))
        self.time_base = Fraction(1, rate.numerator * fineness) if plan.rate else info.time_base / plan.slowmo
        self.time_base /= max(1, -(-self.time_base // NUT_TICK))
        self._complaints: deque[str] = deque(maxlen=12)
        self._command = self._arguments(limit)

    def __enter__(self) -> Encoder:
        plan = self.plan
        try:
            if plan.folder:
                self.part.mkdir(exist_ok=True)
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
        self.first = frame.pts if self.first is None else self.first

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

    def _verify(self) -> None:
        """Read the finished file back: every frame written must be there, and every stream planned."""
        plan = self.plan
        if plan.folder:
            found, streams, length = len(list(self.part.iterdir())), 1, Fraction(0)
        elif plan.muxer == "webp":
            return  # libavformat reads no animated WebP
        else:
            try:
                with open_container(self.part) as container:
                    kinds = [s.type for s in container.streams]
                    video = container.streams.video[0]
                    stamps = [p.dts if p.pts is None else p.pts for p in container.demux(video) if p.size]
                    length = (max(stamps, default=0) - min(stamps, default=0)) * Fraction(video.time_base or 0)
            except (InputError, av.error.FFmpegError) as error:
                raise OutputError(f"{plan.target}: what ffmpeg wrote cannot be read back ({error})") from error
            found = len(stamps)
            streams = sum(kind in ("video", "audio", "subtitle", "attachment") for kind in kinds)
        if found != self.frames:
            raise OutputError(f"{plan.target}: {self.frames} frames were sent to ffmpeg but {found} are in its file")
        if plan.rate and not plan.folder and abs(length - (self.frames - 1) / plan.rate) > 1 / plan.rate / 2:
            raise OutputError(f"{plan.target}: came out {float(length):.3f} s long instead of {self.frames} frames")
        expected = 1 + len(plan.streams)
        if streams != expected:
            raise OutputError(f"{plan.target}: {expected} streams were planned but {streams} are in the file")

    def sound_offsets(self) -> tuple[Fraction, Fraction] | None:
        """Seconds from the first packet of copied sound to the first picture, in the source and in the output.

        None where no sound is copied.
        """
        copied = [stream for stream, action in self.plan.streams if stream.kind == "audio" and action == "copy"]
        if not copied or self.first is None:
            return None
        carrier, number = self.plan.carrier, [stream for stream, _ in self.plan.streams].index(copied[0])
        with open_container(self.part) as container:
            pictures = islice((p for p in container.demux(container.streams.video[0]) if p.size), REORDERED)
            shown = min(p.pts * Fraction(p.time_base) for p in pictures)
        with open_container(self.part) as container:
            packet = next((p for p in container.demux(container.streams[1 + number]) if p.size), None)
            if packet is None:
                return None
            heard, sound = packet.pts * Fraction(packet.time_base), bytes(packet)
        found: list[Fraction] = []  # silence has many packets alike: the one that fits best
        # damage behind the beginning of the source was told of already
        with contextlib.suppress(av.error.FFmpegError), open_container(carrier.path) as container:
            for packet in container.demux(container.streams[carrier.index(copied[0])]):
                if packet.pts is None:
                    continue
                time = packet.pts * Fraction(packet.time_base) + carrier.shift
                if time > heard - shown + self.first + SEARCHED:
                    break
                if bytes(packet).endswith(sound) or (packet.size and sound.endswith(bytes(packet))):  # with a header
                    found.append(self.first - time)
        return min(found, key=lambda offset: abs(offset - (shown - heard)), default=shown - heard), shown - heard

    def _abort(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        with contextlib.suppress(OSError):  # the other end is gone: that is the point
            self._process.stdin.close()  # type: ignore[union-attr]
        self._reader.join()

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

    def _arguments(self, limit: Fraction | None) -> list[str]:
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
        retold = [word for key, value in info.retold.items() for word in ("-metadata", f"{key}={value}")]
        if plan.streams or (not info.images and plan.muxer not in ("image2", "gif", "webp")):
            carrier = plan.carrier
            seek = {"ss": seconds(carrier.start)} if carrier.start else {}
            # A trial limits what goes in: ffmpeg may wait for ever for sound that jumps behind the end of an output.
            length = {} if limit is None or self.verify else {"t": seconds(limit)}
            source = ffmpeg.input(CARRIER, itsoffset=seconds(carrier.shift), fflags=DISCARD, **seek, **length)
            counts = dict.fromkeys(LETTERS, 0)
            for stream, action in plan.streams:
                index, letter, number = carrier.index(stream), LETTERS[stream.kind], counts[stream.kind]
                counts[stream.kind] += 1
                taken = source[str(index)]
                if stream.kind == "audio" and action != "copy":
                    taken = _stretched(taken, plan.slowmo)
                    if plan.muxer == "avi":  # which has no times: silence before sound that begins late, and in holes
                        taken = taken.filter("aresample", **{"async": 1, "first_pts": 0})
                streams.append(taken)
                settings[f"c:{letter}:{number}"] = action
                settings[f"map_metadata:s:{letter}:{number}"] = f"1:s:{index}"
                for key, value in stream.retold:
                    retold += [f"-metadata:s:{letter}:{number}", f"{key}={value}"]
                if stream.kind == "audio" and action != "copy":
                    settings[f"b:a:{number}"] = "192k"
            if not plan.streams:
                streams.append(source["999?"])  # no stream: it is here for its metadata and chapters
            # chapters would point to the wrong places in slow motion or behind a cut-off beginning
            chapters = plan.slowmo == 1 and not carrier.start and plan.muxer != "avi"
            settings["map_chapters"] = 1 if chapters else -1
            settings["map_metadata"] = 1
            if carrier.indices is None:
                settings["map_metadata:s:v:0"] = f"1:s:{info.stream}"
            settings["strict"] = "experimental"
            if carrier.start:  # -ss seeks to a keyframe of the video: leave out the sound from there to the start
                settings["copypriorss"] = 0
        opus = all((s.codec, a) == ("opus", "copy") for s, a in plan.streams if s.kind == "audio")
        if limit is not None and self.verify:
            settings["t"] = seconds(limit * plan.slowmo)
        if plan.muxer == "avi" or (plan.muxer in ("matroska", "webm") and opus):
            # Sound may begin before zero, with samples that are only there to be decoded. To shift everything by them,
            # as ffmpeg does by default, puts the picture late in AVI, which has no times, and with Opus, whose
            # CodecDelay these muxers allow for.
            settings["avoid_negative_ts"] = "disabled"
        if plan.muxer in ("mp4", "mov"):
            settings |= {"movflags": "+faststart", "video_track_timescale": self.time_base.denominator}
            settings["movie_timescale"] = 90000  # a late start is kept in this unit; ffmpeg's own is a millisecond
            if encoder in ("libx265", "hevc_nvenc"):
                settings["tag:v"] = "hvc1"
        if plan.muxer == "image2" and not plan.folder:
            settings["update"] = 1
        graph = ffmpeg.output(*streams, PART, format=plan.muxer, **settings)
        graph = graph.global_args("-hide_banner", "-nostats", "-loglevel", "error", "-copyts")
        arguments: list[str] = ffmpeg.compile(graph, cmd=ffmpeg_path(), overwrite_output=True)
        place = arguments.index(PART)
        arguments[place:place] = retold  # ffmpeg-python takes every option once
        # a "%" in the folder's name would be a pattern too
        part = f"{str(self.part).replace('%', '%%')}/%06d.{plan.codec}" if plan.folder else str(self.part)
        # put in here since ffmpeg-python takes no names that are not UTF-8; /dev/stdin is another file to ffmpeg
        paths = {CARRIER: str(plan.carrier.path.resolve()), PART: part}
        return [paths.get(word, word) for word in arguments]


def _stretched(audio: Any, slowmo: Fraction) -> Any:
    # atempo keeps the pitch; half speed is the slowest one pass does
    factor = Fraction(1) / slowmo
    while factor < Fraction(1, 2):
        audio, factor = audio.filter("atempo", 0.5), factor * 2
    return audio.filter("atempo", float(factor)) if factor != 1 else audio


def seconds(time: Fraction) -> str:
    """As ffmpeg reads it, to the microsecond."""
    return f"{float(time):.6f}"


def _detached() -> dict[str, Any]:
    # Ctrl-C goes to the whole foreground group; ffmpeg must not end before we decide what becomes of its file
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}

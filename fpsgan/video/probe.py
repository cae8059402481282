"""What a file really is: the header's word kept apart from what its packets say.

``probe`` reads every packet of the chosen video stream once, without decoding, so frame count, rate and variable
timing are measured, not believed.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
from array import array
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np

from fpsgan.errors import InputError
from fpsgan.video import fields
from fpsgan.video.ffmpeg import run
from fpsgan.video.frame import SITING, Color, PixelFormat, rotated

__all__ = ["Stream", "VideoInfo", "constant_rate", "probe"]

STANDARD_RATES = [
    *(Fraction(n) for n in (24, 25, 30, 48, 50, 60, 100, 120, 240, 12, 15)),
    *(Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)),
]
NUT_TICK = Fraction(1, 48000)  # the muxer changes a coarser time base behind PyAV's back
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}

# H.273 numbers → ffmpeg's names; what is not here is "unknown"
MATRICES = {0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc",
            10: "bt2020c", 14: "ictcp"}  # fmt: skip
PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020",
             10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "jedec-p22"}  # fmt: skip
TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100",
             10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12",
             16: "smpte2084", 17: "smpte428", 18: "arib-std-b67"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream that is not the chosen video: audio, subtitle, attachment, data, or another video."""

    index: int
    kind: str
    codec: str
    language: str = ""
    start: Fraction | None = None


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """A source, probed. Times in seconds.

    Measured, from packets and the first frame: ``frame_rate`` (the constant rate, or the usual rate of a variable
    one), ``vfr``, ``frame_count`` (packets with a picture; hidden frames may add to it), ``start`` (first pts),
    ``duration`` (first pts to the end of the last frame), ``damage`` (what stopped the scan, "" if nothing), and
    everything about the picture. ``width`` and ``height`` are as shown, ``rotation`` (degrees counter-clockwise,
    0, 90, 180 or 270) baked in; ``siting`` the chroma location before that. ``mastering``: HDR10's static metadata, in
    x265's words, "" for none. ``origin`` is the earliest time in the file, which players take as zero.
    The header's word, which the packets may contradict: ``header_frames`` (0 = not said).
    ``images`` lists the files where the source is a folder.
    ``scan`` is measured on decoded frames, ``interlaced`` the stream's flag; ``treatment`` what fields.treated() chose:
    ``frame_rate``, ``vfr``, ``frame_count`` and ``duration`` are then those after it.
    """

    path: Path
    stream: int
    codec: str
    width: int
    height: int
    sar: Fraction
    rotation: int
    format: PixelFormat
    color: Color
    interlaced: bool
    siting: str
    dolby_vision: bool
    mastering: str
    time_base: Fraction
    frame_rate: Fraction
    vfr: bool
    frame_count: int
    start: Fraction
    duration: Fraction
    origin: Fraction
    damage: str = ""
    header_frames: int = 0
    others: tuple[Stream, ...] = ()
    images: tuple[Path, ...] = ()
    scan: fields.Scan = fields.PROGRESSIVE
    treatment: fields.Treatment | None = None

    @property
    def audio(self) -> tuple[Stream, ...]:
        return tuple(stream for stream in self.others if stream.kind == "audio")


def probe(path: str | Path, *, stream: int | None = None, image_rate: Fraction = Fraction(24)) -> VideoInfo:
    """Describe the video in ``path``: a file, or a folder of images shown at ``image_rate``.

    ``stream`` is the index of the video stream in the file; by default the first that is a moving picture (cover art
    and data streams are passed over). Reads all packets once and decodes one frame. Raises InputError for anything
    that holds no picture.
    """
    path = Path(path)
    images = image_files(path) if path.is_dir() else ()
    with open_container(images[0] if images else path) as container:
        video = _choose(container, path, stream)
        index, codec, header_frames = video.index, video.codec_context.name, video.frames
        sar = Fraction(video.sample_aspect_ratio or 1)
        stamps, last_duration, damage = _scan(container, video)
        time_base = Fraction(video.time_base)
        rates = [_exact(Fraction(rate)) for rate in (video.average_rate, video.guessed_rate, video.base_rate) if rate]
        origin = Fraction(container.start_time or 0, av.time_base)
        others = tuple(_describe(other) for other in container.streams if other is not video)
    frame = _first_frame(images[0] if images else path, index)
    if images:
        time_base, rates, stamps, last_duration = 1 / image_rate, [image_rate], array("q", range(len(images))), 1
        origin, others, header_frames = Fraction(0), (), 0
    ticks = np.unique(np.array(stamps or [0], np.int64))
    span = int(ticks[-1] - ticks[0]) * time_base
    mean = [((len(ticks) - 1) / span).limit_denominator(1001)] if span else []
    rate = constant_rate(ticks, time_base, [*rates, *mean, *STANDARD_RATES])
    if frame.interlaced_frame and rate and rates and rate == 2 * rates[0]:  # each field has a packet of its own
        ticks, rate = ticks[::2], rates[0]
    vfr = rate is None
    rate = rate or _usual_rate(ticks, time_base, rates)
    start = int(ticks[0]) * time_base
    end = int(ticks[-1]) * time_base + (last_duration * time_base if vfr and last_duration else 1 / rate)
    rotation = int(frame.rotation) % 360 if frame.rotation % 90 == 0 else 0
    turned = rotation in (90, 270)
    try:
        form, siting = PixelFormat.of(frame.format.name), "left"
        if form.log2_w == 1 and not images:
            siting = _siting(path, index) or ("center" if frame.format.name.startswith("yuvj") else "left")
        format, color = rotated(form, color_of(frame, siting), rotation)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    info = VideoInfo(
        path=path,
        stream=index,
        codec=codec,
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        sar=1 / sar if turned else sar,
        rotation=rotation,
        format=format,
        color=color,
        interlaced=bool(frame.interlaced_frame),
        siting=siting,
        dolby_vision=any(data.type.name.startswith("DOVI") for data in _side_data(frame)),
        mastering=_mastering(frame),
        time_base=time_base,
        frame_rate=rate,
        vfr=vfr,
        frame_count=len(ticks),
        start=start,
        duration=end - start,
        origin=origin,
        damage=damage,
        header_frames=header_frames,
        others=others,
        images=images,
    )
    return dataclasses.replace(info, scan=fields.find(info, ticks))


def open_container(path: Path) -> Any:
    """Open a media file with PyAV. Raises InputError, in one line, where that cannot be done."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".webp" and b"ANIM" in path.read_bytes()[:64]:
            return av.open(_animated_webp(path))
        # absolute: "12:30.mp4" must not be taken for a protocol
        return av.open(str(path.absolute()), metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: not a video that can be read ({reason})") from error


def _animated_webp(path: Path) -> io.BytesIO:
    """An animated WebP, which libavformat does not read, as raw video in NUT: OpenCV decodes it, whole."""
    found, animation = cv2.imreadanimation(str(path))
    if not found or not len(animation.frames):
        raise InputError(f"{path}: an animated WebP that cannot be decoded")
    nut = io.BytesIO()
    with av.open(nut, "w", format="nut") as container:
        stream: Any = container.add_stream("rawvideo")
        stream.height, stream.width = animation.frames[0].shape[:2]
        stream.pix_fmt = {3: "bgr24", 4: "bgra"}[animation.frames[0].shape[2]]
        stream.time_base = stream.codec_context.time_base = NUT_TICK
        now = 0
        for image, milliseconds in zip(animation.frames, animation.durations, strict=True):
            packet = av.Packet(image.tobytes())
            packet.stream, packet.time_base = stream, NUT_TICK
            packet.pts = packet.dts = round(Fraction(now, 1000) / NUT_TICK)
            packet.is_keyframe = True
            container.mux(packet)
            now += int(milliseconds)
    nut.seek(0)
    return nut


def video_decoder(video: Any) -> Any:
    """The decoder for a stream: its own, or libvpx where a VP8/VP9 stream carries an alpha plane that only it reads."""
    alpha_decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(video.codec_context.name)
    if video.metadata.get("alpha_mode") == "1" and alpha_decoder in av.codecs_available:
        return av.CodecContext.create(alpha_decoder, "r")
    video.thread_type = "AUTO"
    return video.codec_context


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in natural order (2 before 10). Raises InputError if there are none."""

    def natural(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]

    found = sorted((f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=natural)
    if not found:
        raise InputError(f"{folder}: a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return tuple(found)


def constant_rate(ticks: Any, time_base: Fraction, candidates: Sequence[Fraction]) -> Fraction | None:
    """The candidate rate on whose grid all timestamps lie to within one tick, with nine in ten places taken; else None.

    ``ticks``: increasing int64 timestamps in ``time_base``. A container that counts in milliseconds cannot write
    1/24 s; its file is constant all the same, and decode() gives such frames their exact times back.
    """
    offsets = (ticks - ticks[0]).astype(np.float64)
    for rate in candidates:
        step = float(1 / (rate * time_base))
        if step < 1:
            continue
        places = np.rint(offsets / step)
        on_grid = np.abs(offsets - places * step).max() <= 1.001
        if on_grid and len(ticks) >= 0.9 * (places[-1] + 1) and (np.diff(places) >= 1).all():
            return rate
    return None


def _exact(rate: Fraction) -> Fraction:
    """The standard rate that a header value is a rounding of (Matroska readers give 19001/317 for 60000/1001)."""
    return next((standard for standard in STANDARD_RATES if abs(standard / rate - 1) < Fraction(1, 10**6)), rate)


def _usual_rate(ticks: Any, time_base: Fraction, candidates: Sequence[Any]) -> Fraction:
    """The rate that a variable-rate video mostly runs at: from the median step, moved to a standard rate within 2 %."""
    if len(ticks) < 2:
        return Fraction(candidates[0]) if candidates else Fraction(24)
    rate = 1 / (Fraction(float(np.median(np.diff(ticks)))) * time_base)
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard / rate - 1))
    return nearest if abs(nearest / rate - 1) < Fraction(1, 50) else rate.limit_denominator(1001)


def color_of(frame: Any, siting: str) -> Color:
    """The colour description of a decoded PyAV frame whose chroma is at ``siting``."""
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    return Color(
        matrix=MATRICES.get(int(frame.colorspace), "unknown"),
        primaries=PRIMARIES.get(int(frame.color_primaries), "unknown"),
        transfer=TRANSFERS.get(int(frame.color_trc), "unknown"),
        full_range=full,
        chroma_location=siting,
    )


def _choose(container: Any, path: Path, index: int | None) -> Any:
    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if index is not None:
        moving = [s for s in container.streams.video if s.index == index]
    if not moving:
        raise InputError(f"{path}: holds no video stream{'' if index is None else f' with index {index}'}")
    if moving[0].codec_context is None:
        raise InputError(f"{path}: its video is in a codec that this build of PyAV cannot decode")
    return moving[0]


def _scan(container: Any, video: Any) -> tuple[array[int], int, str]:
    """(timestamps of all pictures, duration of the last, what stopped the scan).

    The second field of a picture and the frames of AVI-like files carry no pts: where some packets have one, those
    are the pictures; where none has, decoding order has to do.
    """
    shown, undated = array("q"), array("q")  # eight bytes a frame: a day of video still fits
    latest: dict[bool, tuple[int, int]] = {}
    damage = ""
    try:
        for packet in container.demux(video):
            stamp = packet.dts if packet.pts is None else packet.pts
            if packet.size and not packet.is_discard and stamp is not None:
                dated = packet.pts is not None
                (shown if dated else undated).append(stamp)
                latest[dated] = max(latest.get(dated, (stamp, 0)), (stamp, packet.duration or 0))
    except av.error.FFmpegError as error:
        damage = f"{error.strerror} after {len(shown or undated)} frames"
    return shown or undated, latest[bool(shown)][1] if latest else 0, damage


def _first_frame(path: Path, index: int) -> Any:
    with open_container(path) as container:
        video = container.streams[index]
        decoder = video_decoder(video)
        trouble = "it decodes to zero frames"
        try:
            for packet in container.demux(video):
                try:
                    for frame in decoder.decode(packet):
                        return frame
                except av.error.FFmpegError as error:
                    trouble = f"its first frames are damaged: {error.strerror}"
        except av.error.FFmpegError as error:
            trouble = f"damaged: {error.strerror}"
    raise InputError(f"{path}: {trouble}")


def _siting(path: Path, index: int) -> str | None:
    """The chroma location that the stream is tagged with: ffmpeg tells it, PyAV does not."""
    said = run("-v", "verbose", "-i", str(path.absolute())).stderr
    found = re.search(rf"Stream #0:{index}\b.*Video:.*[ (]({'|'.join(SITING)})\)", said)
    return found[1] if found else None


def _side_data(frame: Any) -> list[Any]:
    """What comes along with a decoded frame; nothing where PyAV does not know one of its kinds (EXIF, as of 18)."""
    try:
        return list(frame.side_data)
    except ValueError:
        return []


def _mastering(frame: Any) -> str:
    """HDR10 static metadata (SMPTE ST 2086, CTA-861.3) of a decoded frame, as x265 parameters."""
    said = []
    for data in _side_data(frame):
        if data.type.name == "MASTERING_DISPLAY_METADATA":
            numbers = struct.unpack("22i", bytes(data))  # ten rationals and two flags
            values = [Fraction(n, d or 1) for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
            red, green, blue, white = ([round(v * 50000) for v in values[k : k + 2]] for k in (0, 2, 4, 6))
            low, high = (round(v * 10000) for v in values[8:10])
            points = "".join(f"{name}({x},{y})" for name, (x, y) in
                             (("G", green), ("B", blue), ("R", red), ("WP", white)))  # fmt: skip
            said.append(f"master-display={points}L({high},{low})")
        elif data.type.name == "CONTENT_LIGHT_LEVEL":
            said.append("max-cll={},{}".format(*struct.unpack("2I", bytes(data)[:8])))
    return ":".join(said)


def _describe(stream: Any) -> Stream:
    return Stream(
        index=stream.index,
        kind=stream.type,
        codec=stream.codec_context.name if stream.codec_context else "none",
        language=stream.metadata.get("language", ""),
        start=None if stream.start_time is None else stream.start_time * Fraction(stream.time_base),
    )

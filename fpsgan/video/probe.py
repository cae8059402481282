"""What a file really is: what the header claims, kept apart from what its packets say.

``probe`` reads every packet once, without decoding, so frame count, rate, variable timing and gaps are measured, not
taken on trust.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from array import array
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import av.logging
import numpy as np

from fpsgan.errors import InputError
from fpsgan.video import fields
from fpsgan.video.clock import Piece, Presentation, Track, join
from fpsgan.video.container import open_container, scan, video_decoder
from fpsgan.video.ffmpeg import run
from fpsgan.video.frame import MATRICES, PRIMARIES, SITING, TRANSFERS, Color, Orientation, PixelFormat
from fpsgan.video.photo import KINDS, kind_of, read_frame

__all__ = ["Damage", "Stream", "VideoInfo", "constant_rate", "orientation_of", "probe"]

STANDARD_RATES = [
    *(Fraction(n) for n in (24, 25, 30, 48, 50, 60, 100, 120, 240, 12, 15)),
    *(Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)),
]
FASTEST = Fraction(480)  # frames per second
HEADED = {"mov", "matroska", "flv", "asf"}  # containers whose header usually gives the duration
PAUSE, PAUSES = 8, 2  # frames that are missing in a pause at least, and pauses that a constant rate may have
_SURROGATE = re.compile("[\udc80-\udcff]")  # a byte that was not UTF-8 (PEP 383)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream that is not the chosen video: audio, subtitle, attachment, data, or another video.

    ``start``: when its first packet is presented, in seconds of the file; None if it has none. ``length``: of all its
    packets, including those that an edit list hides, in seconds. ``damaged``: times of packets flagged as corrupt, in
    seconds from ``VideoInfo.origin``. ``retold``: see ``VideoInfo``.
    """

    index: int
    kind: str
    codec: str
    language: str = ""
    start: Fraction | None = None
    length: Fraction = Fraction(0)
    damaged: tuple[Fraction, ...] = ()
    retold: tuple[tuple[str, str], ...] = ()


class Damage(NamedTuple):
    """Something that is missing or damaged: ``what``, and from when on, in seconds from ``VideoInfo.origin`` (None:
    unknown)."""

    what: str
    when: Fraction | None

    def __str__(self) -> str:
        return self.what if self.when is None else f"{self.what} at {float(self.when):.3f} s"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A source, probed. Times in seconds.

    Measured, from packets and the first frame: ``frame_rate`` (the constant rate, or the usual rate of a variable
    one), ``vfr``, ``frame_count`` (pictures that are shown), ``start`` (first pts), ``duration`` (first pts to the end
    of the last frame), ``damage`` (what is damaged or missing), ``notes`` (what else the user should know), and
    everything about the picture. ``width`` and ``height`` are as displayed, after ``rotation`` (degrees
    counter-clockwise, 0, 90, 180 or 270) and then ``mirrored``; ``siting`` is the chroma location before that.
    ``mastering``: HDR10's static metadata as x265 parameters, "" for none. ``coded`` is the size (width, height) in the
    file, ``pixel_format`` ffmpeg's name of its format. ``origin`` is the earliest time in the file, which players take
    as zero; ``presentation`` has the time of each picture, in ``time_base`` of the file's own clock.
    Claimed by the header, perhaps wrongly: ``header_frames`` (0: unknown).
    ``retold`` has, in Unicode, those of the file's tags that are not UTF-8; ``images`` lists the files if the source is
    a folder of photos, or one photo.
    ``scan`` is measured on decoded frames, ``interlaced`` the stream's flag; ``treatment`` is what fields.treated()
    chose, and ``frame_rate``, ``vfr``, ``frame_count`` and ``duration`` are then those after it.
    """

    path: Path
    stream: int
    codec: str
    width: int
    height: int
    sar: Fraction = Fraction(1)
    rotation: int = 0
    mirrored: bool = False
    format: PixelFormat
    color: Color
    interlaced: bool = False
    siting: str = "left"
    dolby_vision: bool = False
    mastering: str = ""
    time_base: Fraction
    frame_rate: Fraction
    vfr: bool = False
    frame_count: int
    start: Fraction = Fraction(0)
    duration: Fraction
    origin: Fraction = Fraction(0)
    coded: tuple[int, int]
    pixel_format: str
    presentation: Presentation = dataclasses.field(repr=False)
    damage: tuple[Damage, ...] = ()
    notes: tuple[str, ...] = ()
    header_frames: int = 0
    others: tuple[Stream, ...] = ()
    retold: dict[str, str] = dataclasses.field(default_factory=dict)
    images: tuple[Path, ...] = ()
    scan: fields.Scan = fields.PROGRESSIVE
    treatment: fields.Treatment | None = None

    @property
    def orientation(self) -> Orientation:
        return Orientation(self.rotation, self.mirrored)

    @property
    def audio(self) -> tuple[Stream, ...]:
        return tuple(stream for stream in self.others if stream.kind == "audio")


def probe(path: str | Path, *, stream: int | None = None, image_rate: Fraction = Fraction(24)) -> VideoInfo:
    """Describe the video in ``path``: a file, or a folder of images shown at ``image_rate``.

    ``stream`` is the index of the video stream in the file; by default the file's default stream, ignoring cover art.
    Reads all packets once and decodes one frame. Raises InputError for anything without pictures, and for pipes, which
    cannot be read twice.
    """
    path = Path(path)
    if (kind := kind_of(path)) != "video":
        return _probe_images(path, image_files(path) if kind == "folder" else (path,), image_rate)
    with av.logging.Capture() as said, open_container(path) as container:
        video = _choose(container, path, stream)
        index, codec, header_frames = video.index, video.codec_context.name, video.frames
        sar = Fraction(video.sample_aspect_ratio or 1)
        tracks, stopped = scan(container)
        time_base = Fraction(video.time_base)
        shown = join(tracks[index], [tracks[s.index] for s in container.streams.audio])
        rates = [_exact(Fraction(rate)) for rate in (video.average_rate, video.guessed_rate, video.base_rate) if rate]
        origin = _origin(container)
        others = tuple(
            _describe(other, tracks[other.index], origin) for other in container.streams if other is not video
        )
        announced = _announced(container, video, tracks)
        retold = _retold(container.metadata)
        unsaid = container.duration is None and bool(HEADED & set(container.format.name.split(",")))
    frame = _first_frame(path, index)
    ticks = np.array(shown.times or [0], np.int64)
    if not shown.times and rates:  # a raw stream: no stamps, one picture a packet
        ticks = np.arange(max(1, tracks[index].unstamped), dtype=np.int64) * round(1 / (rates[0] * time_base))
    span = int(ticks[-1] - ticks[0]) * time_base
    mean = [((len(ticks) - 1) / span).limit_denominator(1001)] if span else []
    mean = [some for some in mean if some]  # one absurd timestamp makes it zero
    rate = constant_rate(ticks, time_base, [*rates, *mean, *STANDARD_RATES])
    if frame.interlaced_frame and rate and rates and rate == 2 * rates[0]:  # each field has a packet of its own
        ticks, rate = ticks[::2], rates[0]
    vfr = rate is None
    rate = rate or _usual_rate(ticks, time_base, rates)
    start = int(ticks[0]) * time_base
    end = int(ticks[-1]) * time_base + (shown.last_duration * time_base if vfr and shown.last_duration else 1 / rate)
    damage = [Damage("damaged data", when - origin) for when in tracks[index].damaged]
    if stopped:
        damage.append(Damage(f"cannot be read further ({stopped})", end - origin))
    if announced is not None and announced - tracks[index].end > max(Fraction(5, 2) / rate, (end - start) / 100):
        damage.append(Damage(f"cut short: the file announces {float(announced - origin):.3f} s and ends", end - origin))
    # AVI leaves out frames on purpose, to repeat a picture
    holes = [] if vfr or tracks[index].counts_time else _holes(ticks, time_base, rate)
    if holes and said:  # pictures are missing, and the container is known to be broken
        damage += [Damage(f"{count} frames missing", when - origin) for when, count in holes]
        holes = []
    notes = _joints(shown, origin)
    if tracks[index].torn:
        notes.append("its last picture is torn: the file ends in the middle of it")
    if unsaid:
        notes.append("its header does not say how long it is: it may have been cut short")
    if said and not damage:
        notes.append(f"{said[0][1]} complains while the file is read: {' '.join(said[0][2].split())}")
    if holes:
        when, count = max(holes, key=lambda hole: hole[1])
        missing = sum(count for _, count in holes)
        notes.append(f"{missing} frames missing in its even rate, the most ({count}) at {float(when - origin):.3f} s")
    orientation = orientation_of(frame)
    turned = orientation.transposes
    try:
        form, siting = PixelFormat.of(frame.format.name), "left"
        if form.log2_w == 1:
            siting = _siting(path, index) or ("center" if frame.format.name.startswith("yuvj") else "left")
        format, color = orientation.described(form, color_of(frame, siting))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    info = VideoInfo(
        path=path,
        stream=index,
        codec=codec,
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        sar=1 / sar if turned else sar,
        rotation=orientation.rotation,
        mirrored=orientation.mirrored,
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
        coded=(frame.width, frame.height),
        pixel_format=frame.format.name,
        presentation=shown,
        damage=tuple(damage),
        notes=tuple(notes),
        header_frames=header_frames,
        others=others,
        retold=retold,
    )
    return dataclasses.replace(info, scan=fields.find(info, ticks))


def _probe_images(path: Path, images: tuple[Path, ...], rate: Fraction) -> VideoInfo:
    """A photo, or a folder of them. Raises InputError if none can be read; decode() reports single ones."""
    for image in images:
        try:
            frame = read_frame(image)
            break
        except InputError as error:
            trouble = error
    else:
        raise trouble
    numbers = array("q", range(len(images)))
    still = Piece(Fraction(0), (len(images) - 1) / rate, Fraction(0))
    return VideoInfo(
        path=path,
        stream=0,
        codec=images[0].suffix[1:].lower(),
        width=frame.width,
        height=frame.height,
        format=PixelFormat.of(frame.format.name),
        color=color_of(frame, "left"),
        time_base=1 / rate,
        frame_rate=rate,
        frame_count=len(images),
        duration=len(images) / rate,
        coded=(frame.width, frame.height),
        pixel_format=frame.format.name,
        presentation=Presentation(numbers, numbers, 1, (still,), dated=True, decode_times=False),
        images=images,
    )


def _retold(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that are not UTF-8, in Unicode: assumed to be Windows-1252, which was common."""
    return {key: _readable(value) for key, value in metadata.items() if value != _readable(value)}


def _readable(text: str) -> str:
    """A tag as `open_container` reads it, in Unicode."""
    return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace") if _SURROGATE.search(text) else text


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in natural order (2 before 10). Raises InputError if there are none."""

    def natural(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]

    found = sorted((f for f in folder.iterdir() if f.suffix.lower() in KINDS), key=natural)
    if not found:
        raise InputError(f"{folder}: a folder without images ({', '.join(KINDS)})")
    return tuple(found)


def constant_rate(ticks: Any, time_base: Fraction, candidates: Sequence[Fraction]) -> Fraction | None:
    """The candidate rate on whose grid all timestamps lie to within one tick, with nine in ten places taken, not
    counting a pause or two; else None.

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
        steps = np.diff(places)
        pauses = steps[steps > PAUSE]
        taken = places[-1] + 1 - (pauses.sum() - len(pauses) if len(pauses) <= PAUSES else 0)
        if on_grid and len(ticks) >= 0.9 * taken and (steps >= 1).all():
            return rate
    return None


def _exact(rate: Fraction) -> Fraction:
    """The standard rate of which a header value is a rounding (Matroska readers give 19001/317 for 60000/1001)."""
    return next((standard for standard in STANDARD_RATES if abs(standard / rate - 1) < Fraction(1, 10**6)), rate)


def _usual_rate(ticks: Any, time_base: Fraction, candidates: Sequence[Any]) -> Fraction:
    """The usual rate of a variable-rate video: from the median step, or the standard rate within 2 % of that."""
    if len(ticks) < 2:
        return Fraction(candidates[0]) if candidates else Fraction(24)
    rate = 1 / (Fraction(float(np.median(np.diff(ticks)))) * time_base)
    if rate > FASTEST and candidates:  # a few pictures with damaged times say nothing about the rate
        return min(Fraction(candidates[0]), FASTEST)
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
    moving.sort(key=lambda s: not s.disposition & av.stream.Disposition.default)  # stable: else the first
    if index is not None:
        moving = [s for s in container.streams.video if s.index == index]
    if not moving:
        raise InputError(f"{path}: holds no video stream{'' if index is None else f' with index {index}'}")
    if moving[0].codec_context is None:
        raise InputError(f"{path}: its video is in a codec that this build of PyAV cannot decode")
    return moving[0]


def _origin(container: Any) -> Fraction:
    """The earliest time of all streams: libavformat rounds it to microseconds, here it is exact."""
    rounded = Fraction(container.start_time or 0, av.time_base)
    exact = [s.start_time * Fraction(s.time_base) for s in container.streams if s.start_time is not None]
    return min((time for time in exact if abs(time - rounded) * av.time_base <= 1), default=rounded)


def _announced(container: Any, video: Any, tracks: dict[int, Track]) -> Fraction | None:
    """When the video ends according to the header, by the file's clock; None if it does not say.

    MPEG streams have no such header: there libavformat reports the last timestamps.
    """
    if tracks[video.index].no_header:
        return None
    if tracks[video.index].counts_time and video.average_rate:
        return Fraction(video.frames) / Fraction(video.average_rate)
    if video.duration is not None:
        begin = 0 if container.format.name == "asf" else video.start_time or 0  # ASF's duration counts from zero
        return Fraction(begin + video.duration) * Fraction(video.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", video.metadata.get("DURATION", ""))
    if clock:  # Matroska's, of this stream
        return Fraction(clock[1]) * 3600 + Fraction(clock[2]) * 60 + Fraction(clock[3])
    if container.duration is None:
        return None
    # of the longest stream: the video ends as long before that as by the last packets
    whole = Fraction(container.duration, av.time_base)  # at least: some count from the first time, others from zero
    longest = max(track.end for track in tracks.values())
    return tracks[video.index].end + max(whole - longest, Fraction(0))


def _holes(ticks: Any, time_base: Fraction, rate: Fraction) -> list[tuple[Fraction, int]]:
    """Gaps in a constant rate: (time of the first missing picture, how many)."""
    places = np.rint((ticks - ticks[0]) * float(time_base * rate)).astype(np.int64)
    jumps = np.flatnonzero(np.diff(places) > 1)
    return [(ticks[0] * time_base + (int(places[k]) + 1) / rate, int(places[k + 1] - places[k]) - 1) for k in jumps]


def _joints(shown: Presentation, origin: Fraction) -> list[str]:
    joints = [
        f"its clock goes from {float(before.last - origin):.3f} s to {float(after.first - origin):.3f} s"
        for before, after in zip(shown.pieces, shown.pieces[1:], strict=False)
    ]
    if not joints:
        return []
    more = f", and {len(joints) - 1} more" if len(joints) > 1 else ""
    return [f"{len(joints) + 1} recordings joined ({joints[0]}{more}): put end to end, picture and sound"]


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
    """The chroma location in the stream's tags: ffmpeg prints it, PyAV does not have it."""
    said = run("-v", "verbose", "-i", str(path.absolute())).stderr
    found = re.search(rf"Stream #0:{index}\b.*Video:.*[ (]({'|'.join(SITING)})\)", said)
    return found[1] if found else None


def _side_data(frame: Any) -> list[Any]:
    """The side data of a decoded frame; none if PyAV does not know one of its kinds (EXIF, as of 18)."""
    try:
        return list(frame.side_data)
    except ValueError:
        return []


def orientation_of(frame: Any) -> Orientation:
    """Of a decoded frame. PyAV's ``frame.rotation``, which takes a mirrored picture for one rotated by 180 degrees, is
    the fallback if PyAV cannot list the side data."""
    found = (struct.unpack("9i", bytes(data)) for data in _side_data(frame) if data.type.name == "DISPLAYMATRIX")
    turned = int(frame.rotation) % 360 if frame.rotation % 90 == 0 else 0
    return next((Orientation.of(matrix) for matrix in found), Orientation(turned))


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


def _describe(stream: Any, track: Track, origin: Fraction) -> Stream:
    return Stream(
        index=stream.index,
        kind=stream.type,
        codec=stream.codec_context.name if stream.codec_context else "none",
        language=_readable(stream.metadata.get("language", "")),
        start=track.start,
        length=track.length,
        damaged=tuple(when - origin for when in track.damaged),
        retold=tuple(_retold(stream.metadata).items()),
    )

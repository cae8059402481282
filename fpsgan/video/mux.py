"""Join a job's segments, add the other streams of the source, and verify the file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import ffmpeg

from fpsgan.errors import InputError, OutputError
from fpsgan.video.codecs import CODECS
from fpsgan.video.container import open_container
from fpsgan.video.encode import Plan, failure
from fpsgan.video.ffmpeg import FfmpegPipe, command_of
from fpsgan.video.files import PART
from fpsgan.video.streams import DISCARD, LETTERS

__all__ = ["Muxed", "mux"]

REORDERED = 64  # packets at the beginning that include the first picture shown
SEARCHED = 5  # seconds after its expected time up to which a packet of sound is searched for
CARRIER = "carrier"  # placeholder for its path


class Muxed(NamedTuple):
    """The finished output, still to be renamed (`files.publish`). ``first`` and ``last``: the times of its first and
    last picture, in seconds."""

    plan: Plan
    part: Path
    frames: int
    first: Fraction
    last: Fraction

    def sound_offsets(self) -> tuple[Fraction, Fraction] | None:
        """Seconds from the first packet of copied sound to the first picture, in the source and in the output; None if
        no sound is copied."""
        copied = [stream for stream, action in self.plan.streams if stream.kind == "audio" and action == "copy"]
        if not copied:
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
        found: list[Fraction] = []  # silence has many identical packets: the best match counts
        # damage after the beginning of the source has been reported already
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


def mux(
    plan: Plan, segments: Sequence[Path], place: Path, *, limit: Fraction | None = None, trial: bool = False
) -> Muxed:
    """Join the pictures of ``segments``, in order, and add the other streams, into a file in ``place``.

    ``limit``: how many seconds of the source's other streams to take (None: all). Except for a ``trial``, the file is
    read back: every picture and every stream must be there. The segments stay as they are. Raises OutputError.
    """
    if plan.muxer == "image2":
        return _images(plan, segments, place)
    part = place / f"{PART}-{os.getpid()}{plan.target.suffix}"
    ticks = [_ticks(plan, segment) for segment in segments]
    pipe = FfmpegPipe(_command(plan, part, limit, trial), lambda said: failure(plan, said))
    try:
        _send(plan, segments, ticks, pipe)
    except BaseException:
        pipe.abort()
        raise
    pipe.finish()
    first, last = min(map(min, ticks)) * plan.time_base, max(map(max, ticks)) * plan.time_base
    muxed = Muxed(plan, part, sum(map(len, ticks)), first, last)
    if not trial:
        _verify(muxed)
    return muxed


def _images(plan: Plan, segments: Sequence[Path], place: Path) -> Muxed:
    part = place / f"{PART}-{os.getpid()}{plan.target.suffix}"
    pictures = [picture for segment in segments for picture in sorted(segment.iterdir())]
    if plan.target.suffix:
        shutil.copyfile(pictures[0], part)
    else:  # a folder of numbered images
        part.mkdir(exist_ok=True)
        for number, picture in enumerate(pictures, 1):
            name = part / f"{number:06}{picture.suffix}"
            try:
                os.link(picture, name)
            except OSError:  # not on this file system
                shutil.copyfile(picture, name)
    rate = plan.rate or plan.info.frame_rate
    return Muxed(plan, part, len(pictures), Fraction(0), (len(pictures) - 1) / rate)


def _ticks(plan: Plan, segment: Path) -> list[int]:
    """The times of the pictures of a segment, in decoding order, in ticks of the plan."""
    with open_container(segment) as container:
        video = container.streams.video[0]
        factor = Fraction(video.time_base) / plan.time_base
        return [round(packet.pts * factor) for packet in container.demux(video) if packet.size]


def _send(plan: Plan, segments: Sequence[Path], ticks: Sequence[list[int]], pipe: FfmpegPipe) -> None:
    """Send every packet of the segments, in decoding order."""
    track: Any = None
    ranks = [{tick: rank for rank, tick in enumerate(sorted(part))} for part in ticks]
    # by how many pictures decoding is ahead of display, and therefore begins before the first picture is shown
    delay = max(k - rank[tick] for part, rank in zip(ticks, ranks, strict=True) for k, tick in enumerate(part))
    shown = [tick for rank in ranks for tick in rank]
    decoded = iter([*range(shown[0] - delay, shown[0]), *shown])
    for segment, part in zip(segments, ticks, strict=True):
        with open_container(segment) as container:
            video = container.streams.video[0]
            if track is None:
                track, header = pipe.add_copy(video, plan.time_base), video.codec_context.extradata
            elif video.codec_context.extradata != header:
                raise OutputError(f"{plan.target}: its parts were encoded by different encoders; start it over")
            packets = (packet for packet in container.demux(video) if packet.size)
            for packet, tick in zip(packets, part, strict=True):
                packet.time_base, packet.pts, packet.dts = plan.time_base, tick, next(decoded)
                packet.stream = track
                pipe.write(packet)


def _verify(muxed: Muxed) -> None:
    """Read the finished file back: every picture must be there, and every stream planned."""
    plan = muxed.plan
    if plan.muxer == "webp":
        return  # libavformat reads no animated WebP
    try:
        with open_container(muxed.part) as container:
            kinds = [s.type for s in container.streams]
            video = container.streams.video[0]
            stamps = [p.dts if p.pts is None else p.pts for p in container.demux(video) if p.size]
            length = (max(stamps, default=0) - min(stamps, default=0)) * Fraction(video.time_base or 0)
    except (InputError, av.error.FFmpegError) as error:
        raise OutputError(f"{plan.target}: what ffmpeg wrote cannot be read back ({error})") from error
    if len(stamps) != muxed.frames:
        raise OutputError(f"{plan.target}: {muxed.frames} frames were made but {len(stamps)} are in its file")
    if plan.rate and abs(length - (muxed.frames - 1) / plan.rate) > 1 / plan.rate / 2:
        raise OutputError(f"{plan.target}: came out {float(length):.3f} s long instead of {muxed.frames} frames")
    expected = 1 + len(plan.streams)
    streams = sum(kind in ("video", "audio", "subtitle", "attachment") for kind in kinds)
    if streams != expected:
        raise OutputError(f"{plan.target}: {expected} streams were planned but {streams} are in the file")


def _command(plan: Plan, part: Path, limit: Fraction | None, trial: bool) -> list[str]:
    info, encoder = plan.info, CODECS[plan.codec][0]
    video: Any = ffmpeg.input("pipe:0", format="nut")
    tags = plan.color_tags  # NUT does not know them
    settings: dict[str, Any] = {"c:v": "copy", "color_range": tags["range"], **tags}
    del settings["range"]
    rate = plan.rate or info.frame_rate  # nor the durations of pictures, which matter for the last one
    settings["bsf:v"] = f"setts=pts=PTS:dts=DTS:duration={rate.denominator}/({rate.numerator}*TB)"
    if plan.late:
        _, quality_flag, _, extra = CODECS[plan.codec]
        settings = {"c:v": encoder, **extra, "fps_mode": "passthrough"}
        video = video.filter("setparams", **tags)
        if plan.codec == "gif":
            palette = video.split()
            colors = palette[0].filter("palettegen", stats_mode="single")
            video = ffmpeg.filter([palette[1], colors], "paletteuse", new=1)
        if plan.codec == "prores" and (plan.format.alpha or plan.format.log2_w == 0):
            settings["profile:v"] = "4444"
        if plan.quality is not None and quality_flag:
            settings[quality_flag] = plan.quality
        settings["enc_time_base"] = f"{plan.time_base.numerator}:{plan.time_base.denominator}"
    if plan.muxer == "avi":
        settings["r"] = str(1 / plan.time_base)
    if plan.format.family == "yuv" and plan.format.log2_w == 1:
        settings["chroma_sample_location"] = plan.color.chroma_location
    streams = [video]
    retold = [word for key, value in info.retold.items() for word in ("-metadata", f"{key}={value}")]
    if plan.streams or (not info.images and plan.muxer not in ("gif", "webp")):
        carrier = plan.carrier
        seek = {"ss": seconds(carrier.start)} if carrier.start else {}
        # A trial limits the input: ffmpeg may wait forever for sound that jumps past the end of an output.
        length = {} if not trial or limit is None else {"t": seconds(limit)}
        source = ffmpeg.input(CARRIER, itsoffset=seconds(carrier.shift), fflags=DISCARD, **seek, **length)
        counts = dict.fromkeys(LETTERS, 0)
        for stream, action in plan.streams:
            index, letter, number = carrier.index(stream), LETTERS[stream.kind], counts[stream.kind]
            counts[stream.kind] += 1
            taken = source[str(index)]
            if stream.kind == "audio" and action != "copy":
                taken = _stretched(taken, plan.slowmo)
                if plan.muxer == "avi":  # has no timestamps: silence before late sound, and in gaps
                    taken = taken.filter("aresample", **{"async": 1, "first_pts": 0})
            streams.append(taken)
            settings[f"c:{letter}:{number}"] = action
            settings[f"map_metadata:s:{letter}:{number}"] = f"1:s:{index}"
            for key, value in stream.retold:
                retold += [f"-metadata:s:{letter}:{number}", f"{key}={value}"]
            if stream.kind == "audio" and action != "copy":
                settings[f"b:a:{number}"] = "192k"
        if not plan.streams:
            streams.append(source["999?"])  # no stream: the input is only for its metadata and chapters
        # chapters would point to the wrong places in slow motion or after a cut-off beginning
        chapters = plan.slowmo == 1 and not carrier.start and plan.muxer != "avi"
        settings["map_chapters"] = 1 if chapters else -1
        settings["map_metadata"] = 1
        if carrier.indices is None:
            settings["map_metadata:s:v:0"] = f"1:s:{info.stream}"
        settings["strict"] = "experimental"
        if carrier.start:  # -ss seeks to a keyframe of the video: drop the sound from there to the start
            settings["copypriorss"] = 0
    opus = all((s.codec, a) == ("opus", "copy") for s, a in plan.streams if s.kind == "audio")
    if limit is not None and not trial:
        settings["t"] = seconds(limit * plan.slowmo)
    if plan.muxer == "avi" or (plan.muxer in ("matroska", "webm") and opus):
        # Sound may begin before zero, with samples that are only there to be decoded (priming). To shift everything by
        # them, as ffmpeg does by default, delays the picture in AVI, which has no timestamps, and with Opus, whose
        # CodecDelay these muxers handle themselves.
        settings["avoid_negative_ts"] = "disabled"
    if plan.muxer in ("mp4", "mov"):
        settings |= {"movflags": "+faststart", "video_track_timescale": plan.time_base.denominator}
        settings["movie_timescale"] = 90000  # the unit of a late start; ffmpeg's default is a millisecond
        if plan.codec.startswith("hevc"):
            settings["tag:v"] = "hvc1"
    graph = ffmpeg.output(*streams, PART, format=plan.muxer, **settings)
    # resolved, since /dev/stdin is another file to ffmpeg
    command = command_of(graph, {CARRIER: str(plan.carrier.path.resolve()), PART: str(part)})
    position = command.index(str(part))
    return [*command[:position], *retold, *command[position:]]  # ffmpeg-python takes every option only once


def _stretched(audio: Any, slowmo: Fraction) -> Any:
    # atempo keeps the pitch; one pass slows down to half speed at most
    factor = Fraction(1) / slowmo
    while factor < Fraction(1, 2):
        audio, factor = audio.filter("atempo", 0.5), factor * 2
    return audio.filter("atempo", float(factor)) if factor != 1 else audio


def seconds(time: Fraction) -> str:
    """For ffmpeg, to the microsecond."""
    return f"{float(time):.6f}"

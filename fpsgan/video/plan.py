"""How the output will be written: decided, and tried out, before the long work begins."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np

from fpsgan.errors import OptionError, OutputError, SetupError
from fpsgan.video.codecs import CODECS, CONTAINERS, EncodeOptions, choose_format
from fpsgan.video.encode import Encoder, Plan
from fpsgan.video.ffmpeg import encoder_formats, encoders, ffmpeg_path, ffmpeg_version
from fpsgan.video.files import PART
from fpsgan.video.frame import Color, Frame
from fpsgan.video.mux import mux
from fpsgan.video.probe import VideoInfo
from fpsgan.video.streams import carry, settle_streams

__all__ = ["plan_output"]


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
    """Choose codec, pixel format and streams for ``target``, and try them: copy all of the other streams once, encode
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
    format = choose_format(info.format, encoder_formats(encoder), options.pix_fmt, encoder)
    color = info.color
    if format.family == "rgb":
        color = dataclasses.replace(color, matrix="gbr", full_range=True)
    elif info.format.family == "rgb":
        color = Color("bt709", "bt709", "iec61966-2-1")
    if codec == "jpg":  # the only one that JFIF has
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
    streams, said = settle_streams(info, carrier, muxer, audio_codec, text_codec, slowmo, place)
    plan = Plan(
        info, target, muxer, codec, format, color, width, height, rate, slowmo,
        CODECS[codec][2] if options.quality is None else options.quality, streams, carrier, (*notes, *said),
    )  # fmt: skip
    _try(plan, place)
    return plan


def _try(plan: Plan, place: Path) -> None:
    """Encode two grey frames with the plan's own settings, and mux them with the beginning of its streams."""
    rate = plan.rate or plan.info.frame_rate
    grey = tuple(
        np.full(plan.format.plane_shape(k, plan.width, plan.height), 1 << (plan.format.depth - 1), plan.format.dtype)
        for k in range(plan.format.planes)
    )
    with Encoder(plan, place / plan.segment_name(f"{PART}-trial")) as encoder:
        for k in range(1 if plan.muxer == "image2" else 2):
            encoder.write(Frame(grey, plan.format, plan.color, k / rate, 1 / rate))
    mux(plan, [encoder.path], place, limit=max(Fraction(1, 2), 3 / rate), trial=True)

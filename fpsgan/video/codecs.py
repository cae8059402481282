"""What can be written: codecs, containers, and the pixel format that an encoder takes."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from fpsgan.errors import OptionError
from fpsgan.video.frame import PixelFormat

__all__ = [
    "CODECS", "CONTAINERS", "HARDWARE", "PIPED", "UPLOADED", "UPLOADING", "EncodeOptions", "choose_format"
]  # fmt: skip

# codec → (ffmpeg's encoder, flags that set the quality, their default, other options)
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
    "h264_qsv": ("h264_qsv", "global_quality", 19, {"preset": "slow"}),
    "hevc_qsv": ("hevc_qsv", "global_quality", 21, {"preset": "slow"}),
    "av1_qsv": ("av1_qsv", "global_quality", 26, {"preset": "slow"}),
    "h264_vaapi": ("h264_vaapi", "global_quality", 19, {"rc_mode": "CQP"}),
    "hevc_vaapi": ("hevc_vaapi", "global_quality", 21, {"rc_mode": "CQP"}),
    "av1_vaapi": ("av1_vaapi", "global_quality", 100, {"rc_mode": "CQP"}),
    "h264_amf": ("h264_amf", "qp_i qp_p", 19, {"quality": "quality", "rc": "cqp"}),
    "hevc_amf": ("hevc_amf", "qp_i qp_p", 21, {"quality": "quality", "rc": "cqp"}),
    "av1_amf": ("av1_amf", "qp_i qp_p", 100, {"quality": "quality", "rc": "cqp"}),
    "h264_videotoolbox": ("h264_videotoolbox", "q:v", 65, {}),
    "hevc_videotoolbox": ("hevc_videotoolbox", "q:v", 65, {}),
    "gif": ("gif", "", None, {}),
    "webp": ("libwebp_anim", "quality", 90, {"loop": 0}),
    "png": ("png", "", None, {}),
    "jpg": ("mjpeg", "qscale:v", 2, {}),
}

HARDWARE = ("nvenc", "qsv", "vaapi", "amf", "videotoolbox")  # suffixes of the names of hardware codecs
UPLOADED = {"vaapi": ("nv12", "p010le")}  # encoders that take hardware surfaces: the formats to upload, 8 and 10 bits
UPLOADING = {"vaapi": ("-init_hw_device", "vaapi=chip", "-filter_hw_device", "chip")}  # ffmpeg's flags for that

# suffix → (ffmpeg's muxer, default video codec, audio and text codecs for streams that cannot be copied)
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

PIPED = ("matroska", "nut", "yuv4mpegpipe")  # containers for raw pictures in a pipe


@dataclasses.dataclass(frozen=True)
class EncodeOptions:
    """What the user may choose for the output. ``codec`` "auto": what suits the container and the bit depth.
    ``quality``: on the encoder's own scale (CRF for most, smaller is better; for webp and videotoolbox larger is; AV1
    by vaapi and amf goes to 255), None for our default. ``pix_fmt``: None keeps the source's, or the nearest that the
    encoder takes."""

    codec: str = "auto"
    quality: int | None = None
    pix_fmt: str | None = None


def choose_format(source: PixelFormat, offered: tuple[str, ...], wanted: str | None, encoder: str) -> PixelFormat:
    """The pixel format to encode: the wanted one, the source's own, or the nearest that loses least."""
    usable: dict[str, PixelFormat] = {}
    for name in (own for kind in offered for own in UPLOADED.get(kind, (kind,))):
        with contextlib.suppress(ValueError, KeyError):  # hardware surfaces are not pixel formats
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

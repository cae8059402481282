"""Media files opened with PyAV: containers, decoders, and a scan of all packets."""

from __future__ import annotations

import io
import logging
import stat
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging
import cv2
from av.codec.hwaccel import HWAccel

from fpsgan.errors import InputError
from fpsgan.video.clock import Track
from fpsgan.video.hardware import NATIVE

__all__ = ["NUT_TICK", "open_container", "scan", "video_decoder"]

NUT_TICK = Fraction(1, 48000)  # the muxer changes a coarser time base behind PyAV's back

# libav's log is for av.logging.Capture alone. Logging takes the GIL: a decoder with threads of its own, closed while
# they log, would deadlock (hence one thread in `video_decoder`).
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())
logging.getLogger("libav").propagate = False


def open_container(path: Path) -> Any:
    """Open a media file with PyAV. Raises InputError if that fails."""
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            raise InputError(
                f"{path}: is {'a folder' if stat.S_ISDIR(kind) else 'a pipe or a device'}, which cannot be read twice; "
                "save it to a file first, or use `fpsgan stream`"
            )
        if path.suffix.lower() == ".webp" and b"ANIM" in path.read_bytes()[:64]:
            return av.open(_animated_webp(path))
        # absolute: "12:30.mp4" must not be taken for a protocol; tags that are not UTF-8 keep their bytes
        return av.open(str(path.absolute()), metadata_errors="surrogateescape")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: not a video that can be read ({reason})") from error


def _animated_webp(path: Path) -> io.BytesIO:
    """An animated WebP, which libavformat does not read, as raw video in NUT: OpenCV decodes all of it."""
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


def video_decoder(video: Any, hardware: HWAccel | None = None) -> Any:
    """The decoder for a stream: its own, or libvpx where a VP8/VP9 stream carries an alpha plane that only it reads.

    With ``hardware`` that device decodes; av.error.FFmpegError is raised if it does not open. The decoder runs in the
    calling thread, so that `av.logging.Capture` gets its log.
    """
    decoder: Any = video.codec_context
    alpha_decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(decoder.name)
    if video.metadata.get("alpha_mode") == "1" and alpha_decoder in av.codecs_available:
        decoder = av.CodecContext.create(alpha_decoder, "r")
    elif hardware is not None:
        decoder = av.CodecContext.create(NATIVE.get(decoder.name, decoder.name), "r", hardware)
        own = video.codec_context
        decoder.extradata, decoder.reorder_depth = own.extradata, own.reorder_depth
        decoder.width, decoder.height = own.width, own.height
    decoder.thread_count = 1
    return decoder


def scan(container: Any) -> tuple[dict[int, Track], str]:
    """Read all packets of a PyAV container: (the track of each stream, the error that stopped it, "" if none did)."""
    tracks = {s.index: Track(Fraction(s.time_base or 1), container.format.name) for s in container.streams}
    try:
        for packet in container.demux():
            if packet.stream_index in tracks:  # in MPEG streams, new ones may appear midway
                tracks[packet.stream_index].add(packet)
    except av.error.FFmpegError as error:
        return tracks, str(error.strerror)
    finally:
        for track in tracks.values():
            track.finish()
    return tracks, ""

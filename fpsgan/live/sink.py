"""The output: pictures, sound and subtitles in one container, to standard output or to an ffmpeg that encodes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
from av.bitstream import BitStreamFilterContext

from fpsgan.errors import OutputError, check_choice
from fpsgan.live.source import Aside, Source
from fpsgan.video.codecs import PIPED, choose_format
from fpsgan.video.ffmpeg import FfmpegPipe, PacketPipe, container_codecs, encoder_formats, ffmpeg_path
from fpsgan.video.frame import MATRICES, PRIMARIES, TRANSFERS, Array, Frame, PixelFormat, code_point

__all__ = ["Sink"]

# ffmpeg's muxer, by the scheme of an address or the suffix of a file
MUXERS = {"udp": "mpegts", "tcp": "mpegts", "srt": "mpegts", "rist": "mpegts", "rtp": "rtp_mpegts", "rtsp": "rtsp",
          "rtmp": "flv", "rtmps": "flv"}  # fmt: skip
SUFFIXES = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".ts": "mpegts", ".flv": "flv"}
# Codecs that are copied into them. Other sound becomes AAC; other subtitles are left out, except text in MP4.
TRANSPORT = {"aac", "mp2", "mp3", "ac3", "eac3", "dts", "opus", "dvb_subtitle"}
COPIES = {
    "mpegts": TRANSPORT,
    "rtp_mpegts": TRANSPORT,
    "rtsp": {"aac", "opus", "mp3", "pcm_alaw", "pcm_mulaw"},
    "flv": {"aac", "mp3"},
    "mp4": {"aac", "mp2", "mp3", "ac3", "eac3", "opus", "flac", "alac"},
    "mov": {"aac", "mp2", "mp3", "ac3", "eac3", "alac"},
}
TEXT = {"subrip", "ass", "text", "webvtt", "mov_text"}
EARLIER = Fraction(1)  # seconds of sound before the first picture that are kept
PRIMING = Fraction(1, 10)  # and before the source's zero: encoders start with inaudible samples
BEHIND = 100  # ms by which a packet may be earlier than the one before it in its stream, to be delayed and kept


class _Way(NamedTuple):
    """How a stream is passed on: in our container as "copy", "text" (MP4's subtitles) or "pcm", and the codec in which
    ffmpeg, if there is one, writes it."""

    stream: Any
    carried: str
    codec: str


class Sink:
    """Opened at once, for pictures like ``first`` at ``rate`` frames per second, and the other streams of the source.

    Pictures are to be written in ``format`` and ``color``. Times are the source's, in seconds. Raises OutputError if
    ffmpeg fails, BrokenPipeError if the reader of standard output closes it.
    """

    def __init__(
        self, target: str, container: str, first: Frame, rate: Fraction, source: Source, note: Callable[[str], None]
    ) -> None:
        check_choice("--format", container, PIPED)
        self.target, self.format, self.color = target, first.format, first.color
        scheme = target.split("://")[0] if "://" in target else ""
        muxer = MUXERS.get(scheme, "") if scheme else SUFFIXES.get(Path(target).suffix.lower(), "")
        if target == "-":
            ways = _ways(source.others, container, container, note)
            self._pipe = PacketPipe(os.fdopen(os.dup(sys.stdout.fileno()), "wb"), container)
            if container == "matroska":
                for font in source.container.streams.attachments:
                    self._pipe.container.add_attachment(font.name or "", font.mimetype or "", font.data)
        else:
            container = "matroska"
            self.format = choose_format(first.format, encoder_formats("libx264"), None, "libx264")
            if muxer == "flv":  # its players support no other H.264
                self.format = PixelFormat.of("yuv420p")
            ways = _ways(source.others, container, muxer, note)
            self._pipe = self._started(muxer, ways, rate)
        if self.format != first.format:
            note(f"{first.format.name} becomes {self.format.name}: {muxer or 'H.264'} takes no other here")
        # Matroska counts in milliseconds
        self._tick = Fraction(1, 1000) if container == "matroska" else 1 / (rate * max(1, -(-90000 // rate.numerator)))
        if container == "yuv4mpegpipe":
            self._tick = 1 / rate
        if container == "nut" and source.sar != 1:
            note("nut does not hold that pixels are not square")
        self._pictures = self._pipe.add_pictures(
            first.width, first.height, self.format.name, self._tick, rate=rate, sar=source.sar
        )
        tags = self._pictures.codec_context
        tags.color_range = 2 if self.color.full_range else 1
        tags.colorspace = code_point(MATRICES, self.color.matrix)
        tags.color_primaries = code_point(PRIMARIES, self.color.primaries)
        tags.color_trc = code_point(TRANSFERS, self.color.transfer)
        self._tracks = {way.stream.index: _Track(way, self._pipe) for way in ways}
        earlier = Fraction(0)
        if not source.live and source.zero is not None:
            earlier = min(EARLIER, max(earlier, first.pts - source.zero))
        if any(way.stream.type == "audio" for way in ways):
            earlier += PRIMING
        self._zero = first.pts + earlier * rate // -1 / rate  # a whole number of outputs before the first one

    def write(self, planes: tuple[Array, ...], time: Fraction) -> None:
        self._pipe.write_picture(self._pictures, planes, round((time - self._zero) / self._tick))

    def write_aside(self, aside: Aside) -> None:
        track = self._tracks.get(aside.packet.stream_index)
        if track is not None and aside.time >= self._zero:
            for packet in track.packets(aside.packet, aside.time - self._zero):
                self._pipe.write(packet)

    @property
    def damaged(self) -> int:
        """Packets of sound that could not be decoded."""
        return sum(track.damaged for track in self._tracks.values())

    @property
    def left_out(self) -> int:
        """Packets that came far too late in their stream."""
        return sum(track.left_out for track in self._tracks.values())

    def finish(self) -> None:
        self._pipe.finish()

    def abort(self) -> None:
        self._pipe.abort()

    def _started(self, muxer: str, ways: list[_Way], rate: Fraction) -> FfmpegPipe:
        streams = [word for k, way in enumerate(ways, 1) for word in ("-map", f"0:{k}", f"-c:{k}", way.codec)]
        command = [
            ffmpeg_path(), "-v", "error", "-nostdin", "-y", "-analyzeduration", "0", "-copyts", "-f", "matroska",
            "-i", "pipe:0", "-map", "0:0", *streams,
            "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-crf", "20",
            "-g", str(max(1, round(2 * rate))), "-pix_fmt", self.format.name, "-fps_mode", "passthrough",
            "-enc_time_base:v", f"{rate.denominator}:{rate.numerator}",
            "-b:a", "192k", "-max_interleave_delta", "1",
            "-muxdelay", "0.05", "-muxpreload", "0", "-flush_packets", "1",
            *(["-f", muxer] if muxer else []), self.target,
        ]  # fmt: skip
        return FfmpegPipe(
            command, lambda said: OutputError(f"{self.target}: cannot be written to ({said[-300:]})"), "matroska"
        )


def _ways(streams: list[Any], container: str, muxer: str, note: Callable[[str], None]) -> list[_Way]:
    """How each stream is passed on, in ``container`` and from there in the format of ``muxer``."""
    held = container_codecs(container)
    copies = COPIES.get(muxer, held)
    ways: list[_Way] = []
    for stream in streams:
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else "none"
        name = f"{stream.type} stream {stream.index} ({codec})"
        heard = stream.type == "audio" and "pcm_s16le" in held and codec != "none"
        if muxer == "flv" and any(way.stream.type == "audio" for way in ways):
            heard = False
        if stream.type == "audio" and heard:
            # in a transport stream AAC has headers of its own (ADTS) instead of the extradata that a container needs
            carried = "copy" if codec in held and not (codec == "aac" and not stream.codec_context.extradata) else "pcm"
            ways.append(_Way(stream, carried, "copy" if carried == "copy" and codec in copies else "aac"))
        elif stream.type == "subtitle" and codec in TEXT and muxer in ("mp4", "mov"):
            ways.append(_Way(stream, "text" if codec == "mov_text" else "copy", "mov_text"))
        elif stream.type == "subtitle" and codec == "mov_text" and "subrip" in held & copies:
            ways.append(_Way(stream, "text", "copy"))
        elif stream.type == "subtitle" and codec in held & copies:
            ways.append(_Way(stream, "copy", "copy"))
        else:
            note(f"{name} is left out: {muxer or 'the output'} does not hold it")
    return ways


class _Track:
    """A stream other than the picture, with its conversion."""

    def __init__(self, way: _Way, pipe: PacketPipe) -> None:
        self.way, stream = way, way.stream
        if way.carried == "copy":
            self.track: Any = pipe.add_copy(stream, Fraction(1, 1000))
        elif way.carried == "text":
            self.track = pipe.container.add_mux_stream("srt")
            self._filter = BitStreamFilterContext("mov2textsub", stream)
        else:
            source = stream.codec_context
            self.track = pipe.container.add_stream("pcm_s16le", rate=source.sample_rate, layout=source.layout.name)
            self._resampler = av.AudioResampler("s16", source.layout, source.sample_rate)
        self.track.disposition = stream.disposition
        self.track.metadata.update({k: v for k, v in stream.metadata.items() if k in ("language", "title")})
        self._last: int | None = None
        self.damaged = self.left_out = 0

    def packets(self, packet: Any, time: Fraction) -> Iterator[Any]:
        """The packets to write for a packet of the source, ``time`` in seconds from zero."""
        if self.way.carried == "pcm":
            packet.pts = packet.dts = round(time / Fraction(packet.time_base))
            yield from self._as_pcm(packet)
            return
        base = Fraction(packet.time_base)
        for each in self._filter.filter(packet) if self.way.carried == "text" else [packet]:
            tick = round(time * 1000)
            if self._last is not None and tick <= self._last:
                if tick < self._last - BEHIND:
                    self.left_out += 1
                    return
                tick = self._last + 1
            self._last = tick
            if not each.size:
                continue
            each.duration = round((each.duration or 0) * base * 1000)
            each.time_base, each.pts, each.dts = Fraction(1, 1000), tick, tick
            each.stream = self.track
            yield each

    def _as_pcm(self, packet: Any) -> Iterator[Any]:
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            self.damaged += 1
            return
        for frame in frames:
            for samples in self._resampler.resample(frame):
                yield from self.track.encode(samples)

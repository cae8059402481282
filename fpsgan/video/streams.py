"""Sound, subtitles and attachments: where they are read from, and what becomes of each in the output's container."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import re
import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from fpsgan.errors import InputError
from fpsgan.video.clock import Clock
from fpsgan.video.container import open_container, scan
from fpsgan.video.ffmpeg import run
from fpsgan.video.files import PART
from fpsgan.video.probe import Stream, VideoInfo

__all__ = ["DISCARD", "LETTERS", "Carrier", "carry", "settle_streams"]

LATE = Fraction(1, 50)  # seconds by which sound may begin after the picture if the container cannot express that
UNEVEN = Fraction(1, 20)  # tolerance of the length of a copy of sound: so many seconds plus that share of its length
LETTERS = {"audio": "a", "subtitle": "s", "attachment": "t"}  # ffmpeg's, in the order of the output
DISCARD = "+discardcorrupt"  # packets flagged as corrupt stop some muxers
TEXT_SUBTITLES = {"srt", "subrip", "ass", "ssa", "mov_text", "webvtt", "text"}


@dataclasses.dataclass(frozen=True)
class Carrier:
    """The file from which the other streams are read: the source, or a copy of them.

    ``shift``: seconds to add to its times, so that zero is that of the output at normal speed; ``start``: seconds to
    skip at its beginning. ``indices``: the indices of the source's streams in it, if they differ.
    """

    path: Path
    shift: Fraction
    start: Fraction = Fraction(0)
    indices: dict[int, int] | None = None

    def index(self, stream: Stream) -> int:
        """The index in the file of a stream of the source."""
        return stream.index if self.indices is None else self.indices[stream.index]


def carry(info: VideoInfo, place: Path, start: Fraction, end: Fraction | None) -> Carrier:
    """The file from which to read the other streams. Those of a concatenated recording, whose clock ffmpeg would handle
    differently from `decode`, are copied into a file with one clock, except those that NUT cannot hold."""
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
    """Where each stream begins: (the number of its first piece, its first byte); sound may begin after the picture."""
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
    """The stream as opened by libavformat, with all parameters that a copy needs; None if they cannot be found.

    For sound that begins in a later piece they cannot be found at the beginning, but only from byte ``begin`` on.
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
        # sound that outlasts its picture overlaps the next piece, whose beginning is dropped
        if time >= end - lasts / 2:
            end = time + lasts
            packet.pts = packet.dts = round(time / time_base)
            packet.stream = track
            yield time, packet


def settle_streams(
    info: VideoInfo, carrier: Carrier, muxer: str, audio_codec: str, text_codec: str, slowmo: Fraction, place: Path
) -> tuple[tuple[tuple[Stream, str], ...], list[str]]:
    """What becomes of each stream besides the picture, and notes on it: copied if ``muxer`` takes it, else re-encoded,
    else left out. Copies are tried in full: one that fails midway must not do so after all the work.
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
    """The first warning of a decoder of these streams; "" if there is none, or no decoder."""
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
    """What can be done with a stream of a file that begins at ``start``, best first. Subtitles are not stretched."""
    if stream.kind == "audio" and stream.start is None:
        return []  # it is empty
    if stream.kind == "audio" and audio_codec:
        late = muxer == "avi" and stream.start is not None and stream.start > start + LATE  # AVI cannot express that
        return [audio_codec] if slowmo != 1 or late else ["copy", audio_codec]
    if stream.kind == "subtitle" and slowmo == 1 and text_codec:
        return ["copy", *([text_codec] if stream.codec in TEXT_SUBTITLES else [])]
    if stream.kind == "attachment" and muxer == "matroska":
        return ["copy"]
    return []


def _passes(carrier: Carrier, streams: dict[Stream, str], muxer: str, place: Path) -> bool:
    """Whether ``muxer`` takes these streams: tries copies in full, and the beginning of what is encoded."""
    if not streams:
        return True
    path = place / f"{PART}.trial"
    maps = [word for stream in streams for word in ("-map", f"0:{carrier.index(stream)}")]
    codecs = [word for k, way in enumerate(streams.values()) for word in (f"-c:{k}", way)]
    # not limited by seconds: where ffmpeg seeks to, and counts from, depends on the picture
    some = ["-frames:a", "50"] if "copy" not in streams.values() else []
    done = run(
        "-v", "error", "-y", "-fflags", DISCARD, "-i", str(carrier.path.absolute()), *maps, *codecs, *some,
        "-strict", "experimental", "-f", muxer, str(path), timeout=None,
    )  # fmt: skip
    if done.returncode != 0:
        return False
    # Some muxers write what nothing can read (Vorbis in MPEG-TS), or what has another length (Vorbis in AVI). With an
    # empty subtitle stream there may be no file at all.
    written = _sound_in(path)
    heard = [stream for stream in streams if stream.kind == "audio"]
    if len(written) != len(heard):
        return False
    if some:
        return True
    if any(codec != stream.codec for (codec, _), stream in zip(written, heard, strict=True)):
        return False  # the container has no name for it
    if carrier.indices is not None:
        return True
    pairs = zip(written, heard, strict=True)
    return all(s.damaged or abs(length - s.length) < UNEVEN * (1 + s.length) for (_, length), s in pairs)


def _sound_in(path: Path) -> list[tuple[str, Fraction]]:
    """(codec, length in seconds) of each stream of sound in a file; none if it cannot be read."""
    try:
        with open_container(path) as container:
            tracks, _ = scan(container)
            return [
                (s.codec_context.name if s.codec_context else "none", tracks[s.index].length)
                for s in container.streams.audio
            ]
    except InputError:
        return []

"""The input from a camera, the network, a pipe or a file: pictures, sound and subtitles."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error

from fpsgan.errors import InputError
from fpsgan.live.effort import Clock
from fpsgan.threads import prefetch
from fpsgan.video.decode import Fitter, frame_of
from fpsgan.video.frame import Frame, check_size
from fpsgan.video.probe import orientation_of

__all__ = ["Aside", "Source"]

# Schemes of sources that send whether or not anyone reads: they cannot wait.
LIVE = {"udp", "rtp", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "rist", "tcp"}
SILENT = 10.0  # seconds without a byte after which a live source is given up
# Seconds: a larger step from one picture to the next means that the clock was reset. Forward in a live source, forward
# in others (in a screen recording nothing may move for long), and back in either
JUMP, PAUSE, BACK = Fraction(5), Fraction(3600), Fraction(1, 2)
DAY = "86400"  # seconds: this timeout cannot be infinite
ASIDE = 2**27  # bytes of sound and subtitles that may wait for their pictures


class Aside(NamedTuple):
    """A packet of a stream other than the picture, and its time on the clock of the pictures, in seconds."""

    time: Fraction
    packet: Any


class Source:
    """Opened at once; ``frames`` reads it to its end. Raises InputError if it cannot be opened.

    ``live``: it does not wait for its reader. ``rate``: frames per second according to the container. ``others``: the
    PyAV streams of sound and subtitles; ``aside`` receives their packets, in the order read. ``zero``: the earliest
    time in it. ``damaged``, ``left_out``: packets that could not be decoded, and for which ``aside`` had no room.
    """

    def __init__(self, name: str, note: Callable[[str], None]) -> None:
        scheme = name.split("://")[0] if "://" in name else ""
        self.name, self.note = name, note
        self.live = scheme in LIVE or name.startswith("/dev/video")
        self.file = not scheme and not self.live and name != "-" and Path(name).is_file()
        # opening may block until there is a sender, and Ctrl-C only interrupts Python code: hence the thread
        opening = prefetch((_opened(name, self.live) for _ in range(1)), 1)
        self.container = next(opening)
        opening.close()
        moving = self.container.streams.best("video")
        if moving is None:
            self.container.close()
            raise InputError(f"{name}: holds no video stream")
        self.video: Any = moving
        self.video.codec_context.thread_type = "SLICE"  # frame threads would add a frame of delay each
        rate = self.video.average_rate or self.video.guessed_rate or 30
        self.rate = Fraction(rate).limit_denominator(1001)
        self.sar = Fraction(self.video.sample_aspect_ratio or 1)
        self.others = [*self.container.streams.audio, *self.container.streams.subtitles]
        self.aside: deque[Aside] = deque()
        self.damaged = self.left_out = 0
        self.ended = "the source ended"
        begin = self.container.start_time
        self.zero = None if begin is None else Fraction(begin, av.time_base)
        self._last: Fraction | None = None
        self._shift = Fraction(0)
        self._room = ASIDE
        self._reading = threading.Lock()

    def frames(self, clock: Clock) -> Generator[Frame, None, None]:
        """Frames as they arrive, which is reported to ``clock``. Those out of order, or damaged, are skipped; if the
        clock of the source was reset, times continue from the frame before."""
        interval = 1 / self.rate
        fit: Fitter | None = None
        self._reading.acquire()
        try:
            for picture in self._pictures():
                if fit is None:
                    check_size(picture.width, picture.height, self.name)
                    size, form = (picture.width, picture.height), picture.format.name
                    fit = Fitter(size, form, Fraction(self.video.time_base), self.note)
                    orientation, siting = orientation_of(picture), "center" if form.startswith("yuvj") else "left"
                pts = self._placed(picture, interval)
                if pts is None:
                    continue
                clock.arrived(pts)
                try:
                    yield frame_of(fit(picture, pts), siting, orientation, pts, interval)
                except ValueError as error:
                    raise InputError(f"{self.name}: {error}") from error
        finally:
            self._reading.release()

    def close(self) -> None:
        """Call when it is no longer needed. It stays open if another thread is still blocked in it: to close it would
        crash then."""
        if self._reading.acquire(blocking=False):
            self.container.close()

    def aside_until(self, time: Fraction | None) -> Iterator[Aside]:
        """The packets of the other streams up to a time (None: all), taken out of ``aside``."""
        while self.aside and (time is None or self.aside[0].time <= time):
            item = self.aside.popleft()
            self._room += item.packet.size
            yield item

    def _placed(self, picture: Any, interval: Fraction) -> Fraction | None:
        """The time of a picture; None if it is not after the one before."""
        last = self._last
        if picture.pts is None:
            pts = Fraction(0) if last is None else last + interval
        else:
            pts = picture.pts * Fraction(picture.time_base) + self._shift
        if last is not None and (pts < last - BACK or pts > last + (JUMP if self.live else PAUSE)):
            self._shift += last + interval - pts
            pts = last + interval
        if last is not None and pts <= last:
            return None
        self._last = pts
        return pts

    def _pictures(self) -> Iterator[Any]:
        try:
            for packet in self.container.demux(self.video, *self.others):
                if packet.stream.index != self.video.index:  # the last packet has no stream_index
                    self._put_aside(packet)
                    continue
                try:
                    yield from packet.decode()
                except av.error.InvalidDataError:
                    self.damaged += 1
        except av.error.ExitError:
            self.ended = f"the source was silent for {SILENT:g} s"
        except (av.error.FFmpegError, OSError) as error:  # the camera was unplugged, the connection is gone
            self.ended = f"the source broke off ({getattr(error, 'strerror', None) or error})"

    def _put_aside(self, packet: Any) -> None:
        if packet.pts is None or not packet.size:
            return
        time = packet.pts * Fraction(packet.time_base) + self._shift
        if self.live and self._last is not None and abs(time - self._last) > JUMP:
            self.left_out += 1  # after a reset of the clock that the pictures have not reached yet
            return
        while self._room < packet.size and self.aside:  # none have been taken for long
            self._room += self.aside.popleft().packet.size
            self.left_out += 1
        self._room -= packet.size
        self.aside.append(Aside(time, packet))


def _opened(name: str, live: bool) -> Any:
    options = {"probesize": "1000000", "analyzeduration": "1000000"} if live or name == "-" else {}
    address = "pipe:0" if name == "-" else name
    scheme = name.split("://")[0]
    if scheme in ("rtsp", "rtmp"):  # with ?listen, as for tcp, the sender connects to us
        listens, address = address.endswith("?listen"), address.removesuffix("?listen")
        if scheme == "rtsp":
            options |= {"rtsp_flags": "listen", "listen_timeout": DAY} if listens else {"rtsp_flags": "prefer_tcp"}
        elif listens:
            options["listen"] = "1"
    try:
        return av.open(
            address,
            format="v4l2" if name.startswith("/dev/video") else None,
            options=options,
            timeout=(None, SILENT) if live else None,
            metadata_errors="ignore",
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error

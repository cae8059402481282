"""When each packet of a file is presented, found once, for picture and sound together.

Timestamps cannot be used as they are, for three reasons. In recordings that were concatenated (`cat a.mpg b.mpg`, a
recorder that restarts, a clock that wraps) they start over in mid-file: these are split into pieces, which are put end
to end. AVI, like others without composition offsets, stores decode times: the pictures are shown at these times, but in
another order. And edit lists hide packets that are only there to be decoded.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = ["Clock", "Order", "Piece", "Presentation", "Track", "join"]

BACK = Fraction(1, 2)  # seconds: a larger step back starts a new piece, a smaller one is a repeated timestamp;
BACK_MPEG = Fraction(1, 100)  # the same for MPEG streams, where concatenation is common
AHEAD = Fraction(10)  # the same forward, in containers whose clock may be reset (ffmpeg's dts_delta_threshold)
PAUSE = Fraction(1, 2)  # seconds: a larger step forward is not the normal distance of two pictures
ALIKE = Fraction(2)  # seconds by which the jumps of picture and sound at one joint may differ
OUTLASTS = Fraction(1, 4)  # seconds: sound commonly outlasts the picture by a frame
WRAP = Fraction(2**33, 90000)  # seconds: the period of MPEG's clock
MPEG = {"mpegts", "mpeg"}  # libavformat's names of containers without a header, whose clock may be reset
DECODE_TIMES = {"avi"}  # containers that only count frames; presentation times are libavformat's guess


class Piece(NamedTuple):
    """A part of the file with one clock: timestamps of its pictures, from ``first`` to ``last``, and the ``shift`` to
    add to them, in seconds."""

    first: Fraction
    last: Fraction
    shift: Fraction


class Clock:
    """Follows the timestamps of one stream, packet by packet in file order, through the pieces of a recording, from
    piece number ``at`` on."""

    def __init__(self, presentation: Presentation, at: int = 0) -> None:
        self._pieces, self._back = presentation.pieces, presentation.back
        self.at = at
        self._last: Fraction | None = None

    def shift(self, packet: Any, time_base: Fraction) -> Fraction:
        """What to add to the times of the next packet, in seconds."""
        if packet.dts is None:  # the timestamp that never decreases within a piece
            return self._pieces[self.at].shift
        stamp = packet.dts * time_base
        step = Fraction(0) if self._last is None else stamp - self._last
        if len(self._pieces) > 1 and not -self._back < step < AHEAD:
            # a clock that goes back was reset; one that jumps ahead may just have paused
            candidates = range(self.at + (step < 0), len(self._pieces))
            self.at = min(candidates, key=lambda k: _distance(stamp, self._pieces[k]), default=self.at)
        self._last = stamp
        return self._pieces[self.at].shift


def _distance(stamp: Fraction, piece: Piece) -> Fraction:
    return max(piece.first - stamp, stamp - piece.last, Fraction(0))


class Track:
    """What a scan finds out about one stream, packet by packet in file order; timestamps in its ``time_base``."""

    def __init__(self, time_base: Fraction, container: str) -> None:
        self.time_base = time_base
        self.no_header = bool(MPEG & set(container.split(",")))
        self.back = BACK_MPEG if self.no_header else BACK
        self.unstamped = 0  # packets without a timestamp
        self.counts_time = bool(DECODE_TIMES & set(container.split(",")))
        self.pieces: list[_Stamps] = []
        self.jumps: list[Fraction] = []  # seconds, one for each piece after the first
        self.damaged: list[Fraction] = []  # times of packets flagged as corrupt, in seconds
        self.start: Fraction | None = None  # of the first packet that is presented
        self.end = Fraction(0)  # of the last one, including hidden ones, by the file's own clock
        self.length = Fraction(0)  # from the first to the last one, likewise
        self.torn = False  # the last packet is truncated
        self._first: Fraction | None = None
        self._last: int | None = None
        self._since_damage = 3  # packets since the last corrupt one, itself included

    def add(self, packet: Any) -> None:
        dated = packet.pts is not None and not self.counts_time
        stamp = packet.pts if dated else packet.dts
        if stamp is None:
            self.unstamped += packet.size > 0
            return
        known = packet.dts is not None and self._last is not None
        step = (packet.dts - self._last) * self.time_base if known else Fraction(0)
        if (step <= -self.back or step > PAUSE) and self._since_damage <= 2:
            self.damaged.pop()  # MPEG-TS flags a joint, or a pause, as a loss
            self._since_damage = 3
        if not self.pieces or not -self.back < step < AHEAD:
            if self.pieces:
                self.jumps.append(step)
            self.pieces.append(_Stamps())
        if packet.dts is not None:
            self._last = packet.dts
        self.end = max(self.end, (stamp + (packet.duration or 0)) * self.time_base)
        if self._first is None:
            self._first = stamp * self.time_base
        self.length = self.end - self._first
        self._since_damage += 1
        if packet.is_corrupt:
            self.damaged.append(stamp * self.time_base)
            self._since_damage = 1
        if packet.size and not packet.is_discard:
            if self.start is None:
                self.start = stamp * self.time_base
            self.pieces[-1].add(stamp, dated=dated, lasts=packet.duration or 0, key=packet.is_keyframe)

    def finish(self) -> None:
        """To be called after the last packet. A recording that was cut off in mid-picture is otherwise whole."""
        if self._since_damage <= 2:
            self.damaged.pop()
            self._since_damage = 3
            self.torn = True


class _Stamps:
    """The pictures of one piece. If only some packets have a presentation time, as when each field is a packet, those
    are the pictures; if none has, the decode times are used instead."""

    def __init__(self) -> None:
        self.dated, self.undated, self.keys = array("q"), array("q"), array("q")  # eight bytes each: a day still fits
        self.lasts = {True: (0, 0), False: (0, 0)}  # by kind (dated or not), the latest timestamp and its duration
        self.in_order = True

    def add(self, stamp: int, *, dated: bool, lasts: int, key: bool) -> None:
        stamps = self.dated if dated else self.undated
        if stamps:
            self.in_order &= stamp >= stamps[-1]
            self.lasts[dated] = max(self.lasts[dated], (stamp, lasts))
        else:
            self.lasts[dated] = (stamp, lasts)
        stamps.append(stamp)
        if key:
            self.keys.append(stamp)

    @property
    def shown(self) -> array[int]:
        return self.dated or self.undated

    @property
    def end(self) -> int:
        stamp, lasts = self.lasts[bool(self.dated)]
        return stamp + lasts

    @property
    def duration(self) -> int:
        """Of the last picture; 0 if the container does not say."""
        return self.lasts[bool(self.dated)][1]


class Presentation(NamedTuple):
    """The pictures of a file: their distinct ``times`` in order, in the time base; the ``keys`` among them from which
    decoding can begin; the duration of the last (0: unknown); the pieces of the file; whether any packet is ``dated``
    with a presentation time (then those without have no picture of their own); and whether the times are
    ``decode_times``, so that the k-th picture shown has the k-th of them. Decode times that step ``back`` by so many
    seconds start a new piece."""

    times: array[int]
    keys: array[int]
    last_duration: int
    pieces: tuple[Piece, ...]
    dated: bool
    decode_times: bool
    back: Fraction = BACK


def join(video: Track, sound: Sequence[Track]) -> Presentation:
    """Put the pieces of a scanned video stream end to end. Its sound tells a clock that was reset from a camera that
    paused; where it outlasts the picture, the next piece begins after it."""
    times, keys = array("q"), array("q")
    pieces: list[Piece] = []
    runs = _runs(video, sound)
    shift = 0
    heard = [track for track in sound if len(track.pieces) == len(runs)]
    for number, run in enumerate(runs):
        shown = [stamp for part in run for stamp in part.shown]
        if not shown:
            continue
        first, last = min(shown), max(shown)
        if times:
            wrap = round(WRAP / video.time_base)
            following = times[-1] + _usual_step(shown if len(shown) > 1 else times)
            ends = [int(track.pieces[number - 1].end * track.time_base / video.time_base) + shift for track in heard]
            if max(ends, default=0) - following > OUTLASTS / video.time_base:
                following = max(ends)
            wrapped = abs(following - first - shift - wrap) * video.time_base < AHEAD  # not reset
            shift = shift + wrap if wrapped else following - first
        pieces.append(Piece(first * video.time_base, last * video.time_base, shift * video.time_base))
        times.extend(sorted({stamp + shift for stamp in shown if not times or stamp + shift > times[-1]}))
        keys.extend(sorted(stamp + shift for part in run for stamp in part.keys))
    last_duration = runs[-1][-1].duration if runs else 0
    ordered = all(part.in_order for run in runs for part in run)
    whole = tuple(pieces) or (Piece(Fraction(0), Fraction(0), Fraction(0)),)
    dated = any(part.dated for run in runs for part in run)
    return Presentation(times, keys, last_duration, whole, dated, ordered, video.back)


def _runs(video: Track, sound: Sequence[Track]) -> list[list[_Stamps]]:
    """The pieces of the video, rejoined where the clock went on and only the picture paused. The clock did not go on
    where the next jump undoes this one: there the timestamps between are wrong."""
    runs: list[list[_Stamps]] = [[piece] for piece in video.pieces[:1]]
    for number, (jump, piece) in enumerate(zip(video.jumps, video.pieces[1:], strict=True)):
        heard = [any(abs(jump - other) < ALIKE for other in track.jumps) for track in sound]
        undone = any(abs(jump + other) < ALIKE for other in video.jumps[max(0, number - 1) : number + 2])
        anew = jump < 0 or undone or (video.no_header and (any(heard) or not heard))
        if anew:
            runs.append([piece])
        else:
            runs[-1].append(piece)
    return runs


def _usual_step(stamps: Sequence[int]) -> int:
    steps = sorted(after - before for before, after in pairwise(sorted(set(stamps))))
    return steps[len(steps) // 2] if steps else 1


class Order:
    """Gives each decoded picture its time, if the file's timestamps are decode times.

    Packets are fed in file order with their timestamps; pictures come out in display order, each identified by its
    packet. The next one gets the earliest timestamp that is left. A packet that gave no picture must not delay later
    ones: no picture is shown more than ``depth`` packets (the decoder's reorder depth) before its turn, so timestamps
    older than that are dropped.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._left: list[Fraction] = []
        self._fed: dict[int, Fraction] = {}

    def feed(self, packet: int, stamp: Fraction) -> None:
        self._fed[packet] = stamp
        heapq.heappush(self._left, stamp)

    def time(self, packet: int) -> Fraction | None:
        """Of the next picture, which came from ``packet``; None if there are more pictures than packets."""
        earliest = self._fed.pop(packet - self._depth, None)
        while self._left and earliest is not None and self._left[0] < earliest:
            heapq.heappop(self._left)
        return heapq.heappop(self._left) if self._left else None

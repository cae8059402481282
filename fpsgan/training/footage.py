"""What a video offers for training: windows of new pictures at equal distances in time, and those frames again as RGB.

`analyse` goes through a video once, in order, and finds the windows; `Reader` fetches their frames. A window has no cut
inside, no gap and no repeat. Repeats with a pattern are padding: 30 frames a second stored as 60, two of three, 24 in
60. There the new pictures stand at equal distances although their times of display do not, so the repeats are dropped
and the rate is corrected. Nothing here writes anything.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import InputError
from fpsgan.interpolator import flow_prior
from fpsgan.stages.scenes import SceneDetector
from fpsgan.stages.timeline import Relation
from fpsgan.video.container import open_container
from fpsgan.video.decode import decode
from fpsgan.video.frame import MATRICES, Frame, code_point
from fpsgan.video.probe import VideoInfo

__all__ = ["LOOK", "Footage", "Reader", "Window", "analyse", "blockiness", "cadence", "is_rate"]

Image = NDArray[np.uint8]  # [H,W,3] RGB
Grey = NDArray[np.uint8]  # [H,W]

SMALL = 360  # px, the short side of the pictures that are looked at
COLUMNS = 32  # cells of a motion grid along the long side
LOOK = (16, 9)  # px, of the thumbnail that tells a frame from others
BASELINE = Fraction(1, 30)  # s between the frames whose motion is measured: at 240 fps neighbours hardly differ
VISIBLE = 1.5  # codes, mean: less change over that time does not count as motion
LONGEST_SHOT = 4096  # frames kept in mind at once; a longer shot is taken in pieces
EVENNESS = Fraction(1, 4)  # of a frame: how far a step may be off a whole number of frames (phones write such times)
AHEAD = Fraction(2)  # s: frames that lie no further on are reached by decoding, others by seeking
UNLIKE = 6.0  # codes, rms: another frame, not another conversion of the same

# Frames stored per new picture where a rate was padded: 2 is 30 in 60, 5/2 is 24 in 60 (3:2 pulldown), 3/2 is two of
# three, 5/4 is 24 in 30, 6/5 is 25 in 30, 12/5 is 25 in 60, 24/5 is 25 in 120; 4 to 10 are 24 to 60 in 120 to 240.
CADENCES = (
    *(Fraction(1), Fraction(6, 5), Fraction(5, 4), Fraction(4, 3), Fraction(3, 2), Fraction(2), Fraction(12, 5)),
    *(Fraction(5, 2), Fraction(3), Fraction(4), Fraction(24, 5), Fraction(5), Fraction(8), Fraction(10)),
)


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive new pictures of one shot, at equal distances in time.

    `numbers` count the frames as decode() yields them, repeats included; `times` are their pts. `speed` is the motion
    in px of the source per second, by cells of the picture (float32 [rows, columns]). `look` is a luma thumbnail of
    the first frame, uint8 [9,16]. `bits`: per pixel and picture, in the file; 0 where the file does not tell.
    `blocks`: see `blockiness`.
    """

    numbers: tuple[int, ...]
    times: tuple[Fraction, ...]
    rate: Fraction  # new pictures per second
    speed: NDArray[np.float32]
    look: Grey
    bits: float
    blocks: float


@dataclass
class Footage:
    """What `analyse` found in a file. `times`: pts of all frames, in seconds. `rejected`: seconds by reason
    ("repeated", "short", "slow"). `best_rate`: of the stretches, those rejected as slow included. `damage`: what the
    decoder had to bridge."""

    windows: list[Window] = field(default_factory=list)
    times: array[float] = field(default_factory=lambda: array("d"))
    rejected: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    best_rate: Fraction = Fraction(0)
    cuts: int = 0
    damage: list[str] = field(default_factory=list)

    def reject(self, reason: str, seconds: Fraction | float) -> None:
        self.rejected[reason] += float(seconds)


@dataclass
class _Shot:
    """New pictures since the last cut or gap; one entry each."""

    numbers: list[int] = field(default_factory=list)
    times: list[Fraction] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # in stored frames
    changes: list[float] = field(default_factory=list)  # to the picture before, mean, in codes
    looks: list[Grey] = field(default_factory=list)
    blocks: list[float] = field(default_factory=list)
    speeds: list[NDArray[np.float32]] = field(default_factory=list)
    latest: Grey | None = None
    anchor: Grey | None = None  # what the next motion is measured from
    anchored: Fraction = Fraction(0)


def is_rate(rate: Fraction, least: Fraction) -> bool:
    """Whether a rate reaches the least; 59.94 passes for 60."""
    return rate >= least * Fraction(199, 200)


def analyse(
    info: VideoInfo, length: int, min_rate: Fraction, on_frame: Callable[[int], None] = lambda number: None
) -> Footage:
    """Go through a video once and find its windows of `length` pictures, one after the other, none sharing a frame.

    Stretches whose true rate is below `min_rate` are rejected as "slow". Damaged places are bridged and split
    stretches. Memory grows by 8 bytes a frame and some kilobytes a window. InputError if the video cannot be read.
    """
    found = Footage()
    sizes = _packet_sizes(info)
    detector = SceneDetector()
    shot = _Shot()
    for number, frame in enumerate(decode(info, conceal=True, report=found.damage.append)):
        found.times.append(float(frame.pts))
        full = frame.luma
        luma = _small(full)
        relation = detector.relate(luma)
        on_frame(number)
        if shot.times and relation is Relation.HELD:
            found.reject("repeated", frame.duration)
            continue
        step = 0
        if shot.times:
            exact = (frame.pts - shot.times[-1]) * info.frame_rate
            step = max(1, round(exact))
            found.cuts += relation is Relation.CUT
            uneven = abs(exact - step) > EVENNESS or step > 2 * CADENCES[-1]
            if relation is Relation.CUT or uneven or len(shot.times) >= LONGEST_SHOT:
                _close(shot, info, length, min_rate, sizes, found)
                shot, step = _Shot(), 0
        shot.numbers.append(number)
        shot.times.append(frame.pts)
        shot.places.append(shot.places[-1] + step if shot.places else 0)
        shot.changes.append(0.0 if shot.latest is None else float(cv2.norm(luma, shot.latest, cv2.NORM_L1)) / luma.size)
        shot.looks.append(_thumbnail(luma))
        shot.blocks.append(blockiness(full) if len(shot.times) % 8 == 1 else shot.blocks[-1])
        shot.latest = luma
        _measure(shot, luma, full.shape[0] / luma.shape[0])
    _close(shot, info, length, min_rate, sizes, found)
    return found


def _small(luma: Grey) -> Grey:
    factor = SMALL / min(luma.shape)
    if factor >= 1:
        return luma
    size = (max(16, round(luma.shape[1] * factor)), max(16, round(luma.shape[0] * factor)))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)


def _thumbnail(luma: Grey) -> Grey:
    return np.asarray(cv2.resize(luma, LOOK, interpolation=cv2.INTER_AREA), np.uint8)


def _measure(shot: _Shot, luma: Grey, enlarged: float) -> None:
    """Motion since the anchor, once enough time has passed, for all pictures since then."""
    if shot.anchor is None:
        shot.anchor, shot.anchored = luma, shot.times[-1]
        return
    passed = shot.times[-1] - shot.anchored
    if passed < BASELINE * Fraction(9, 10) or min(luma.shape) < 16:
        return
    flow, _ = flow_prior(shot.anchor, luma)
    speed = np.hypot(flow[0], flow[1]) * np.float32(enlarged / float(passed))
    cell = max(luma.shape) / COLUMNS
    size = (max(1, round(luma.shape[1] / cell)), max(1, round(luma.shape[0] / cell)))
    grid = np.array(cv2.resize(speed, size, interpolation=cv2.INTER_AREA), np.float32)
    change = np.asarray(cv2.absdiff(luma, shot.anchor), np.float32)
    grid[cv2.resize(change, size, interpolation=cv2.INTER_AREA) < VISIBLE] = 0  # flow in a clear sky is a guess
    shot.speeds += [grid] * (len(shot.times) - len(shot.speeds))
    shot.anchor, shot.anchored = luma, shot.times[-1]


def _close(
    shot: _Shot, info: VideoInfo, length: int, min_rate: Fraction, sizes: tuple[Any, Any], found: Footage
) -> None:
    """Turn a finished shot into windows."""
    if shot.speeds:  # the last few pictures are too near the end for a measurement of their own
        shot.speeds += [shot.speeds[-1]] * (len(shot.times) - len(shot.speeds))
    taken = 0
    for begin, end, per_picture in cadence(shot.places, shot.changes, length) if shot.speeds else []:
        rate = info.frame_rate / per_picture
        count = (end - begin) // length
        taken += count * length
        found.best_rate = max(found.best_rate, rate)
        if not is_rate(rate, min_rate):
            found.reject("slow", count * length / rate)
            continue
        first = begin + (end - begin - count * length) // 2
        for start in range(first, first + count * length, length):
            part = slice(start, start + length)
            times = tuple(shot.times[part])
            found.windows.append(
                Window(
                    numbers=tuple(shot.numbers[part]),
                    times=times,
                    rate=rate,
                    speed=np.median(np.stack(shot.speeds[part]), axis=0).astype(np.float32),
                    look=shot.looks[start],
                    bits=_bits(sizes, times[0], times[-1] + 1 / rate) / (length * info.width * info.height),
                    blocks=float(np.median(shot.blocks[part])),
                )
            )
    if taken < len(shot.times):
        found.reject("short", (len(shot.times) - taken) / info.frame_rate)


def cadence(places: Sequence[int], changes: Sequence[float], least: int) -> list[tuple[int, int, Fraction]]:
    """Stretches [begin, end) of evenly spaced pictures, each with the stored frames that there are to a picture.

    places: of new pictures, increasing, in stored frames; changes: how much each differs from the one before. From
    where one stretch ends, the known cadence that goes on for longest makes the next, if it lasts for `least` pictures.
    In a stretch no picture is a whole frame or more off even spacing: a single repeat, behind which a picture is
    missing, ends it. Nor do its pictures leap after their repeats, as they do where a recorder lost frames regularly
    and stored others twice in their place.
    """
    stretches = []
    begin = 0
    while begin < len(places):
        ends = [(_even_until(places, begin, candidate), -candidate) for candidate in CADENCES]
        for end, negative in sorted(ends, reverse=True):  # the longest; of equals the smallest cadence
            if end - begin < least:
                begin += 1
                break
            if not _leaps(places[begin:end], changes[begin:end]):
                stretches.append((begin, end, -negative))
                begin = end
                break
        else:
            begin += 1
    return stretches


def _even_until(places: Sequence[int], begin: int, per_picture: Fraction) -> int:
    lowest = highest = 0
    for k in range(begin + 1, len(places)):
        off = per_picture.denominator * (places[k] - places[begin]) - per_picture.numerator * (k - begin)
        lowest, highest = min(lowest, off), max(highest, off)
        if highest - lowest >= per_picture.denominator:
            return k
    return len(places)


def _leaps(places: Sequence[int], changes: Sequence[float]) -> bool:
    """Whether the picture changes more where its step in time is longer: then it was not evenly spaced."""
    steps = np.diff(places)
    if steps.min() == steps.max():
        return False
    long, short = (float(np.median(np.asarray(changes[1:])[steps == s])) for s in (steps.max(), steps.min()))
    return bool(long > short * np.sqrt(steps.max() / steps.min()))


def blockiness(luma: Grey) -> float:
    """How much more [H,W] uint8 changes from pixel to pixel across the borders of 8×8 blocks than inside them.

    The smaller of both directions, at the most conspicuous phase: about 1 without compression, above 1.5 where the
    blocks can be seen; 1 below 16 px. After Wang, Bovik and Evans, "Blind measurement of blocking artifacts in
    images", ICIP 2000.
    """
    if min(luma.shape) < 17:
        return 1.0
    ratios = []
    for near, far, axis in ((luma[:, :-1], luma[:, 1:], 0), (luma[:-1], luma[1:], 1)):
        profile = cv2.reduce(cv2.absdiff(near, far), axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        phases = profile[: len(profile) // 8 * 8].reshape(-1, 8).mean(0)
        # in flat pictures a tenth of a code is no step that could be seen
        ratios.append(float((phases.max() + 0.1) / (np.median(phases) + 0.1)))
    return min(ratios)


def _packet_sizes(info: VideoInfo) -> tuple[Any, Any]:
    """(times, bytes before each and in all) of the video's packets, in order of time; nothing where there are none."""
    if info.images:
        return np.zeros(0), np.zeros(1)
    ticks, sizes = array("q"), array("q")
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError):  # decode() tells of damage
        for packet in container.demux(container.streams[info.stream]):
            stamp = packet.dts if packet.pts is None else packet.pts
            if packet.size and stamp is not None:
                ticks.append(stamp)
                sizes.append(packet.size)
    order = np.argsort(np.array(ticks, np.int64), kind="stable")
    times = np.array(ticks, np.int64)[order] * float(info.time_base) - float(info.origin)
    return times, np.concatenate([[0], np.cumsum(np.array(sizes, np.int64)[order])])


def _bits(sizes: tuple[Any, Any], begin: Fraction, end: Fraction) -> float:
    times, total = sizes
    first, last = np.searchsorted(times, [float(begin) - 1e-3, float(end) - 1e-3])
    return 8.0 * float(total[last] - total[first])


# --- the frames again ----------------------------------------------------------------------------------------


class Reader:
    """Frames of an analysed video as RGB uint8 [H,W,3], quickest in increasing order.

    decord reads them where it is installed and agrees with what `analyse` saw (count and times of all frames, first
    picture); otherwise PyAV does, with the same result. `name` tells which. Of more than 8 bits the upper 8 are kept.
    """

    def __init__(self, info: VideoInfo, footage: Footage, *, use_decord: bool = True) -> None:
        self.info = info
        # behind a damaged place, or where times jump, only a reader that starts at the beginning finds the same frames
        self._seek = not footage.damage and not info.images
        self._frames: Iterator[Frame] | None = None
        self._at = Fraction(-1)
        self._decord: Any = None
        if use_decord and self._seek and footage.windows:
            self._decord = _open_decord(info, footage, self._first(footage.windows[0]), footage.windows[0].numbers[0])

    @property
    def name(self) -> str:
        return "PyAV" if self._decord is None else "decord"

    def read(self, window: Window) -> Iterator[Image]:
        """The frames of a window, one after the other. InputError if the file does not give them any more."""
        if self._decord is not None:
            first = self._decord[window.numbers[0]].asnumpy()
            if _alike(first, window.look):
                yield first
                for number in window.numbers[1:]:
                    yield self._decord[number].asnumpy()
                return
            self._decord = None  # it went to another place of the file than it was asked to
        yield self._first(window)
        for time in window.times[1:]:
            yield _rgb(self._frame(time))

    def _first(self, window: Window) -> Image:
        if self._seek:
            with contextlib.suppress(InputError):
                image = _rgb(self._frame(window.times[0]))
                if _alike(image, window.look):
                    return image
            self._seek, self._frames = False, None  # seeking leads astray in this file
        return _rgb(self._frame(window.times[0]))

    def _frame(self, time: Fraction) -> Frame:
        if self._frames is None or time <= self._at or (self._seek and time > self._at + AHEAD):
            start = time if self._seek else None
            self._frames = decode(self.info, start=start, conceal=True, report=lambda text: None)
        for frame in self._frames:
            self._at = frame.pts
            if frame.pts == time:
                return frame
            if frame.pts > time:
                break
        self._frames = None
        raise InputError(f"{self.info.path}: its frame at {float(time):.3f} s cannot be found again; has it changed?")


def _open_decord(info: VideoInfo, footage: Footage, expected: Image, number: int) -> Any:
    """decord's reader for the file, or None if it is not installed or shows other frames."""
    try:
        import decord
    except ImportError:  # no wheel for this platform
        return None
    decord.logging.set_level(decord.logging.FATAL)
    try:
        reader = decord.VideoReader(str(info.path.absolute()), ctx=decord.cpu(0))
        if len(reader) != len(footage.times):
            return None
        stamps = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        seen = reader[number].asnumpy()
    except (decord.DECORDError, RuntimeError, OSError):
        return None
    times = np.frombuffer(footage.times, np.float64)
    if np.abs((stamps - stamps[0]) - (times - times[0])).max() > 0.5 / float(info.frame_rate):
        return None
    return reader if seen.shape == expected.shape and int(cv2.absdiff(seen, expected).max()) <= 1 else None


def _alike(image: Image, look: Grey) -> bool:
    """Whether a picture has that thumbnail, but for gain and offset (full and limited range)."""
    thumbnail = _thumbnail(_small(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)))
    a, b = (part.astype(np.float64).ravel() - part.mean() for part in (thumbnail, look))
    gain = float(a @ b) / max(float(b @ b), 1e-9)
    return float(np.sqrt(((a - gain * b) ** 2).mean())) < UNLIKE


def _rgb(frame: Frame) -> Image:
    """As swscale converts it, and with it decord: for training it counts that both readers give the same."""
    picture: Any = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for plane, data in zip(picture.planes, frame.planes, strict=True):
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        codes = np.ascontiguousarray(data).view(np.uint8).reshape(data.shape[0], -1)
        lines[: codes.shape[0], : codes.shape[1]] = codes
    picture.colorspace = code_point(MATRICES, frame.color.matrix)
    picture.color_range = 2 if frame.color.full_range else 1
    return np.asarray(picture.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray(), np.uint8)

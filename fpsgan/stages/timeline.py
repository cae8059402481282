"""Which output frame is shown when, and between which two source frames it lies. Pure and exact.

Nothing here looks at pixels: frames need only ``pts`` and ``duration`` (Fractions, seconds), and each comes with its
relation to the frame before it, as found by ``scenes.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Generic, NamedTuple, Protocol, TypeVar

from fpsgan.errors import OptionError

__all__ = ["Relation", "Span", "longest_gap", "schedule", "target_rate"]

HIGHEST_RATE = 1000
FREEZE = 4  # a step of this many usual frame intervals, and over a quarter second, is a gap: not interpolated across

# A drawing repeated for no longer than this is animation "on twos, threes or fours" (⅛ s is the last of four repeats
# at 24 fps): its motion is spread over the whole interval. One that stays longer is a still: it holds, then moves.
LONGEST_DRAWING = Fraction(1, 8)


class Relation(enum.Enum):
    """How a frame relates to the one before it."""

    MOTION = "motion"  # the same scene, moved on
    HELD = "held"  # the same picture again
    CUT = "cut"  # another scene


class Timed(Protocol):
    @property
    def pts(self) -> Fraction: ...
    @property
    def duration(self) -> Fraction: ...


F = TypeVar("F", bound=Timed)


class Span(NamedTuple, Generic[F]):
    """Output frames between two source frames: one for each of ``times``, 0 ≤ t < 1 from frame0 to frame1.

    t = 0 is frame0 itself, untouched. ``frame1`` is None where there is no interpolation (a cut, a gap, a still, the
    end): then all times are 0. ``number`` is that of the first output, counted from 0 at the start of the job.
    """

    frame0: F
    frame1: F | None
    times: tuple[Fraction, ...]
    number: int = 0

    @property
    def seconds(self) -> float:
        """From frame0 to frame1, where there is one."""
        assert self.frame1 is not None
        return float(self.frame1.pts - self.frame0.pts)


def target_rate(
    source: Fraction, *, fps: Fraction | None = None, multi: Fraction | None = None, slowmo: Fraction | None = None
) -> tuple[Fraction, Fraction]:
    """(output frames per second, source seconds per output frame) for what the user asked.

    ``fps`` is the rate to reach and ``multi`` a factor on the source's rate: neither changes the duration. ``slowmo``
    plays everything that many times slower, at the rate of ``fps`` or else of the source. Raises OptionError for
    values that make no sense.
    """
    if fps is not None and multi is not None:
        raise OptionError("--fps and --multi both set the output rate: give one of them")
    for flag, value in (("--fps", fps), ("--multi", multi), ("--slowmo", slowmo)):
        if value is not None and value <= 0:
            raise OptionError(f"{flag} {value}: must be above 0")
    if slowmo is not None and slowmo < 1:
        raise OptionError(f"--slowmo {float(slowmo):g}: must be 1 or more (4 plays four times slower)")
    rate = fps if fps is not None else source * (multi if multi is not None else 1)
    step = 1 / rate / (slowmo or 1)
    if rate > HIGHEST_RATE or 1 / step > 64 * max(source, Fraction(HIGHEST_RATE)):
        raise OptionError(f"{float(rate):g} frames per second asked for: the most is {HIGHEST_RATE}")
    if rate < Fraction(1, 60):
        raise OptionError(f"{float(rate):g} frames per second asked for: the least is one a minute")
    return rate, step


def longest_gap(rate: Fraction) -> Fraction:
    """Seconds between two frames, in a video of this rate, up to which motion is assumed to be continuous."""
    return max(Fraction(1, 4), FREEZE / rate)


def schedule(
    frames: Iterable[tuple[F, Relation]],
    step: Fraction,
    *,
    longest_gap: Fraction,
    start: Fraction | None = None,
    exact_end: bool = True,
) -> Iterator[Span[F]]:
    """The stage: one output frame every ``step`` source seconds, from the first pts to the end of the last frame.

    ``frames``: (frame, relation to the one before it) with increasing pts. The output lasts as long as the input to
    within half a step. A frame whose time is an output time is passed on as t = 0. There is no interpolation across a
    cut, or a gap longer than ``longest_gap`` seconds (where the recording stood still or lost frames). With ``start``,
    the time of output 0, the frames may begin later: the outputs are those of the whole, from the first frame's time.
    Streaming: buffers no more than the repeats of one drawing, and one span for an ``exact_end``, without which the
    output may last up to a step longer.
    """
    held_back: Span[F] | None = None
    end = Fraction(0)
    index = 0

    def span(frame0: F, frame1: F | None, until: Fraction) -> Span[F]:
        nonlocal index
        assert start is not None
        first = index
        index = max(first, -((start - until) // step))  # the first output at or after `until`
        outputs = [start + k * step for k in range(first, index)]
        length = frame1.pts - frame0.pts if frame1 is not None else None
        times = tuple((out - frame0.pts) / length if length else Fraction(0) for out in outputs)
        return Span(frame0, frame1 if any(times) else None, times, first)

    def spans() -> Iterator[Span[F]]:
        nonlocal start, end, index
        drawing: list[F] = []  # a frame and its repeats so far
        still = False
        for frame, relation in frames:
            if not drawing:
                start = frame.pts if start is None else start
                index = -((start - frame.pts) // step)
            elif relation is Relation.CUT or frame.pts - drawing[-1].pts > longest_gap:
                yield from holds(drawing, frame.pts)
                drawing, still = [], False
            elif relation is Relation.HELD:
                if still or frame.pts - drawing[0].pts > LONGEST_DRAWING:
                    yield from holds(drawing, frame.pts)
                    drawing, still = [], True
            else:
                yield span(drawing[0], frame, frame.pts)
                drawing, still = [], False
            drawing.append(frame)
            end = frame.pts + frame.duration
        if drawing:
            yield from holds(drawing, end)

    def holds(drawing: list[F], until: Fraction) -> Iterator[Span[F]]:
        for frame, following in zip(drawing, [*(f.pts for f in drawing[1:]), until], strict=True):
            yield span(frame, None, following)

    for planned in spans():
        if planned.times and not exact_end:
            yield planned
        elif planned.times:
            if held_back is not None:
                yield held_back
            held_back = planned
    if held_back is not None:
        # drop the last output if it reaches past the end by more than half a step
        assert start is not None
        surplus = index > 1 and start + index * step > end + step / 2
        times = held_back.times[: len(held_back.times) - surplus]
        if times:
            yield held_back._replace(times=times)

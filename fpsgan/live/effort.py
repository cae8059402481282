"""How late outputs are, and therefore how much is done for the pictures."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import partial
from itertools import groupby
from typing import NamedTuple

from fpsgan.rendering import Engines
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent
from fpsgan.stages.timeline import Span
from fpsgan.video.frame import Frame

__all__ = ["Clock", "Effort", "Level", "Planned"]

# Shares of the delay: pictures no later than this count as calm; later than these, effort is lowered by a level, a pair
# is not generated since it would come too late, and nothing is generated for a while
CALM, LOWER, HOLD, REST = 1 / 2, 3 / 4, 4 / 5, 3 / 2
SETTLING = 1.0  # seconds from the last output of another level until a level is judged
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 64.0  # seconds of calm before a level is tried again; doubled each time it fails


class Clock:
    """When each moment of the source is due.

    For a ``live`` source that is when it arrives. Others can wait and be read ahead: they play at their own speed from
    their first frame. If a pipe is late, everything after it is due later; if a ``file`` is late, that is our fault.
    """

    def __init__(self, *, live: bool, file: bool) -> None:
        self._live, self._file = live, file
        self._start: float | None = None
        self._arrivals: deque[tuple[Fraction, float]] = deque()
        self._lock = threading.Lock()

    def arrived(self, pts: Fraction) -> None:
        with self._lock:
            when = time.monotonic()
            if not self._live:
                if self._start is None:
                    self._start = when - float(pts)
                elif not self._file:
                    self._start = max(self._start, when - float(pts))
                when = self._start + float(pts)
            self._arrivals.append((pts, when))

    def lag(self, pts: Fraction) -> float:
        """Seconds since the moment ``pts`` of the source was due; negative before that."""
        with self._lock:
            at, when = next((found for found in reversed(self._arrivals) if found[0] <= pts), self._arrivals[0])
            return time.monotonic() - when - float(pts - at)

    def come(self, pts: Fraction) -> bool:
        """Whether the source has sent the moment ``pts``."""
        with self._lock:
            return self._arrivals[-1][0] >= pts

    def put_off(self, seconds: float) -> None:
        """Everything is due so much later: the reader of the output has paused."""
        with self._lock:
            self._arrivals = deque((pts, when + seconds) for pts, when in self._arrivals)
            self._start = None if self._start is None else self._start + seconds

    def forget(self, pts: Fraction) -> None:
        """Nothing before ``pts`` will be needed again."""
        with self._lock:
            while len(self._arrivals) > 1 and self._arrivals[1][0] <= pts:
                self._arrivals.popleft()


class Level(NamedTuple):
    """A level of effort: whether frames are deblurred, which engines interpolate, if at all, and whether only every
    second output; ``fits``: whether this machine, if idle otherwise, is fast enough."""

    name: str
    engines: Engines
    deblurring: bool = False
    halved: bool = False
    generating: bool = True
    fits: bool = True


class Planned(NamedTuple):
    """The level of an output, whether it repeats the picture before to save time, and when that was decided."""

    level: str
    spared: bool
    when: float = 0.0


class Effort:
    """Moves through ``levels``, costliest first, as time allows: down when pairs are late, up after a calm period, a
    long one to a level that does not fit. It begins with the first that fits, or the last that generates. ``dropped``
    and ``not_deblurred`` count source frames for which there was no time; ``planned`` has the outputs to come, by
    number."""

    def __init__(self, levels: list[Level], clock: Clock, max_delay: float) -> None:
        self.levels, self.clock, self.max_delay = levels, clock, max_delay
        self.frames_in = self.dropped = self.not_deblurred = 0
        self.planned: dict[int, Planned] = {}
        last = max((k for k, level in enumerate(levels) if level.generating), default=0)
        self._at = min(last, next((k for k, level in enumerate(levels) if level.fits), last))
        self._pauses = [FIRST_PAUSE if level.fits or k == last else LONGEST_PAUSE for k, level in enumerate(levels)]
        self._calm_since = self._settled = time.monotonic()
        self._transit = 0.0  # seconds from a pair to its pictures, if those are not ahead of time

    @property
    def level(self) -> Level:
        return self.levels[self._at]

    def in_time(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Drop the frames that have waited for longer than the delay."""
        for frame in frames:
            self.frames_in += 1
            if self.clock.lag(frame.pts) > self.max_delay:
                self.dropped += 1
            else:
                yield frame

    def too_late_to_deblur(self, frame: Frame) -> bool:
        late = not self.level.deblurring or self.clock.lag(frame.pts) > LOWER * self.max_delay
        self.not_deblurred += late
        return late

    def judge(self, lag: float) -> None:
        """Choose the level, given that an output was made ``lag`` seconds after it was due."""
        now = time.monotonic()
        if lag > CALM * self.max_delay:
            self._calm_since = now
        lower = self.levels[self._at + 1 :][:1]
        late = lag > (LOWER if lower and lower[0].generating else REST) * self.max_delay
        if lower and late and now >= self._settled:
            self._pauses[self._at] = min(2 * self._pauses[self._at], LONGEST_PAUSE)
            self._at += 1
            self._settled = now + SETTLING
        elif self._at and now - self._calm_since >= self._pauses[self._at - 1]:
            self._at -= 1
            self._calm_since = now
            self._settled = now + SETTLING

    def interpolated(self, spans: Iterable[Span[Frame]], settings: InterpolationSettings) -> Iterator[Output]:
        """The interpolation stage, each run of spans at the level of its time. A halved level yields only outputs with
        even numbers."""
        spent = Spent()
        for level, run in groupby(self._judged(spans), lambda judged: judged[0]):
            at_level = (span for _, span in run)
            every = 2 if level.halved else 1
            now = dataclasses.replace(settings, rate=settings.rate / every)
            late = partial(self._too_late, every)
            for output in level.engines.between(_halved(at_level) if level.halved else at_level, now, spent, late):
                number = every * output.number
                lag = self.clock.lag(output.frame.pts)
                plan = self.planned.get(number)
                if output.generated and plan is not None:
                    self._transit = time.monotonic() - plan.when if lag > 0 else 0.0
                if level is self.level:
                    self.judge(lag)
                else:  # says nothing about the current level
                    self._settled = time.monotonic() + SETTLING
                yield output._replace(number=number)

    def _too_late(self, every: int, span: Span[Frame]) -> bool:
        """Whether a span has become too late while it was queued."""
        assert span.frame1 is not None
        late = self.clock.lag(span.frame1.pts) > self.max_delay
        if late:
            for number, t in enumerate(span.times, span.number):
                self.planned[every * number] = Planned(self.level.name, bool(t))
        return late

    def _judged(self, spans: Iterable[Span[Frame]]) -> Iterator[tuple[Level, Span[Frame]]]:
        for span in spans:
            level, now, held = self.level, time.monotonic(), False
            if span.frame1 is not None:
                expected = self.clock.lag(span.frame1.pts) + self._transit
                held = not level.generating or expected > HOLD * self.max_delay
            for number, t in enumerate(span.times, span.number):
                spared = (held and bool(t)) or (level.halved and number % 2 == 1)
                self.planned[number] = Planned(level.name, spared, now)
            if held:
                span = span._replace(frame1=None, times=(Fraction(0),) * len(span.times))
            yield level, span


def _halved(spans: Iterable[Span[Frame]]) -> Iterator[Span[Frame]]:
    """The outputs with even numbers, renumbered."""
    for span in spans:
        odd = span.number % 2
        if times := span.times[odd::2]:
            yield span._replace(
                frame1=span.frame1 if any(times) else None, times=times, number=(span.number + odd) // 2
            )

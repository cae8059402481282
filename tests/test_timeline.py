from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import pytest

from fpsgan.errors import OptionError
from fpsgan.stages.timeline import Relation, Span, longest_gap, schedule, target_rate

MOTION, HELD, CUT = Relation.MOTION, Relation.HELD, Relation.CUT
GAP = Fraction(1, 2)


class Tick(NamedTuple):
    pts: Fraction
    duration: Fraction
    name: str = ""


def source(rate: Fraction, count: int, relations: dict[int, Relation] | None = None) -> Iterator[tuple[Tick, Relation]]:
    for k in range(count):
        yield Tick(k / rate, 1 / rate, str(k)), (relations or {}).get(k, MOTION)


def positions(spans: list[Span]) -> list[Fraction]:
    """The source time each output shows: where linear motion between its two frames has got to."""
    return [
        span.frame0.pts + t * (span.frame1.pts - span.frame0.pts if span.frame1 is not None else 0)
        for span in spans
        for t in span.times
    ]


@pytest.mark.parametrize("rate_in", ["24", "30", "25", "24000/1001", "15", "60", "1000000/33333"])
@pytest.mark.parametrize("rate_out", ["60", "60000/1001", "50", "24", "120", "23"])
@pytest.mark.parametrize("count", [1, 2, 5, 97])
def test_every_output_shows_its_own_time(rate_in: str, rate_out: str, count: int) -> None:
    rate, out = Fraction(rate_in), Fraction(rate_out)
    spans = list(schedule(source(rate, count), 1 / out, longest_gap=GAP))
    shown = positions(spans)
    duration = count / rate
    assert abs(len(shown) / out - duration) <= 1 / out / 2 or len(shown) == 1
    last = (count - 1) / rate
    assert shown == [min(k / out, last) for k in range(len(shown))]  # exact: Fractions, no tolerance


def test_bar_position_for_tenths() -> None:
    """A bar that moves at constant speed lands exactly where it belongs for t = 0.1 … 0.9."""
    speed = 7
    spans = list(schedule(source(Fraction(10), 3), Fraction(1, 100), longest_gap=GAP))
    times = [t for span in spans[:1] for t in span.times]
    assert times == [Fraction(k, 10) for k in range(10)]
    for k, at in enumerate(positions(spans)[:20]):
        assert abs(speed * float(at) - speed * k / 100) < 1e-12


def test_frame_at_its_own_time_is_itself() -> None:
    spans = list(schedule(source(Fraction(24), 25), Fraction(1, 60), longest_gap=GAP))
    own = [span.frame0.name for span in spans for t in span.times if t == 0]
    # 24 → 60: every fifth output is every second source frame, and the last frame stays to the end
    assert own == [*(str(k) for k in range(0, 25, 2)), "24", "24"]


def test_variable_rate_uses_source_times() -> None:
    pts = [Fraction(0), Fraction(1, 30), Fraction(1, 10), Fraction(13, 100), Fraction(1, 5)]
    frames = [Tick(p, Fraction(1, 30), str(k)) for k, p in enumerate(pts)]
    spans = list(schedule(((f, MOTION) for f in frames), Fraction(1, 60), longest_gap=GAP))
    shown = positions(spans)
    assert shown == [min(Fraction(k, 60), pts[-1]) for k in range(14)]


def test_nothing_is_mixed_across_a_cut_or_a_gap() -> None:
    spans = list(schedule(source(Fraction(24), 6, {3: CUT}), Fraction(1, 120), longest_gap=GAP))
    for span in spans:
        assert not (span.frame0.name == "2" and span.frame1 is not None)
    frames = [Tick(Fraction(p), Fraction(1, 10)) for p in (0, 1, 3)]
    assert all(s.frame1 is None for s in schedule(((f, MOTION) for f in frames), Fraction(1, 10), longest_gap=GAP))


def test_a_step_of_just_the_longest_gap_still_moves() -> None:
    for pts, moves in ((GAP, True), (GAP + Fraction(1, 1000), False)):
        frames = [Tick(Fraction(0), GAP), Tick(pts, GAP)]
        spans = list(schedule(((f, MOTION) for f in frames), Fraction(1, 10), longest_gap=GAP))
        assert any(span.frame1 is not None for span in spans) is moves


@pytest.mark.parametrize(("rate", "gap"), [(24, Fraction(1, 4)), (16, Fraction(1, 4)), (8, Fraction(1, 2))])
def test_longest_gap_is_four_frames_and_a_quarter_second_at_least(rate: int, gap: Fraction) -> None:
    assert longest_gap(Fraction(rate)) == gap


def test_a_span_of_nothing_but_its_first_frame_asks_for_no_second() -> None:
    spans = list(schedule(source(Fraction(24), 5), Fraction(1, 24), longest_gap=GAP))
    assert [(span.frame1, span.times) for span in spans] == [(None, (0,))] * 5


def test_a_part_has_the_outputs_of_the_whole() -> None:
    """With ``start``, frames from the second half alone give the second half's outputs, under the same numbers."""
    step = Fraction(1, 60)
    whole = list(schedule(source(Fraction(24), 25), step, longest_gap=GAP))
    later = (pair for pair in source(Fraction(24), 25) if pair[0].pts >= Fraction(1, 2))
    part = list(schedule(later, step, longest_gap=GAP, start=Fraction(0)))
    assert part == [span for span in whole if span.frame0.pts >= Fraction(1, 2)]
    assert part[0].number == 30


@pytest.mark.parametrize(("held", "moves"), [(3, True), (4, False)])
def test_a_drawing_of_four_frames_moves_and_one_of_five_holds(held: int, moves: bool) -> None:
    """At 24 fps ⅛ s is the last of four."""
    relations = {k: HELD for k in range(40) if k % (held + 1)}
    spans = list(schedule(source(Fraction(24), 40, relations), Fraction(1, 24), longest_gap=GAP))
    assert (spans[0].times[1:] == tuple(Fraction(k, held + 1) for k in range(1, held + 1))) is moves


def test_drawings_on_twos_are_respaced_and_the_length_stays() -> None:
    relations = dict.fromkeys(range(1, 24, 2), HELD)
    spans = list(schedule(source(Fraction(24), 24, relations), Fraction(1, 48), longest_gap=GAP))
    moving = [span for span in spans if span.frame1 is not None]
    assert [(s.frame0.name, s.frame1.name) for s in moving[:2]] == [("0", "2"), ("2", "4")]
    assert moving[0].times == (0, Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
    assert sum(len(span.times) for span in spans) == 48


def test_a_long_still_holds_and_then_moves() -> None:
    relations = dict.fromkeys(range(1, 20), HELD)
    spans = list(schedule(source(Fraction(24), 24, relations), Fraction(1, 48), longest_gap=GAP))
    moving = [(s.frame0.name, s.frame1.name) for s in spans if s.frame1 is not None]
    assert moving[0] == ("19", "20")
    held = [s.frame0.name for s in spans for t in s.times if t == 0]
    assert held[:6] == ["0", "0", "1", "1", "2", "2"]  # the repeats themselves pass, untouched
    assert sum(len(span.times) for span in spans) == 48


def test_slow_motion_rate() -> None:
    rate, step = target_rate(Fraction(30), slowmo=Fraction(4))
    assert (rate, step) == (30, Fraction(1, 120))
    assert sum(len(s.times) for s in schedule(source(Fraction(30), 30), step, longest_gap=GAP)) == 120
    assert target_rate(Fraction(24000, 1001), multi=Fraction(2)) == (Fraction(48000, 1001), Fraction(1001, 48000))


@pytest.mark.parametrize(
    "asked",
    [{"fps": 0}, {"fps": -5}, {"fps": 100000}, {"multi": 0}, {"multi": 500}, {"slowmo": Fraction(1, 2)},
     {"fps": 60, "multi": 2}, {"fps": Fraction(1, 1000)}, {"slowmo": 10**9}],
)  # fmt: skip
def test_absurd_rates_are_refused(asked: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        target_rate(Fraction(30), **{name: Fraction(value) for name, value in asked.items()})


def test_the_bounds_themselves_are_allowed() -> None:
    for asked in ({"fps": Fraction(1, 60)}, {"fps": Fraction(1000)}, {"slowmo": Fraction(1)}):
        target_rate(Fraction(30), **asked)


def test_a_source_shorter_than_half_an_output_has_one_all_the_same() -> None:
    (span,) = schedule(source(Fraction(60), 1), Fraction(1, 10), longest_gap=GAP)
    assert (span.frame0.name, span.times) == ("0", (0,))


def test_an_empty_source_gives_nothing() -> None:
    assert list(schedule(iter(()), Fraction(1, 60), longest_gap=GAP)) == []

"""Near live: every moment has its frame, quality goes before time does, and a broken pipe is an end like another."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import MakeClip, raw_planes, video_times

from fpsgan import live as module
from fpsgan.errors import InputError, OptionError, OutputError
from fpsgan.interpolator import InterpolatorRunner
from fpsgan.live import StreamReport, _Clock, _pictures, stream
from fpsgan.options import Options
from fpsgan.stages.timeline import Span
from fpsgan.video.frame import Color, Frame, PixelFormat

OFF = Options(deblur="off", half=False)
COMMAND = [sys.executable, "-m", "fpsgan", "stream"]


def frame(number: int) -> Frame:
    planes = tuple(np.zeros(shape, np.uint8) for shape in ((32, 32), (16, 16), (16, 16)))
    return Frame(planes, PixelFormat.of("yuv420p"), Color(), Fraction(number, 10), Fraction(1, 10))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> tuple[_Clock, list[float]]:
    """One with max_delay 1 s on which frame k arrived at 100 + k/10 s, and what time it is."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = _Clock(1.0, StreamReport())
    for number in range(10):
        now[0] = 100 + number / 10
        clock.arrived(Fraction(number, 10))
    return clock, now


def test_a_file_is_doubled_at_its_own_speed(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=1, sound=False)
    seen: list[int] = []
    began = time.monotonic()
    report = stream(
        str(clip), str(tmp_path / "o.mkv"), options=OFF, max_delay=30, on_report=lambda now: seen.append(now.frames_out)
    )
    assert time.monotonic() - began >= 0.9 and seen
    times = video_times(tmp_path / "o.mkv")
    assert (report.frames_in, report.frames_out, report.generated, len(times)) == (10, 20, 9, 20)
    assert times[-1] - times[0] == pytest.approx(0.95, abs=2e-3) and report.fps == 20
    assert (report.held, report.dropped, report.ended) == (0, 0, "the source ended")
    assert 0.1 < report.latency <= report.latency_p95 <= report.latency_max < 30
    assert (report.width, report.height) == (96, 64)


def test_pipes_in_and_out(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=0.6, sound=False, encode=("-c:v", "ffv1", "-pix_fmt", "yuv420p"))
    words = ["-", "-o", "-", "--deblur", "off", "--multi", "1", "--max-delay", "30", "--json", "--quiet"]
    done = subprocess.run([*COMMAND, *words], input=clip.read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stderr)["frames_out"] == 6
    picture = io.BytesIO(done.stdout)
    assert picture.readline().startswith(b"YUV4MPEG2 W96 H64 F10:1 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED")
    for planes in raw_planes(clip):  # at its own rate nothing is changed
        assert picture.readline() == b"FRAME\n"
        assert picture.read(96 * 64 * 3 // 2) == b"".join(plane.tobytes() for plane in planes)
    assert not picture.read()


def test_a_broken_pipe_is_a_clean_end(make_clip: MakeClip) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=30, sound=False)
    words = [str(clip), "-o", "-", "--deblur", "off"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.read(20_000)
        job.stdout.close()
        assert job.stderr is not None
        said = job.stderr.read().decode()
        assert job.wait(20) == 0
    assert "the reader of the output went away" in said and len(said.strip().splitlines()) == 1


def test_damaged_packets_are_counted_and_the_rest_is_shown() -> None:
    class Packet:
        def __init__(self, number: int) -> None:
            self.number = number

        def decode(self) -> list[int]:
            if self.number in (1, 3):
                raise av.error.InvalidDataError(0, "damaged")
            return [self.number]

    class Container:
        def demux(self, video: object) -> list[Packet]:
            return [Packet(number) for number in range(5)]

    report = StreamReport()
    assert list(_pictures(Container(), None, report)) == [0, 2, 4] and report.damaged == 2


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_is_a_clean_end(make_clip: MakeClip) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=30, sound=False)
    words = [str(clip), "-o", "-", "--deblur", "off"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.read(1000)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=20)
    assert job.returncode == 0 and b"; stopped" in said


def test_what_is_too_slow_is_left_out_and_time_is_kept(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that takes twice the time there is: pictures are held, none is missing, and nothing piles up."""

    def slow(
        self: object, frame0: np.ndarray, frame1: np.ndarray, times: list[float], prior: object, sure: object = None
    ) -> list:
        time.sleep(0.2)
        return [frame0] * len(times)

    monkeypatch.setattr(InterpolatorRunner, "between", slow)
    monkeypatch.setattr(module, "_warm_up", lambda *_: None)
    clip = make_clip("c.mkv", rate="10", seconds=5, sound=False)
    report = stream(str(clip), str(tmp_path / "o.mkv"), options=OFF, max_delay=1.0)
    assert report.frames_out == len(video_times(tmp_path / "o.mkv")) >= 98
    assert report.held >= 10 and report.generated >= 10
    assert report.latency_p95 < 1.5  # the delay, and a little for a busy machine; unbounded, it would be 5 s by the end


def test_one_picture_that_takes_ages_does_not_stop_the_clock(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def stuck(
        self: object, frame0: np.ndarray, frame1: np.ndarray, times: list[float], prior: object, sure: object = None
    ) -> list:
        asked.append(1)
        time.sleep(2.5 if len(asked) == 3 else 0)
        return [frame0] * len(times)

    monkeypatch.setattr(InterpolatorRunner, "between", stuck)
    monkeypatch.setattr(module, "_warm_up", lambda *_: None)
    clip = make_clip("c.mkv", rate="10", seconds=4, sound=False)
    report = stream(str(clip), str(tmp_path / "o.mkv"), options=OFF, max_delay=0.8)
    assert report.frames_out == len(video_times(tmp_path / "o.mkv")) >= 78
    assert report.held >= 20 and report.latency_p95 < 1.3


def test_lag_and_dropping(clock: tuple[_Clock, list[float]]) -> None:
    late, now = clock
    assert late.lag(Fraction(9, 10)) == pytest.approx(0)
    assert late.lag(Fraction(85, 100)) == pytest.approx(0.05)
    now[0] = 101.45
    assert [f.pts for f in late.in_time(map(frame, range(10)))] == [Fraction(k, 10) for k in range(5, 10)]
    assert (late.report.frames_in, late.report.dropped) == (10, 5)
    late.forget(Fraction(7, 10))
    assert len(late.arrivals) == 3


def test_deblurring_rests_longer_every_time(clock: tuple[_Clock, list[float]]) -> None:
    late, now = clock
    assert not late.too_late_to_deblur(frame(9))
    now[0] += 0.3
    assert late.too_late_to_deblur(frame(9))
    for pause in (2.0, 4.0, 8.0):
        now[0] += pause - 0.01  # it rests, however punctual frames are now
        late.arrived(Fraction(int(now[0] * 10), 10))
        assert late.too_late_to_deblur(newest(late))
        now[0] += 0.02
        late.arrived(Fraction(int(now[0] * 10), 10) + 1)
        assert not late.too_late_to_deblur(newest(late))
        now[0] += 0.3
        assert late.too_late_to_deblur(newest(late))


def newest(clock: _Clock) -> Frame:
    """The frame that arrived last."""
    last = frame(0)
    return Frame(last.planes, last.format, last.color, clock.arrivals[-1][0], last.duration)


def test_late_spans_hold_and_keep_their_count(clock: tuple[_Clock, list[float]]) -> None:
    late, now = clock
    times = (Fraction(0), Fraction(1, 2))
    span = Span(frame(4), frame(5), times)
    now[0] = 100.9
    assert list(late.hold_late([span])) == [span]
    now[0] = 101.1
    assert list(late.hold_late([span])) == [Span(span.frame0, None, (Fraction(0), Fraction(0)))]
    assert late.report.held == 1
    now[0] = 101.6  # more than all of the delay: it rests, also where the next one is punctual
    assert [held.frame1 for held in late.hold_late([span])] == [None]
    late.arrived(Fraction(5, 10) + 2)
    on_time = Span(frame(24), frame(25), times)
    assert [held.frame1 for held in late.hold_late([on_time])] == [None]
    now[0] = 103.7
    late.arrived(Fraction(5, 10) + 2)
    assert list(late.hold_late([on_time])) == [on_time]


def test_mistakes_are_one_line(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=0.3, sound=False)
    (tmp_path / "text").write_text("no video in here")
    for source, target, more, kind, message in (
        ("none.mkv", "-", {}, InputError, "none.mkv: cannot be opened"),
        (str(tmp_path / "text"), "-", {}, InputError, "cannot be opened"),
        (str(clip), str(tmp_path / "no" / "o.mkv"), {}, OutputError, "cannot be written to"),
        (str(clip), "-", {"max_delay": 0.01}, OptionError, "--max-delay 0.01"),
    ):
        with pytest.raises(kind, match=message) as caught:
            stream(source, target, options=OFF, **more)
        assert "\n" not in str(caught.value)
